# SPDX-License-Identifier: Apache-2.0
"""Paired timing: rivals take turns within one process, so that a noisy machine disturbs them alike.

Absolute times are one noisy reading; the ratio of two rivals, taken round by round, is what counts.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds per call over the rounds.

    Attributes:
        median, best: over the rounds.
        spread: half the distance between the quartiles, relative to the median.
        rounds: seconds per call of every round, for paired ratios.
        calls: calls per round.
        processor: as ``best``, in time on the processor: without the time that others had it.
    """

    median: float
    best: float
    spread: float
    rounds: tuple[float, ...]
    calls: int
    processor: float


def _seconds(call: Callable[[], object], calls: int) -> tuple[float, float]:
    """Seconds on the wall's clock and on the processor."""
    start, processor = time.perf_counter(), time.process_time()
    for _ in range(calls):
        call()
    return time.perf_counter() - start, time.process_time() - processor


def time_paired(
    rivals: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 31,
    round_seconds: float = 0.01,
    slow_rounds: int = 3,
) -> dict[str, Timing]:
    """Time every rival in turn, round after round.

    Many short rounds rather than a few long ones: then some escape whatever else the machine is doing.

    Args:
        rivals: what to call, by name.
        rounds: how many rounds; at most 9 are taken where a single call lasts longer than 0.1 seconds.
        round_seconds: about how long a rival is called in one round; at least one call.
        slow_rounds: at most this many where a single call lasts longer than a second.

    Returns:
        The timing of every rival, by name.
    """
    calls, slowest = {}, 0.0
    for name, call in rivals.items():
        once, _ = _seconds(call, 1)
        if once < 0.5:  # the first call of a quick one may have built or fetched something; others may be disturbed
            once = min(_seconds(call, 1)[0] for _ in range(3))
        slowest = max(slowest, once)
        calls[name] = max(1, int(round_seconds / max(once, 1e-7)))
    if slowest > 0.1:
        rounds = min(rounds, slow_rounds if slowest > 1.0 else 9)
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    processor: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, call in rivals.items():
            wall, own = _seconds(call, calls[name])
            seconds[name].append(wall / calls[name])
            processor[name].append(own / calls[name])
    timings = {}
    for name, values in seconds.items():
        median = statistics.median(values)
        low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (median,) * 3
        timings[name] = Timing(
            median, min(values), (high - low) / 2 / median, tuple(values), calls[name], min(processor[name])
        )
    return timings


def paired_ratio(slow: Timing, fast: Timing) -> float:
    """How many times faster ``fast`` is: the median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(slow.rounds, fast.rounds, strict=True))


def best_ratio(slow: Timing, fast: Timing) -> float:
    """How many times faster ``fast`` is, each at its best: for machines whose speed has two modes."""
    return slow.best / fast.best
