# SPDX-License-Identifier: Apache-2.0
"""What an evaluation found: numbers to compute with, JSON to keep, a table to read."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

from snnfast import checkpoint
from snnfast.shares import percent

_Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """The result of :func:`snnfast.evaluate`.

    Two reports are equal if everything but the times is. All numbers are finite; what does not exist is None.

    Attributes:
        env_id, seed, episodes, max_steps, epsilon, history, frame_skip, max_noops, num_envs: what was asked for;
            ``num_envs`` is how many episodes ran side by side.
        agent, compared_with: the two agents in words; ``compared_with`` is None without one.
        returns: undiscounted sum of rewards of each episode.
        lengths: environment steps of each episode, initial no-ops and repeated actions included.
        mean_return: mean of the returns.
        std_return: their sample standard deviation (ddof 1); 0.0 if there is only one episode.
        return_interval: 95 % bootstrap interval of the mean return; of only one episode both ends are its return, which
            says nothing about others.
        decisions: how often the agent chose an action; random actions (epsilon) do not count.
        random_decisions: how often a random action was taken instead.
        episode_decisions: the decisions of each episode.
        similarity: share of the decisions in which both agents choose the same action on the same state.
        similarity_interval: 95 % interval of the similarity: bootstrap of whole episodes, or Wilson's, the wider at
            each end.
        episode_agreements: equal decisions of each episode.
        timesteps: time steps T of a decision (None, as the following, if the agent does not spike or never decided);
            those of one layer where layers take turns, the most there may be with an early exit.
        mean_steps: steps that a decision took on average, all layers' turns together.
        certified_share: share of the decisions that were certified; None without a certified exit. With digits they are
            certified to be the original network's, with radix to be those of the network without the exit.
        certified_differing: how many of those differ from the decision of the agent compared with; None without one.
        saturated_share: share of the decisions in which a neuron was driven beyond its range, so that nothing can be
            certified; None but for the method "digits".
        spikes_per_decision: spikes of all neurons in a decision, those of an encoded input not included.
        spikes_per_layer: the same for each spiking layer.
        input_spikes_per_decision: spikes of an encoded input; 0.0 with constant encoding.
        synaptic_operations_per_decision: spikes times fan-out, summed over layers; input spikes included.
        input_macs_per_decision: multiply-accumulates of the constant input current, which is the same in every time
            step and computed once; 0.0 if the input is encoded in spikes.
        seconds: wall time of the whole evaluation, recording a GIF excepted.
        agent_seconds, compared_seconds, environment_seconds: the parts of it spent in the agent, in the one it was
            compared with, and in the environment.
        decisions_per_second: decisions over ``seconds``.
    """

    env_id: str
    agent: str
    compared_with: str | None
    seed: int
    episodes: int
    max_steps: int
    epsilon: float
    history: int
    frame_skip: int
    max_noops: int
    num_envs: int
    mean_return: float
    std_return: float
    return_interval: _Interval
    similarity: float | None
    similarity_interval: _Interval | None
    decisions: int
    random_decisions: int
    timesteps: int | None
    spikes_per_decision: float | None
    spikes_per_layer: tuple[float, ...] | None
    input_spikes_per_decision: float | None
    synaptic_operations_per_decision: float | None
    input_macs_per_decision: float | None
    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    episode_decisions: tuple[int, ...]
    episode_agreements: tuple[int, ...] | None
    mean_steps: float | None = None
    certified_share: float | None = None
    certified_differing: int | None = None
    saturated_share: float | None = None
    seconds: float = dataclasses.field(compare=False)
    agent_seconds: float = dataclasses.field(compare=False)
    compared_seconds: float = dataclasses.field(compare=False)
    environment_seconds: float = dataclasses.field(compare=False)
    decisions_per_second: float = dataclasses.field(compare=False)

    def as_dict(self) -> dict[str, Any]:
        """All attributes as plain JSON values: numbers, strings, lists, None."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EvaluationReport:
        """The report that :meth:`as_dict` was taken from.

        Raises:
            TypeError: if ``values`` is no mapping or an entry is of the wrong kind.
            ValueError: if an entry is missing, unknown, or not finite.
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"values must be a mapping, got {type(values).__name__}")
        names = [f.name for f in dataclasses.fields(cls)]
        # Attributes that reports did not always have are read as None from those that lack them.
        required = {f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING}
        missing, unknown = sorted(required - set(values)), sorted(map(repr, set(values) - set(names)))
        if missing or unknown:
            raise ValueError(
                f"values must hold the attributes of an EvaluationReport; missing: {', '.join(missing) or 'none'}; "
                f"unknown: {', '.join(unknown) or 'none'}"
            )
        hints = get_type_hints(cls)
        return cls(**{name: _as_type(name, values[name], hints[name]) for name in names if name in values})

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the report as strict JSON, atomically.

        Raises:
            OSError: if the file cannot be written; what was there before is then untouched.
        """
        text = json.dumps(self.as_dict(), indent=2, allow_nan=False)
        checkpoint.atomic_write(Path(path), (text + "\n").encode())

    def table(self) -> str:
        """The report for a terminal: one line per quantity, with units and intervals."""
        rows: list[tuple[str, str, str]] = []
        interval = "95 % interval {} to {}".format
        spread = ""
        if self.episodes > 1:  # one episode says nothing about others
            spread = f"sd {self.std_return:.1f}, " + interval(*(f"{x:.1f}" for x in self.return_interval))
        rows.append(("mean return", f"{self.mean_return:.1f}", spread))
        rows.append(("returns", f"{min(self.returns):.1f} to {max(self.returns):.1f}", "smallest and largest episode"))
        if self.similarity is not None and self.similarity_interval is not None:
            between = interval(*map(percent, self.similarity_interval))
            rows.append(("similarity", percent(self.similarity), f"equal decisions, {between}"))
        extra = f", and {self.random_decisions:,} random ones" if self.random_decisions else ""
        rows.append(("decisions", f"{self.decisions:,}", f"in {sum(self.lengths):,} environment steps{extra}"))
        if self.mean_steps is not None:
            rows.append(
                ("steps", f"{self.mean_steps:,.2f}".removesuffix(".00"), "per decision, all layers' turns together")
            )
        if self.certified_share is not None:
            differing = self.certified_differing
            note = (
                ""
                if differing is None
                else f", {differing:,} of them differ"
                if differing
                else ", none of them differs"
            )
            rows.append(("certified", percent(self.certified_share), "of the decisions" + note))
        if self.saturated_share:
            rows.append(("out of range", percent(self.saturated_share), "of the decisions, never certified"))
        if self.spikes_per_decision is not None and self.spikes_per_layer is not None:
            layers = " + ".join(f"{x:,.1f}" for x in self.spikes_per_layer)
            rows.append(("spikes", f"{self.spikes_per_decision:,.1f}", f"per decision, by layer {layers or 'none'}"))
            if self.input_spikes_per_decision:
                rows.append(("input spikes", f"{self.input_spikes_per_decision:,.1f}", "per decision"))
            rows.append(
                ("synaptic operations", f"{self.synaptic_operations_per_decision:,.1f}", "per decision, additions")
            )
            if self.input_macs_per_decision:
                rows.append(
                    ("input current", f"{self.input_macs_per_decision:,.0f}", "multiply-accumulates per decision")
                )
        parts = f"agent {self.agent_seconds:.2f} s, environment {self.environment_seconds:.2f} s"
        if self.compared_with is not None:
            parts += f", compared agent {self.compared_seconds:.2f} s"
        rows.append(("time", f"{self.seconds:.2f} s", parts))
        rows.append(("speed", f"{self.decisions_per_second:,.0f}", "decisions per second, everything included"))

        head = [
            f"{self.env_id}: {self.episodes:,} episode{'s'[: self.episodes != 1]} of at most {self.max_steps:,} steps, "
            f"seed {self.seed}" + (f", epsilon {self.epsilon:g}" if self.epsilon else ""),
            f"  agent          {self.agent}",
        ]
        if self.compared_with is not None:
            head.append(f"  compared with  {self.compared_with}")
        left, middle = (max(len(row[i]) for row in rows) for i in (0, 1))
        body = [f"  {name:<{left}}  {value:>{middle}}  {note}".rstrip() for name, value, note in rows]
        return "\n".join([*head, "", *body])

    def __str__(self) -> str:
        return self.table()


def _as_type(name: str, value: Any, hint: Any) -> Any:
    """One value of JSON as the attribute ``name``, refused unless it is of the type ``hint``."""
    options = get_args(hint) if type(None) in get_args(hint) else (hint,)
    if value is None:
        if type(None) in options:
            return None
        raise TypeError(f"{name} must not be None")
    kind = next(option for option in options if option is not type(None))
    if kind in (str, int, float):
        if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
            raise TypeError(f"{name} must be {kind.__name__}, got {value!r} ({type(value).__name__})")
        if kind is float and not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value!r}")
        return kind(value)
    items = get_args(kind)
    if not isinstance(value, (list, tuple)) or (items[-1] is not Ellipsis and len(value) != len(items)):
        count = "" if items[-1] is Ellipsis else f" of {len(items)}"
        raise TypeError(f"{name} must be a list{count}, got {value!r}")
    return tuple(_as_type(f"{name}[{i}]", item, items[0]) for i, item in enumerate(value))
