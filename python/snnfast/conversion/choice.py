# SPDX-License-Identifier: Apache-2.0
"""The cheapest network that decides like the policy often enough: tried on held-out states, cheap ones first.

Candidates are families of settings, each from coarse to fine. Within a family similarity and cost rise together, so a
family is left at the first member that meets the target, or that costs as much as the best network found elsewhere.
Ranges come first: where what they cut off makes too many decisions differ, no number of steps helps, and they are
widened before anything else is tried.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from torch import nn

from snnfast.conversion.comparison import Comparison, HeldOut, similarity_interval, split_replay
from snnfast.conversion.early_exit import ENOUGH_STATES
from snnfast.conversion.hidden import clipped_activations
from snnfast.conversion.presets import PRESETS, Budget
from snnfast.learning import Replay
from snnfast.network import SpikingNetwork
from snnfast.shares import percent
from snnfast.spec import check_choice, check_float

#: Families in the order in which they are tried: a preset, the option that makes it finer, and its values.
_DIGITS = (6, 8, 9, 10, 12, 14, 16)
_ERRORS = (5e-3, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4, 5e-5)
_STEPS: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("digits-calibrated", "timesteps", (8, 10, 12, 14, 16)),
    ("digits-certified", "timesteps", _DIGITS),
    ("rate-early-exit", "timesteps", (32, 64, 128, 256)),
    ("digits", "timesteps", _DIGITS),
    ("radix-certified", "timesteps", (6, 8, 10, 12, 14)),
    ("radix", "timesteps", (4, 6, 8, 10, 12, 14)),
    ("rate-copies", "timesteps", (4, 8, 16, 32, 64, 128)),
    ("rate", "timesteps", (8, 16, 32, 64, 128, 256)),
    ("staged", "timesteps", (8, 16, 32, 64, 128)),
)
_SPIKES: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("fewest-spikes-exit", "spike_error", _ERRORS),
    ("fewest-spikes", "spike_error", _ERRORS),
    *_STEPS,
)
FAMILIES: dict[str, tuple[tuple[str, str, tuple[Any, ...]], ...]] = {
    "steps": _STEPS,
    "spikes": _SPIKES,
    "latency": _STEPS,
}
#: Ranges in the order in which they are tried: percentile and headroom. None: as the preset has it.
RANGES: tuple[tuple[float | None, float], ...] = ((None, 1.0), (100.0, 1.0), (100.0, 1.5), (100.0, 2.0), (100.0, 3.0))
#: Share of the decisions that may differ that ranges alone may use up.
_FOR_RANGES = 0.25
#: Share of the decisions that may differ that may do so on held-out states.
_SPARED = 0.5
#: Decisions of a turn, of which a latency is the median, and how often two networks take turns.
_DECISIONS, _TURNS = 100, 7


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tried:
    """One candidate.

    Attributes:
        settings: arguments of :func:`snnfast.convert` that make it.
        similarity, interval: on the held-out states, with 95 %; see :class:`snnfast.conversion.comparison.Comparison`.
        mean_steps, spikes: of a decision.
        latency: seconds per decision of ``act``, the median in the quietest of several turns; None unless that is the
            budget.
        met: whether that meets the target: see :func:`meets`.
    """

    settings: dict[str, Any]
    similarity: float
    interval: tuple[float, float]
    mean_steps: float
    spikes: float
    latency: float | None
    met: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """What was tried, and what came of it. ``net.conversion["choice"]`` holds it as JSON: see :meth:`from_dict`.

    Attributes:
        target: the similarity that was asked for.
        budget: what was to be small: "steps", "spikes" or "latency".
        states, episodes: held out.
        tried: in their order.
        chosen: index of the cheapest that meets the target, or None.
    """

    target: float
    budget: Budget
    states: int
    episodes: int
    tried: tuple[Tried, ...]
    chosen: int | None

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        values = dataclasses.asdict(self)
        values["tried"] = [{**row, "interval": list(row["interval"])} for row in values["tried"]]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Choice:
        """The choice that :meth:`as_dict` was taken from.

        Raises:
            TypeError: if an entry is missing or unknown.
        """
        rows = tuple(Tried(**{**row, "interval": tuple(row["interval"])}) for row in values["tried"])
        return cls(**{**values, "tried": rows})

    def __str__(self) -> str:
        head = ["", "settings", "similarity", "at least", "steps", "spikes"] + ["latency"] * (self.budget == "latency")
        rows = [head]
        for i, row in enumerate(self.tried):
            mark = "->" if i == self.chosen else "" if row.met else "no"
            cells = [mark, _words(row.settings), percent(row.similarity, 3), percent(row.interval[0], 3)]
            cells += [f"{row.mean_steps:.2f}", f"{row.spikes:.1f}"]
            rows.append(cells + ([] if row.latency is None else [f"{1e6 * row.latency:.2f} us"]))
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = [
            "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
            for row in rows
        ]
        lines.append(
            f"target {100 * self.target:.10g} % with 95 % certainty, fewest {self.budget}"
            if self.budget != "latency"
            else f"target {100 * self.target:.10g} % with 95 % certainty, lowest latency"
        )
        lines.append(f"on {self.states:,} held-out states of {self.episodes} episodes; 'no': the target is not met")
        return "\n".join(line.rstrip() for line in lines)


class TargetNotReached(ValueError):
    """No candidate meets the target.

    Attributes:
        best: the network of the highest similarity.
        choice: the table of what was tried.
    """

    def __init__(self, message: str, best: SpikingNetwork, choice: Choice) -> None:
        super().__init__(message)
        self.best = best
        self.choice = choice


def meets(target: float, similarity: float, at_least: float) -> bool:
    """Whether a similarity on held-out states meets a target: with 95 % certainty, and half the differences to spare.

    To spare for playing: held-out states are the original's, and a network that differs meets others, where it may
    differ more often. On LunarLander 99.3 % held out were 98.7 % played.

    Args:
        target: the similarity that is wanted.
        similarity: counted.
        at_least: lower end of its interval.
    """
    return at_least >= target and 1.0 - similarity <= _SPARED * (1.0 - target)


def choose(
    convert: Callable[..., SpikingNetwork],
    policy: nn.Module,
    replay: object,
    target_similarity: object,
    budget: Budget = "steps",
    *,
    seed: int = 1,
    **fixed: Any,
) -> SpikingNetwork:
    """The cheapest network whose similarity to the policy is at least the target, with 95 % certainty.

    The first three quarters of the replay's episodes are what networks are made from; the others are held out, and a
    network meets the target if its similarity on them does as :func:`meets` says. What is returned is the network that
    was tried.

    Args:
        convert: makes a network: :func:`snnfast.convert`.
        policy: a trained ReLU network.
        replay: states of it, several episodes.
        target_similarity: above 0 and below 1.
        budget: what is to be small: "steps" (mean steps per decision, all layers' together), "spikes" (mean spikes per
            decision) or "latency" (time of ``act`` on this machine).
        seed: of the intervals.
        fixed: further arguments of ``convert`` for every candidate: ``backend``, ``exact``, ``split_inputs``,
            ``weight_grid``.

    Returns:
        The network; the table of what was tried is in ``conversion["choice"]``.

    Raises:
        TargetNotReached: if no candidate meets the target, with the best one.
        TypeError, ValueError: naming the argument; or if the held-out states are too few to show such a similarity.
    """
    if not isinstance(replay, Replay):
        raise TypeError(
            f"replay must be a Replay for target_similarity, which holds episodes out, got {type(replay).__name__}"
        )
    target = check_float("target_similarity", target_similarity)
    if not 0 < target < 1:
        raise ValueError(f"target_similarity must be above 0 and below 1, got {target_similarity!r}")
    check_choice("budget", budget, Budget)
    made_from, rest = split_replay(replay)
    held_out = HeldOut(policy, rest, seed)
    _check_states(target, held_out)
    search = _Search(convert, policy, made_from, held_out, target, budget, fixed)
    search.run()
    choice = search.choice()
    if search.best is None:
        if search.closest is None:
            assert search.refused is not None
            raise search.refused
        row, network = search.closest
        raise TargetNotReached(_not_reached(choice, row), _noted(network, choice), choice)
    return _noted(search.best[1], choice)


class _Search:
    """The candidates tried so far, and the best of them."""

    def __init__(
        self,
        convert: Callable[..., SpikingNetwork],
        policy: nn.Module,
        made_from: Replay,
        held_out: HeldOut,
        target: float,
        budget: Budget,
        fixed: dict[str, Any],
    ) -> None:
        self.convert, self.policy, self.made_from = convert, policy, made_from
        self.held_out, self.target, self.budget, self.fixed = held_out, target, budget, fixed
        self.tried: list[Tried] = []
        self.best: tuple[Tried, SpikingNetwork] | None = None
        self.closest: tuple[Tried, SpikingNetwork] | None = None
        self.refused: ValueError | None = None

    def choice(self) -> Choice:
        chosen = None if self.best is None else self.tried.index(self.best[0])
        return Choice(
            target=self.target,
            budget=self.budget,
            states=len(self.held_out.decisions),
            episodes=len(self.held_out.lengths),
            tried=tuple(self.tried),
            chosen=chosen,
        )

    def run(self) -> None:
        """Try ranges until one has a network that meets the target; of that one every family."""
        for percentile, headroom in self._ranges():
            for preset, option, values in FAMILIES[self.budget]:
                if PRESETS[preset].early_exit == "calibrated" and len(self.made_from) < ENOUGH_STATES:
                    continue  # bounds from so few states do not hold
                ranges = {} if percentile is None else {"percentile": percentile, "headroom": headroom}
                if percentile is None and preset == "rate-early-exit":
                    ranges["percentile"] = PRESETS[preset].percentile  # looking for the best takes four times as long
                self._family({"preset": preset, **ranges}, option, values)
            if self.best is not None:
                return

    def _ranges(self) -> Iterator[tuple[float | None, float]]:
        """From the first range on that by itself costs little similarity; the last one always."""
        allowed = _FOR_RANGES * (1 - self.target)
        enough = False
        for ranges in RANGES:
            enough = enough or ranges == RANGES[-1] or self._cut_off(*ranges) <= allowed
            if enough:
                yield ranges

    def _cut_off(self, percentile: float | None, headroom: float) -> float:
        """Share of the held-out decisions that differ only because activations are cut off at their ranges."""
        if len(self.held_out.sizes) == 2:
            return 0.0  # without hidden layers nothing is
        width = {} if percentile is None else {"percentile": percentile, "headroom": headroom}
        # Without the grid: what rounding costs, wider ranges do not bring back.
        others = {**self.fixed, "weight_grid": None}
        network = self.convert(self.policy, self.made_from, preset="digits", **width, **others)
        outputs = clipped_activations(network.spec, self.held_out.observations.numpy())[-1]
        return float((outputs.argmax(axis=1) != self.held_out.decisions).mean())

    def _family(self, settings: dict[str, Any], option: str, values: tuple[Any, ...]) -> None:
        for value in values:
            candidate = {**settings, option: value}
            if self.budget == "steps" and self.best is not None:
                least = self._least_steps(candidate)
                if least is not None and least >= self.best[0].mean_steps:
                    return
            try:
                network = self.convert(self.policy, self.made_from, **candidate, **self.fixed)
            except ValueError as error:  # this policy cannot have this method, or not so many steps of it
                self.refused = error
                return
            counted = self.held_out.ask(network).comparison()
            latency, best_latency = self._latencies(network)
            row = self._row(candidate, counted, latency)
            self.tried.append(row)
            if self.closest is None or row.similarity > self.closest[0].similarity:
                self.closest = row, network
            dearer = self.best is not None and self._cost(row) >= self._cost(self.best[0], best_latency)
            if row.met and not dearer:
                self.best = row, network
            if row.met or dearer:
                return

    def _row(self, settings: dict[str, Any], counted: Comparison, latency: float | None) -> Tried:
        return Tried(
            settings=settings,
            similarity=counted.similarity,
            interval=counted.similarity_interval,
            mean_steps=counted.mean_steps,
            spikes=counted.spikes_per_decision,
            latency=latency,
            met=meets(self.target, counted.similarity, counted.similarity_interval[0]),
        )

    def _cost(self, row: Tried, latency: float | None = None) -> float:
        if self.budget == "steps":
            return row.mean_steps
        if self.budget == "spikes":
            return row.spikes
        cost = row.latency if latency is None else latency
        assert cost is not None
        return cost

    def _least_steps(self, candidate: dict[str, Any]) -> int | None:
        """Steps of a candidate, where they are known before it is made."""
        preset = PRESETS[candidate["preset"]]
        if preset.early_exit is not None or "timesteps" not in candidate:
            return None
        layers = len(self.held_out.sizes) - 2 if preset.method in ("staged", "radix") else 1
        return int(candidate["timesteps"]) * layers

    def _latencies(self, network: SpikingNetwork) -> tuple[float | None, float | None]:
        """Of this network and the best so far, which take turns so that what else the machine does hits both."""
        if self.budget != "latency":
            return None, None
        rivals = [network] if self.best is None else [network, self.best[1]]
        states = self.held_out.observations[
            np.linspace(0, len(self.held_out.observations) - 1, _DECISIONS).astype(int)
        ].numpy()
        least = [math.inf for _ in rivals]
        for _ in range(_TURNS):
            for i, rival in enumerate(rivals):
                times = []
                for state in states:
                    began = time.perf_counter()
                    rival.act(state)
                    times.append(time.perf_counter() - began)
                least[i] = min(least[i], statistics.median(times))
        return least[0], least[1] if len(least) > 1 else None


def _check_states(target: float, held_out: HeldOut) -> None:
    """Whether so many states could show such a similarity at all."""
    n = len(held_out.decisions)
    most = similarity_interval(np.ones(n, dtype=np.bool_), held_out.lengths, held_out.seed)[0]
    if most < target:
        raise ValueError(
            f"target_similarity={target:.10g} needs more states: even if no decision of the {n:,} held-out ones "
            f"differed, that would show {percent(most, 3)} with 95 % certainty. Record a larger replay"
        )


def _not_reached(choice: Choice, closest: Tried) -> str:
    return (
        f"target_similarity={choice.target:.10g} is not met: of {len(choice.tried)} networks tried the best, "
        f"{_words(closest.settings)}, decides like the policy in {percent(closest.similarity, 3)} of {choice.states:,} "
        f"held-out states (with 95 % certainty in at least {percent(closest.interval[0], 3)}). It is this error's "
        "`best`, the table its `choice`; a larger replay narrows the interval"
    )


def _noted(network: SpikingNetwork, choice: Choice) -> SpikingNetwork:
    network.conversion["choice"] = choice.as_dict()
    return network


def _words(settings: Mapping[str, Any]) -> str:
    options = {"T" if name == "timesteps" else name: value for name, value in settings.items() if name != "preset"}
    return ", ".join([str(settings["preset"]), *(f"{name}={value:g}" for name, value in options.items())])
