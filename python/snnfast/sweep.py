# SPDX-License-Identifier: Apache-2.0
"""Many conversions of one policy side by side: how alike each decides, in how many steps and spikes.

Similarity is counted on held-out states: states of the same policy that no conversion has seen. A sweep without playing
takes seconds; with ``episodes`` every network also plays, and is compared on the states that it meets itself.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from tqdm.auto import tqdm

from snnfast.conversion import PRESETS, convert, read_network
from snnfast.conversion.presets import get_preset
from snnfast.conversion.scaling import activations, check_percentile
from snnfast.evaluation import EvaluationReport, evaluate
from snnfast.evaluation.statistics import bootstrap_interval
from snnfast.learning import Replay
from snnfast.network import SpikingNetwork
from snnfast.spec import FloatArray, check_choice, check_count

#: Numbers of steps that are tried where none are given. Those of a layer where layers take turns.
TIMESTEPS: dict[str, tuple[int, ...]] = {
    "rate": (8, 16, 32, 64, 100),
    "staged": (8, 16, 32, 64),
    "radix": (4, 6, 8, 10, 12),
    "digits": (6, 8, 9, 10, 12),
}
METHODS = ("thesis", "rate", "rate-copies", "staged", "radix", "digits", "digits-certified")
#: Share of a replay's episodes that are held out where no other states are given.
HELD_OUT = 0.25

Budget = Literal["steps", "spikes"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepRow:
    """One conversion of a sweep, and how it decides.

    Attributes:
        method: the preset.
        timesteps: steps T: of one hidden layer where layers take turns, the most there can be with an early exit.
        percentile: of the activation scales, in percent.
        states: held-out states that it was asked about.
        similarity: share of them on which it decides like the policy.
        similarity_interval: 95 %, resampling whole episodes, and at least as wide as Wilson's for independent states.
        mean_steps, most_steps: steps of a decision, all layers together, actually run, on average and at most.
        spikes_per_decision: of all neurons, spikes of either sign.
        output_error: the error of the outputs that 50, 90, 99 and 100 % of the states stay below, in the policy's
            units, the largest over the outputs of a state.
        certified: share of decisions that were certified, or None.
        saturated: share of decisions in which a neuron was driven beyond its range, or None where that is not seen.
        predicted: the similarity that was predicted from the replay alone, or None.
        on_policy: what playing itself has shown, or None: see :func:`snnfast.evaluate`.
        seconds: to convert and ask.
    """

    method: str
    timesteps: int
    percentile: float
    states: int
    similarity: float
    similarity_interval: tuple[float, float]
    mean_steps: float
    most_steps: int
    spikes_per_decision: float
    output_error: tuple[float, float, float, float]
    certified: float | None
    saturated: float | None
    predicted: float | None
    on_policy: EvaluationReport | None
    seconds: float = dataclasses.field(compare=False)

    def as_dict(self) -> dict[str, Any]:
        """All attributes as plain JSON values."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["on_policy"] = None if self.on_policy is None else self.on_policy.as_dict()
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skipped:
    """A combination that cannot be converted, and why."""

    method: str
    timesteps: int
    percentile: float
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepResult:
    """The result of :func:`sweep`.

    Attributes:
        rows: one per conversion, in the order in which they were asked for.
        skipped: combinations that do not exist.
        sizes: features of an observation, then the neurons of every layer of the policy.
        env_id: environment of the states, or None if unknown.
        replay_states: states that the conversions were made from.
        seed: of playing and intervals.
    """

    rows: tuple[SweepRow, ...]
    skipped: tuple[Skipped, ...]
    sizes: tuple[int, ...]
    env_id: str | None
    replay_states: int
    seed: int

    def cheapest(self, target: float, budget: Budget = "steps") -> SweepRow | None:
        """The row with the fewest mean steps, or spikes, among those of at least ``target`` similarity; else None.

        Raises:
            ValueError: if ``budget`` is neither "steps" nor "spikes".
        """
        check_choice("budget", budget, Budget)
        good = [row for row in self.rows if row.similarity >= target]
        return min(good, key=lambda row: row.mean_steps if budget == "steps" else row.spikes_per_decision, default=None)

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "env_id": self.env_id,
            "sizes": list(self.sizes),
            "replay_states": self.replay_states,
            "seed": self.seed,
            "rows": [row.as_dict() for row in self.rows],
            "skipped": [dataclasses.asdict(skipped) for skipped in self.skipped],
        }

    def table(self) -> str:
        """The rows for a terminal; similarity in percent with its 95 % interval."""
        predicted = any(row.predicted is not None for row in self.rows)
        played = any(row.on_policy is not None for row in self.rows)
        head = ["method", "T", "percentile", "similarity", "95 % interval"]
        head += ["predicted"] * predicted + ["steps", "spikes"] + ["on-policy", "return"] * played
        body = []
        for row in self.rows:
            low, high = row.similarity_interval
            cells = [row.method, f"{row.timesteps}", f"{row.percentile:g}", f"{100 * row.similarity:.3f}"]
            cells.append(f"{100 * low:.2f} to {100 * high:.2f}")
            if predicted:
                cells.append("" if row.predicted is None else f"{100 * row.predicted:.3f}")
            cells += [f"{row.mean_steps:.2f}", f"{row.spikes_per_decision:.1f}"]
            if played and row.on_policy is not None:
                alike = row.on_policy.similarity
                cells += ["" if alike is None else f"{100 * alike:.3f}", f"{row.on_policy.mean_return:.1f}"]
            body.append(cells)
        widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
        lines = [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in [head, *body]
        ]
        lines += [
            f"skipped: {s.method}, T={s.timesteps}, percentile {s.percentile:g}: {s.reason}" for s in self.skipped
        ]
        return "\n".join(line.rstrip() for line in lines)

    def __str__(self) -> str:
        return self.table()


def sweep(
    policy: nn.Module,
    replay: Replay,
    *,
    methods: Sequence[str] = METHODS,
    timesteps: Sequence[int] | None = None,
    percentiles: Sequence[float] | None = None,
    held_out: Replay | None = None,
    env_id: str | None = None,
    episodes: int = 0,
    max_steps: int | None = 500,
    seed: int = 1,
    progress: bool | None = False,
    **settings: Any,
) -> SweepResult:
    """Convert a policy with every method, number of steps and percentile, and compare the decisions.

    Args:
        policy: a trained ReLU network, as for :func:`snnfast.convert`.
        replay: states that the conversions are made from.
        methods: presets, names in :data:`snnfast.PRESETS`.
        timesteps: steps T to try; by default those that suit each method, :data:`snnfast.sweep.TIMESTEPS`. What a
            method cannot have is skipped and listed.
        percentiles: of the activation scales, in percent; by default each preset's own.
        held_out: states to compare the decisions on; by default the last quarter of the replay's episodes, and the
            conversions are then made from the others.
        env_id: environment to play in; by default the replay's.
        episodes: episodes that every network plays, compared with the policy on the states it meets; 0 for none.
        max_steps: limit of an episode.
        seed: of playing and intervals.
        progress: show a bar on standard error: always, never, or (None) if that is a terminal.
        settings: further arguments of :func:`snnfast.convert` for every row, ``headroom`` or ``backend`` for example.

    Raises:
        TypeError, ValueError: naming the argument, what was required and what arrived; or if no combination converts.
    """
    for name, values in (("methods", methods), ("timesteps", timesteps), ("percentiles", percentiles)):
        if values is not None and (isinstance(values, str) or not isinstance(values, Sequence) or not values):
            raise TypeError(f"{name} must be a list with at least one entry, got {values!r}")
    for method in methods:
        get_preset(method)
    steps = None if timesteps is None else tuple(check_count("timesteps", t) for t in timesteps)
    shares = None if percentiles is None else tuple(check_percentile(p) for p in percentiles)
    check_count("episodes", episodes, minimum=0)
    if held_out is None:
        replay, held_out = split_replay(replay)
    env_id = env_id or replay.metadata.get("env_id")
    if episodes and env_id is None:
        raise ValueError("env_id must be given to play episodes: the replay does not say which environment it is of")
    layers = read_network(policy)
    asked = _Asked(held_out, activations(layers, held_out.observations.numpy())[-1], seed)
    todo = [
        (method, percentile, t)
        for method in dict.fromkeys(methods)
        for percentile in dict.fromkeys(shares or (PRESETS[method].percentile,))
        for t in dict.fromkeys(steps or TIMESTEPS[PRESETS[method].method])
    ]
    rows: list[SweepRow] = []
    skipped: list[Skipped] = []
    with tqdm(todo, unit="network", disable=None if progress is None else not progress, leave=False) as bar:
        for method, percentile, t in bar:
            bar.set_description(f"{method}, T={t}, percentile {percentile:g}")
            began = time.perf_counter()
            try:
                network = convert(policy, replay, preset=method, percentile=percentile, timesteps=t, **settings)
            except (ValueError, NotImplementedError) as error:
                skipped.append(Skipped(method=method, timesteps=t, percentile=percentile, reason=str(error)))
                continue
            counted = asked.ask(network)
            played = None
            if episodes:
                assert env_id is not None
                played = evaluate(
                    env_id, network, compare_against=policy, episodes=episodes, max_steps=max_steps, seed=seed
                )
            rows.append(
                SweepRow(
                    method=method,
                    timesteps=t,
                    percentile=percentile,
                    predicted=None,
                    on_policy=played,
                    seconds=time.perf_counter() - began,
                    **counted,
                )
            )
    if not rows:
        raise ValueError(f"none of the {len(todo)} combinations can be converted; the first one: {skipped[0].reason}")
    return SweepResult(
        rows=tuple(rows),
        skipped=tuple(skipped),
        sizes=(layers[0].weight.shape[1], *(layer.weight.shape[0] for layer in layers)),
        env_id=env_id,
        replay_states=len(replay),
        seed=seed,
    )


def split_replay(replay: Replay, share: float = HELD_OUT) -> tuple[Replay, Replay]:
    """A replay in two: its first episodes, and its last ones, which hold about ``share`` of the states.

    Whole episodes, because states of one are alike. A replay of a single episode, or one that does not say where its
    episodes end, is cut at that share.

    Raises:
        ValueError: if it holds fewer than two states.
    """
    if len(replay) < 2:
        raise ValueError(f"replay must hold at least two states to hold some out, got {len(replay)}")
    lengths = replay.metadata.get("episode_lengths") or []
    cut = max(1, min(len(replay) - 1, round(len(replay) * (1 - share))))
    first = 0
    if len(lengths) > 1:
        ends = np.cumsum(lengths)[:-1]
        first = int(np.abs(ends - cut).argmin()) + 1
        cut = int(ends[first - 1])

    def part(start: int, stop: int, episodes: list[int]) -> Replay:
        about = {**replay.metadata, "size": stop - start, "episode_lengths": episodes or [stop - start]}
        return Replay(replay.observations[start:stop], replay.actions[start:stop], replay.outputs[start:stop], about)

    return part(0, cut, lengths[:first]), part(cut, len(replay), lengths[first:])


def similarity_interval(equal: npt.NDArray[np.bool_], lengths: Sequence[int], seed: int) -> tuple[float, float]:
    """95 % interval of a share of equal decisions: of whole episodes resampled, and of Wilson's, the wider at each end.

    The first knows that states of an episode are alike; the second that no difference in N states is no proof of none.

    Args:
        equal: per state, whether the decisions are equal; episode after episode.
        lengths: of the episodes, which make up all the states.
        seed: of the resampling.

    Source: Wilson 1927, Journal of the American Statistical Association 22(158).
    """
    n, share, z = len(equal), float(equal.mean()), 1.959964
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    agreed = np.add.reduceat(equal.astype(np.float64), starts)
    low, high = bootstrap_interval(agreed, np.asarray(lengths, dtype=np.float64), seed)
    return max(0.0, min(low, middle - half)), min(1.0, max(high, middle + half))


class _Asked:
    """The held-out states, what the policy answers, and the counting of what a network does on them."""

    def __init__(self, held_out: Replay, outputs: npt.NDArray[np.float64], seed: int) -> None:
        self.observations = held_out.observations
        self.lengths = held_out.metadata.get("episode_lengths") or [len(held_out)]
        self.outputs, self.decisions, self.seed = outputs, outputs.argmax(axis=1), seed

    def ask(self, network: SpikingNetwork) -> dict[str, Any]:
        answers: list[FloatArray] = []
        steps = spikes = certified = saturated = 0.0
        spec, most = network.spec, 0
        for batch in torch.split(self.observations, 4096):
            done = network.simulate(batch.to(network.device))
            answers.append(done.output.cpu().numpy())
            spikes += sum(float(counts.sum(dtype=torch.float64)) for counts in done.spike_counts)
            ran = torch.full((len(batch),), float(spec.total_steps)) if done.steps is None else done.steps
            steps, most = steps + float(ran.sum(dtype=torch.float64)), max(most, int(ran.max()))
            certified += 0.0 if done.certified is None else float(done.certified.sum())
            saturated += 0.0 if done.saturated is None else float(done.saturated.sum())
        answer = np.concatenate(answers).astype(np.float64)
        equal = answer.argmax(axis=1) == self.decisions
        n = len(equal)
        error = np.abs(answer * network.output_scale - self.outputs).max(axis=1)
        return {
            "states": n,
            "similarity": float(equal.mean()),
            "similarity_interval": similarity_interval(equal, self.lengths, self.seed),
            "mean_steps": steps / n,
            "most_steps": most,
            "spikes_per_decision": spikes / n,
            "output_error": tuple(float(np.quantile(error, q)) for q in (0.5, 0.9, 0.99, 1.0)),
            "certified": None if done.certified is None else certified / n,
            "saturated": None if done.saturated is None else saturated / n,
        }
