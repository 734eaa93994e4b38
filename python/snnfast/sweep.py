# SPDX-License-Identifier: Apache-2.0
"""Many conversions of one policy side by side: how alike each decides, in how many steps and spikes.

Similarity is counted on held-out states: states of the same policy that no conversion has seen. A sweep without playing
takes seconds; with ``episodes`` every network also plays, and is compared on the states that it meets itself.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, Literal

from torch import nn
from tqdm.auto import tqdm

from snnfast.conversion import PRESETS, convert
from snnfast.conversion.comparison import Comparison, HeldOut, check_outputs, check_replay, split_replay
from snnfast.conversion.prediction import predict_similarity
from snnfast.conversion.presets import get_preset
from snnfast.conversion.scaling import check_percentile
from snnfast.evaluation import EvaluationReport, evaluate
from snnfast.learning import Replay
from snnfast.shares import between, in_percent
from snnfast.spec import check_choice, check_count, check_seed

#: Numbers of steps that are tried where none are given. Those of a layer where layers take turns.
TIMESTEPS: dict[str, tuple[int, ...]] = {
    "rate": (8, 16, 32, 64, 100),
    "staged": (8, 16, 32, 64),
    "radix": (4, 6, 8, 10, 12),
    "digits": (6, 8, 9, 10, 12),
}
METHODS = ("thesis", "rate", "rate-copies", "staged", "radix", "digits", "digits-certified")

Budget = Literal["steps", "spikes"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepRow(Comparison):
    """One conversion of a sweep, and how it decides: a :class:`snnfast.conversion.comparison.Comparison`, and

    Attributes:
        method: the preset.
        timesteps: steps T: of one hidden layer where layers take turns, the most there can be with an early exit.
        percentile: of the activation scales, in percent.
        predicted: the similarity that theory expects, from one network of the same method and percentile alone: that
            of the middle number of steps; see :meth:`snnfast.SimilarityPrediction.extrapolate`. None with an early
            exit, or where that network says nothing about others: its error may not fall with the steps yet.
        on_policy: what playing itself has shown, or None: see :func:`snnfast.evaluate`.
        seconds: to convert and ask.
    """

    method: str
    timesteps: int
    percentile: float
    predicted: float | None = None
    on_policy: EvaluationReport | None = None
    seconds: float = dataclasses.field(compare=False, default=0.0)

    def as_dict(self) -> dict[str, Any]:
        """All attributes as plain JSON values."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["on_policy"] = None if self.on_policy is None else self.on_policy.as_dict()
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skipped:
    """A combination that cannot be converted, and why. Printing it gives that in a line.

    Attributes:
        method: the preset.
        timesteps: steps T, or None where those are the ones that the digits need (``spike_error``).
        percentile: of the activation scales, or None where they have none ("model" and "data" scaling).
        reason: what :func:`snnfast.convert` said.
    """

    method: str
    timesteps: int | None
    percentile: float | None
    reason: str

    def __str__(self) -> str:
        return f"{_named(self.method, self.timesteps, self.percentile)}: {self.reason}"


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
        weight_grid: bits that all weights were rounded to before they were converted, or None.
    """

    rows: tuple[SweepRow, ...]
    skipped: tuple[Skipped, ...]
    sizes: tuple[int, ...]
    env_id: str | None
    replay_states: int
    seed: int
    weight_grid: int | None = None

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
            "weight_grid": self.weight_grid,
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
            cells = [row.method, f"{row.timesteps}", f"{row.percentile:g}", in_percent(row.similarity, 3)]
            cells.append(between(row.similarity_interval))
            if predicted:
                cells.append("" if row.predicted is None else in_percent(row.predicted, 3))
            cells += [f"{row.mean_steps:.2f}", f"{row.spikes_per_decision:.1f}"]
            if played and row.on_policy is not None:
                alike = row.on_policy.similarity
                cells += ["" if alike is None else in_percent(alike, 3), f"{row.on_policy.mean_return:.1f}"]
            body.append(cells)
        widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
        lines = [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in [head, *body]
        ]
        lines += [f"skipped: {skipped}" for skipped in self.skipped]
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
            method cannot have is skipped and listed. What has a ``spike_error`` takes the steps that it needs, once.
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
    seed = check_seed(seed)
    check_replay("replay", replay)
    if held_out is not None:
        check_replay("held_out", held_out)
    else:
        replay, held_out = split_replay(replay)
    env_id = env_id or replay.metadata.get("env_id")
    if episodes and env_id is None:
        raise ValueError("env_id must be given to play episodes: the replay does not say which environment it is of")
    asked = HeldOut(policy, held_out, seed)
    check_outputs(asked.sizes)
    todo = [
        (method, percentile, t)
        for method in dict.fromkeys(methods)
        for percentile in dict.fromkeys(shares or (_own_percentile(method, settings),))
        for t in (
            (None,) if _own_steps(method, settings) else dict.fromkeys(steps or TIMESTEPS[PRESETS[method].method])
        )
    ]
    rows: list[SweepRow] = []
    skipped: list[Skipped] = []
    with tqdm(todo, unit="network", disable=None if progress is None else not progress, leave=False) as bar:
        for method, percentile, t in bar:
            bar.set_description(_named(method, t, percentile))
            began = time.perf_counter()
            try:
                network = convert(policy, replay, preset=method, percentile=percentile, timesteps=t, **settings)
            except (ValueError, NotImplementedError) as error:
                skipped.append(Skipped(method=method, timesteps=t, percentile=percentile, reason=str(error)))
                continue
            counted = asked.ask(network).comparison()
            played = None
            if episodes:
                assert env_id is not None
                played = evaluate(
                    env_id, network, compare_against=policy, episodes=episodes, max_steps=max_steps, seed=seed
                )
            rows.append(
                SweepRow(
                    method=method,
                    timesteps=network.timesteps,
                    percentile=network.conversion["settings"]["percentile"],
                    on_policy=played,
                    seconds=time.perf_counter() - began,
                    **dataclasses.asdict(counted),
                )
            )
    foretold = _foretold(policy, replay, held_out, rows, settings)
    rows = [dataclasses.replace(row, predicted=foretold.get(_key(row))) for row in rows]
    if not rows:
        raise ValueError(f"none of the {len(todo)} combinations can be converted; the first one: {skipped[0].reason}")
    return SweepResult(
        rows=tuple(rows),
        skipped=tuple(skipped),
        sizes=asked.sizes,
        env_id=env_id,
        replay_states=len(replay),
        seed=seed,
        weight_grid=None if settings.get("weight_grid") is None else int(settings["weight_grid"]),
    )


def _named(method: str, timesteps: int | None, percentile: float | None) -> str:
    steps = "" if timesteps is None else f", T={timesteps}"
    return f"{method}{steps}" + ("" if percentile is None else f", percentile {percentile:g}")


def _own_percentile(method: str, settings: dict[str, Any]) -> float | None:
    """A preset's percentile, or None where the scaling asked for has none, and would refuse the preset's."""
    scaling = settings.get("scaling")
    return None if scaling in ("model", "data") else PRESETS[method].percentile


def _own_steps(method: str, settings: dict[str, Any]) -> bool:
    """Whether a conversion has as many steps as its digits need, and cannot be asked for others."""
    return PRESETS[method].spike_error is not None or settings.get("spike_error") is not None


def _key(row: SweepRow) -> tuple[str, float, int]:
    return row.method, row.percentile, row.timesteps


def _foretold(
    policy: nn.Module, replay: Replay, held_out: Replay, rows: Sequence[SweepRow], settings: dict[str, Any]
) -> dict[tuple[str, float, int], float]:
    """What the network of the middle number of steps says about the similarity of the others of its kind."""
    found = {}
    for method, percentile in dict.fromkeys((row.method, row.percentile) for row in rows):
        if PRESETS[method].early_exit is not None or settings.get("early_exit") is not None:
            continue
        if _own_steps(method, settings):
            continue
        steps = sorted(row.timesteps for row in rows if (row.method, row.percentile) == (method, percentile))
        middle = steps[len(steps) // 2]
        network = convert(policy, replay, preset=method, percentile=percentile, timesteps=middle, **settings)
        prediction = predict_similarity(network, policy, held_out)
        if prediction.exponent is not None:
            found.update({(method, percentile, t): prediction.extrapolate(t) for t in steps})
    return found
