# SPDX-License-Identifier: Apache-2.0
"""How alike a spiking network will decide, said before it plays: from recorded states, and what theory adds.

Equal decisions are counted on held-out states and, where the recording tells how one state follows another, on those
that the network would meet by its own decisions. Theory says how it goes on with more steps: only states near a tie are
decided differently, so with the density p0 of the signed lead at 0 and the error eps of that lead ::

    1 - similarity = p0 * E|eps|

and eps has two parts: what the neurons' ranges cut off (and what rounded weights are off by), which stays, and what few
spikes leave out, which falls as a power of the steps (rate, staged) or by a factor per step (radix, digits). Both are
measured.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from snnfast.conversion.closed_loop import learn_dynamics, play
from snnfast.conversion.comparison import Answers, Comparison, ask_about, similarity_interval
from snnfast.conversion.hidden import (
    best_two,
    changed_weights,
    clipped_activations,
    lead,
    lowest_activations,
    made_with,
    original_units,
)
from snnfast.conversion.reading import read_network
from snnfast.conversion.rebuilding import bound_to_steps, rebuilt
from snnfast.conversion.scaling import Float64Array, activations
from snnfast.learning import Replay
from snnfast.network import SpikingNetwork
from snnfast.shares import between, percent
from snnfast.spec import MAX_TIMESTEPS, FloatArray, check_count

#: Shares of the states of which an error is told.
SHARES = (0.5, 0.9, 0.99, 1.0)
#: States this near a tie count as near, and at least so many of them.
NEAR, FEWEST = 0.1, 500

#: A wider interval than this either way, and a prediction says how many states would do.
_WIDE = 0.005

#: A model is believed if the original, acting in it, meets the counted similarity to within this, or the interval.
_OFF = 0.002

Growth = Literal["power", "factor"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputErrors:
    """How far a spiking network's outputs are from the policy's, in the policy's units.

    Attributes:
        outputs: per output the error that 50, 90, 99 and 100 % of the states stay below.
        lead: the same of the lead, the policy's best output less its second: what decides.
        typical_lead: the median lead, to compare with.
    """

    outputs: tuple[tuple[float, ...], ...]
    lead: tuple[float, ...]
    typical_lead: float

    def __str__(self) -> str:
        head = f"{'error of':<12}" + "".join(f"{f'{100 * share:g} % below':>14}" for share in SHARES)
        rows = [(f"output {i}", values) for i, values in enumerate(self.outputs)] + [("the lead", self.lead)]
        lines = [head, *(f"{name:<12}" + "".join(f"{value:>14.4g}" for value in values) for name, values in rows)]
        return "\n".join([*lines, f"half of the states have a lead below {self.typical_lead:.4g}"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimilarityPrediction:
    """What :func:`predict_similarity` says.

    Attributes:
        states, episodes: that it was counted on.
        similarity: share of equal decisions that is predicted: ``closed_loop`` if there is one, else ``counted``.
        interval: 95 %, of whole episodes resampled (states of one episode are alike), and at least Wilson's; of
            ``closed_loop`` with what the model gets wrong of the counted share added at either end.
        counted: the share on the states as they are, which are the original's.
        closed_loop: the share on the states that the network would meet by its own decisions, in a model of the
            recorded transitions; None where they do not make one that holds: see
            :mod:`snnfast.conversion.closed_loop`.
        theory: 1 - density * error; of the network without its early exit.
        density: of the policy's signed lead at 0, per unit of its outputs.
        error: mean size of the lead's error on states near a tie, in the policy's units.
        clipping_error: the part of it that the neurons' ranges make, and that stays however many steps there are.
        rounding_error: the part that weights on a grid make, and that stays as well; None without a grid. Weights that
            were calibrated have no such part: they make good what spikes are off by, and are wrong without those.
        timesteps: T of the network.
        growth: "power" if the other part falls with T as a power, "factor" if by a factor per step.
        exponent: the power (about 1 to 1.7 with rates), or the natural logarithm of the factor (1.1 with digits); None
            if there is nothing to fit: no error but the ranges', one that does not fall with the steps, or a network
            made for one number of steps only.
        outputs: errors of the outputs, all states.
        seen: whether the states are those that the conversion was made from: it is then too good to be a prediction.
    """

    states: int
    episodes: int
    similarity: float
    interval: tuple[float, float]
    counted: float
    closed_loop: float | None
    theory: float
    density: float
    error: float
    clipping_error: float
    rounding_error: float | None
    timesteps: int
    growth: Growth
    exponent: float | None
    outputs: OutputErrors
    seen: bool
    clipped: Float64Array = dataclasses.field(repr=False, compare=False)
    rest: Float64Array = dataclasses.field(repr=False, compare=False)

    def extrapolate(self, timesteps: int) -> float:
        """The similarity that theory expects of the same method with ``timesteps`` steps, and no early exit.

        Raises:
            TypeError, ValueError: if that is no number of steps, or this network could not be tried with others.
        """
        check_count("timesteps", timesteps, maximum=MAX_TIMESTEPS)
        if timesteps == self.timesteps:
            return self.theory
        if self.exponent is None:
            raise ValueError(
                "extrapolate needs a network that could be tried with fewer steps, and that they make worse: this one "
                "has no error but its ranges', or one that does not fall with the steps, or was made for one number of "
                "steps only"
            )
        if self.growth == "power":
            share = (timesteps / self.timesteps) ** -self.exponent
        else:
            share = math.exp(-self.exponent * (timesteps - self.timesteps))
        return _theory(self.density, self.clipped + share * self.rest)

    def as_dict(self) -> dict[str, Any]:
        """All attributes but the single states' errors, as plain JSON values."""
        kept = [f.name for f in dataclasses.fields(self) if f.repr]
        values = {name: getattr(self, name) for name in kept}
        return {**values, "interval": list(self.interval), "outputs": dataclasses.asdict(self.outputs)}

    def __str__(self) -> str:
        low, high = self.interval
        lines = [
            f"similarity {percent(self.similarity, 3)}, 95 % interval {between(self.interval, 3)} %",
            f"counted on {self.states:,} states of {self.episodes} episode{'s' * (self.episodes != 1)}: "
            f"{percent(self.counted, 3)}"
            + (
                ""
                if self.closed_loop is None
                else f"; on states that it would meet itself, as the recorded transitions tell: "
                f"{percent(self.closed_loop, 3)}"
            ),
            f"theory says {percent(self.theory, 3)}: the lead's density at 0 is {self.density:.4g}, its error "
            f"{self.error:.3g}, of which the neurons' ranges make {self.clipping_error:.3g}"
            + ("" if self.rounding_error is None else f", and weights on a grid {self.rounding_error:.3g}"),
        ]
        if self.exponent is not None:
            law = (
                f"as T to the power of -{self.exponent:.2f}"
                if self.growth == "power"
                else f"by a factor of {math.exp(self.exponent):.2f} per step"
            )
            further = (2 * self.timesteps) if self.growth == "power" else self.timesteps + 2
            lines.append(
                f"the rest of the error falls {law}; expected with T={further}: {percent(self.extrapolate(further), 3)}"
            )
        half = (high - low) / 2
        if half > _WIDE:
            enough = float(f"{self.states * (half / _WIDE) ** 2:.1e}")
            lines.append(
                f"the interval is wide: hold out about {enough:,.0f} states, in whole episodes from starts of their "
                f"own, for {100 * _WIDE:g} points either way"
            )
        if self.seen:
            lines.append(
                "these are the states that the conversion was made from, so this is better than other states will "
                "show: split_replay() holds some out"
            )
        return "\n".join([*lines, "", str(self.outputs)])


def predict_similarity(
    net: SpikingNetwork, policy: nn.Module, replay: Replay, *, seed: int = 1
) -> SimilarityPrediction:
    """Predict how often a converted network will decide like its policy, from recorded states alone.

    The states should be others than those that the conversion took its ranges and exit bounds from: another recording,
    or the second part of :func:`split_replay`. They are the original's own; a coarse spiking network acts differently,
    and meets others. Where the recorded transitions make a model that holds (CartPole's do), it is let act in that.

    Args:
        net: from :func:`snnfast.convert`.
        policy: the network that it was made from; it is asked anew.
        replay: held-out states; the interval tells whether there are enough.
        seed: of the interval.

    Returns:
        The prediction, with the errors of the outputs in the policy's units. Printing it gives it in words.

    Raises:
        TypeError, ValueError: if ``net`` was not converted, or ``policy`` or ``replay`` do not fit it.

    Source: for the theory: flips on both sides of a tie add up to p0 * E|eps|; see docs/conversion.md.
    """
    settings = made_with(net)
    held_out = ask_about(net, policy, replay, seed)
    answers = held_out.ask(net)
    counted = answers.comparison()
    closed_loop, interval = _closed_loop(net, policy, replay, counted, seed)
    of = best_two(held_out.outputs)
    ahead = lead(held_out.outputs, of)
    near = np.argsort(ahead, kind="stable")[: max(round(NEAR * len(ahead)), min(FEWEST, len(ahead)))]
    width = float(ahead[near].max())
    # The lead has no sign; half of its density at 0 is that of the signed one.
    density = len(near) / (2 * width * len(ahead)) if width > 0 else 0.0
    observations, of, ahead = replay.observations.numpy()[near], of[near], ahead[near]
    clipped = lead(clipped_activations(net.spec, observations)[-1] * original_units(net), of) - ahead
    changed = np.zeros_like(clipped)
    if changed_weights(net):
        unclipped = clipped_activations(net.spec, observations, lowest_activations(net))[-1]
        changed = lead(unclipped * original_units(net), of) - ahead
    rounded = net.conversion.get("weight_grid") is not None and settings["calibrate"] is None
    whole = rebuilt(net)
    rest = _lead_of(whole, observations, of) - ahead - clipped
    growth: Growth = "power" if settings["method"] in ("rate", "staged") else "factor"
    error = clipped + rest
    return SimilarityPrediction(
        states=counted.states,
        episodes=len(held_out.lengths),
        similarity=counted.similarity if closed_loop is None else closed_loop,
        interval=interval,
        counted=counted.similarity,
        closed_loop=closed_loop,
        theory=_theory(density, error),
        density=density,
        error=float(np.abs(error).mean()),
        clipping_error=float(np.abs(clipped - changed).mean()),
        rounding_error=float(np.abs(changed).mean()) if rounded else None,
        timesteps=net.timesteps,
        growth=growth,
        exponent=_exponent(net, growth, rest, observations, of, ahead + clipped),
        outputs=output_errors(answers),
        seen=_seen(net, replay),
        clipped=clipped,
        rest=rest,
    )


def output_errors(answers: Answers) -> OutputErrors:
    """Quantiles of a network's output errors on held-out states."""
    wanted = answers.held_out.outputs
    of = best_two(wanted)
    ahead = lead(wanted, of)
    each = np.quantile(np.abs(answers.outputs - wanted), SHARES, axis=0)
    return OutputErrors(
        outputs=tuple(tuple(float(x) for x in column) for column in each.T),
        lead=tuple(float(x) for x in np.quantile(np.abs(lead(answers.outputs, of) - ahead), SHARES)),
        typical_lead=float(np.median(ahead)),
    )


def _closed_loop(
    net: SpikingNetwork, policy: nn.Module, replay: Replay, counted: Comparison, seed: int
) -> tuple[float | None, tuple[float, float]]:
    """The similarity where the network acts itself, if a model of the transitions holds, and the interval."""
    none = None, counted.similarity_interval
    lengths = replay.metadata.get("episode_lengths") or []
    observations = replay.observations.numpy()
    dynamics = learn_dynamics(observations, replay.actions.numpy(), lengths, net.n_out)
    if dynamics is None:
        return none
    layers = read_network(policy)

    def spiking(states: FloatArray) -> npt.NDArray[np.int64]:
        decisions: npt.NDArray[np.int64] = net(states).argmax(axis=1)
        return decisions

    def original(states: FloatArray) -> npt.NDArray[np.int64]:
        decisions: npt.NDArray[np.int64] = activations(layers, states)[-1].argmax(axis=1)
        return decisions

    first, length = observations[np.cumsum([0, *lengths[:-1]])], max(lengths)
    off = abs(float(play(dynamics, first, length, original, spiking, seed).mean()) - counted.similarity)
    low, high = counted.similarity_interval
    if off > max(high - low, _OFF):
        return none
    alike = play(dynamics, first, length, spiking, original, seed)
    low, high = similarity_interval(alike.ravel() > 0, [alike.shape[1]] * len(alike), seed)
    return float(alike.mean()), (max(0.0, low - off), min(1.0, high + off))


def _lead_of(network: SpikingNetwork, observations: npt.NDArray[np.float32], of: npt.NDArray[np.int64]) -> Float64Array:
    outputs = network(torch.from_numpy(observations).to(network.device), original_units=True)
    return lead(outputs.cpu().numpy(), of)


def _theory(density: float, error: Float64Array) -> float:
    return max(0.0, 1.0 - density * float(np.abs(error).mean()))


def _exponent(
    net: SpikingNetwork,
    growth: Growth,
    rest: Float64Array,
    observations: npt.NDArray[np.float32],
    of: npt.NDArray[np.int64],
    wanted: Float64Array,
) -> float | None:
    """How fast the part of the error falls that more steps mend: a line through its logarithm at three T."""
    steps = net.timesteps
    fewer = [steps // 2, steps // 4] if growth == "power" else [steps - 2, steps - 4]
    points = [(steps, float(np.abs(rest).mean()))]
    for t in fewer:
        if t >= 2 and bound_to_steps(net.conversion["settings"]) is None:
            other = _lead_of(rebuilt(net, t), observations, of) - wanted
            points.append((t, float(np.abs(other).mean())))
    x = np.array([math.log(t) if growth == "power" else t for t, _ in points], dtype=np.float64)
    y = np.array([y for _, y in points])
    if len(points) < 2 or not (y > 0).all():
        return None
    exponent = float(-np.polyfit(x, np.log(y), 1)[0])
    # Steps may be so few that more of them do not help yet; a law fitted there would have the error grow for ever.
    return exponent if exponent > 0 else None


def _seen(net: SpikingNetwork, replay: Replay) -> bool:
    """Whether the conversion's notes say that it was made from these states."""
    noted = net.conversion.get("replay") or {}
    names = ("env_id", "seed", "size", "episode_lengths", "policy_sha256")
    return (
        bool(replay.metadata)
        and all(noted.get(name) == replay.metadata.get(name) for name in names)
        and noted.get("states") == len(replay)
    )
