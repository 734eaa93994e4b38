# SPDX-License-Identifier: Apache-2.0
"""How often policies converted with one preset decide like the original, over several trained policies.

Each is converted, and the spiking network plays while the original is asked about the same states.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from snnfast.bench.machine import provenance
from snnfast.bench.policies import Holding, Protocol, cache_folder, default_cache, holding
from snnfast.conversion import convert
from snnfast.evaluation import evaluate
from snnfast.shares import in_percent


def run(
    preset: str,
    *,
    seeds: int = 10,
    first_seed: int = 1,
    cache: Path | None = None,
    protocol: Protocol | None = None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Train (or read) policies until ``seeds`` of them hold, convert each, and compare.

    Args:
        preset: of the conversion.
        seeds: how many policies that hold are wanted.
        first_seed: seeds are tried from this one on.
        cache: folder for trained policies; :func:`default_cache` by default.
        protocol: what is measured.
        say: prints a line.

    Returns:
        Per seed and over the seeds: similarity, returns of both, spikes; seeds that failed; machine and versions.

    Raises:
        RuntimeError: if fewer than one policy in five holds.
    """
    protocol = protocol or Protocol()
    folder = cache_folder(default_cache() if cache is None else cache, protocol)
    say(f"{protocol.env_id}, preset {preset}: {seeds} policies, {protocol.episodes} x {protocol.max_steps} steps each")
    say(f"trained policies are kept in {folder}")
    say("")
    say(_HEADER)
    rows: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for held in holding(protocol, seeds=seeds, first_seed=first_seed, cache=cache, failed=failed, say=say):
        rows.append(_measure(held, preset))
        say(_line(rows[-1]))
    result = {
        "benchmark": "similarity",
        "preset": preset,
        "protocol": dataclasses.asdict(protocol),
        "seeds": rows,
        "failed_seeds": failed,
        "similarity": _summary([row["similarity"] for row in rows]),
        "relative_return": _summary([row["relative_return"] for row in rows]),
        "spikes_per_decision": _summary([row["spikes_per_decision"] for row in rows]),
        **provenance(),
    }
    say(summary(result))
    return result


_HEADER = (
    f"{'seed':>5} {'similarity':>11} {'return':>8} {'original':>9} {'relative':>9} {'spikes':>8} {'trained for':>14}"
)


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['seed']:>5} {in_percent(row['similarity'], 3):>9} % {row['mean_return']:>8.1f} "
        f"{row['original_return']:>9.1f} {row['relative_return']:>9.4f} "
        f"{row['spikes_per_decision']:>8.1f} {row['training']['episodes']:>5} episodes"
    )


def summary(result: dict[str, Any]) -> str:
    """The last lines of the table: mean, smallest and largest over the seeds."""
    lines = []
    for name in ("mean", "min", "max"):
        lines.append(
            f"{name:>5} {in_percent(result['similarity'][name], 3):>9} % {'':>8} {'':>9} "
            f"{result['relative_return'][name]:>9.4f} {result['spikes_per_decision'][name]:>8.1f}"
        )
    tried = len(result["seeds"]) + len(result["failed_seeds"])
    lines.append("")
    lines.append(
        f"similarity: share of decisions equal to the original's on the same states; relative: return over the "
        f"original's.\n{len(result['seeds'])} of {tried} trained policies hold and were used."
    )
    return "\n".join(lines)


def _summary(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "min": min(values), "max": max(values)}


def _measure(held: Holding, preset: str) -> dict[str, Any]:
    """One policy's figures."""
    network = convert(held.policy, held.replay, preset=preset)
    report = evaluate(held.original.env_id, network, compare_against=held.policy, **held.rules)
    assert report.similarity is not None
    return {
        "seed": held.seed,
        "similarity": report.similarity,
        "similarity_interval": list(report.similarity_interval or ()),
        "decisions": report.decisions,
        "mean_return": report.mean_return,
        "std_return": report.std_return,
        "original_return": held.original.mean_return,
        "original_std_return": held.original.std_return,
        "relative_return": report.mean_return / held.original.mean_return,
        "mean_steps": report.mean_steps,
        "spikes_per_decision": report.spikes_per_decision,
        "synaptic_operations_per_decision": report.synaptic_operations_per_decision,
        "evaluation_seconds": report.seconds,
        "training": held.training,
    }
