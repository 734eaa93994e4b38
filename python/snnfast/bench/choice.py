# SPDX-License-Identifier: Apache-2.0
"""Whether networks that ``convert(target_similarity=)`` chooses keep their word when they play."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from snnfast.bench.machine import provenance
from snnfast.bench.policies import Holding, Protocol, cache_folder, default_cache, holding
from snnfast.conversion import convert
from snnfast.conversion.choice import Choice, TargetNotReached
from snnfast.conversion.presets import Budget
from snnfast.evaluation import evaluate
from snnfast.shares import in_percent

TARGETS = (0.99, 0.999)


def run(
    *,
    seeds: int = 10,
    first_seed: int = 1,
    cache: Path | None = None,
    protocol: Protocol | None = None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Choose a network for every policy, target and budget, let it play, and count how often the target is met.

    A target counts as met if the similarity on the states that the network meets itself is at least the target minus
    one standard error.

    Args:
        seeds: how many policies that hold are wanted.
        first_seed: seeds are tried from this one on.
        cache: folder for trained policies; the user's by default.
        protocol: how policies are trained and networks evaluated.
        say: prints a line.

    Raises:
        RuntimeError: if fewer than one policy in five holds.
    """
    protocol = protocol or Protocol(replay_size=60_000)
    folder = cache_folder(default_cache() if cache is None else cache, protocol)
    say(f"{protocol.env_id}: {seeds} policies, {protocol.episodes} x {protocol.max_steps} steps per choice")
    say(f"trained policies are kept in {folder}\n\n{_HEADER}")
    rows: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for held in holding(protocol, seeds=seeds, first_seed=first_seed, cache=cache, failed=failed, say=say):
        for target in TARGETS:
            for budget in get_args(Budget):
                rows.append(_measure(held, target, budget))
                say(_line(rows[-1]))
    result = {
        "benchmark": "choice",
        "protocol": dataclasses.asdict(protocol),
        "choices": rows,
        "met": sum(row["met"] for row in rows),
        "all_met": all(row["met"] for row in rows),
        "failed_seeds": failed,
        **provenance(),
    }
    say(summary(rows))
    return result


def _measure(held: Holding, target: float, budget: Budget) -> dict[str, Any]:
    """One choice, played."""
    row: dict[str, Any] = {"seed": held.seed, "target": target, "budget": budget}
    began = time.perf_counter()
    try:
        network = convert(held.policy, held.replay, target_similarity=target, budget=budget)
    except TargetNotReached as error:
        return {**row, "met": False, "refused": str(error), "seconds": time.perf_counter() - began}
    row["seconds"] = time.perf_counter() - began
    report = evaluate(held.original.env_id, network, compare_against=held.policy, **held.rules)
    assert report.similarity is not None
    agreed = [a / d for a, d in zip(report.episode_agreements or (), report.episode_decisions, strict=True) if d]
    deviation = statistics.stdev(agreed) / math.sqrt(len(agreed)) if len(agreed) > 1 else 0.0
    choice = Choice.from_dict(network.conversion["choice"])
    assert choice.chosen is not None
    return {
        **row,
        "met": report.similarity >= target - deviation,
        "similarity": report.similarity,
        "standard_error": deviation,
        "promised": choice.tried[choice.chosen].similarity,
        "mean_steps": report.mean_steps,
        "spikes_per_decision": report.spikes_per_decision,
        "settings": choice.tried[choice.chosen].settings,
        "tried": len(choice.tried),
    }


_HEADER = (
    f"{'seed':>5} {'target':>8} {'budget':>8} {'similarity':>11} {'steps':>8} {'spikes':>8} {'tried':>6} "
    f"{'seconds':>8}  chosen"
)


def _line(row: dict[str, Any]) -> str:
    head = f"{row['seed']:>5} {100 * row['target']:>6.1f} % {row['budget']:>8} "
    if "refused" in row:
        return f"{head}{row['refused']}"
    kept = " ".join(f"{name}={value}" for name, value in row["settings"].items() if value is not None)
    return (
        f"{head}{in_percent(row['similarity'], 3):>9} % {row['mean_steps']:>8.2f} {row['spikes_per_decision']:>8.1f} "
        f"{row['tried']:>6} {row['seconds']:>8.2f}  {kept}{'' if row['met'] else '  MISSED'}"
    )


def summary(rows: list[dict[str, Any]]) -> str:
    """How many of the choices keep their word, by target and budget."""
    lines = [""]
    for target in TARGETS:
        for budget in get_args(Budget):
            some = [row for row in rows if (row["target"], row["budget"]) == (target, budget)]
            met = sum(row["met"] for row in some)
            lines.append(f"target {100 * target:g} %, budget {budget}: {met} of {len(some)} met when played")
    return "\n".join(lines)
