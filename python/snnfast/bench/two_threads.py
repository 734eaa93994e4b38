# SPDX-License-Identifier: Apache-2.0
"""How much two threads give, against what the machine has to give: two processes of one thread each, run at once.

Two processes share nothing but the machine, so their throughput together is the most that two threads can reach; a
machine whose cores share power, cache or a noisy neighbour gives less than twice one.
"""

from __future__ import annotations

import multiprocessing
import queue
import signal
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor

from snnfast.backends import num_threads, set_num_threads
from snnfast.bench.workloads import SHAPES, make_workload

#: Longer than this for a process to answer means that it has died.
_PATIENCE = 300.0


def _samples_per_second(run: Callable[[Tensor], Tensor], observations: Tensor, seconds: float) -> float:
    """Throughput over about that long: whole calls only."""
    calls, began = 0, time.perf_counter()
    while True:
        run(observations)
        calls += 1
        lasted = time.perf_counter() - began
        if lasted >= seconds:
            return calls * len(observations) / lasted


def _process(name: str, batch: int, seconds: float, start: Any, answers: Any) -> None:
    """One of the two processes: every time that both and the parent are ready, run for a while and say how fast."""
    torch.set_num_threads(1)
    set_num_threads(1)
    shape = SHAPES[name]
    workload = make_workload(name, shape.sizes, shape.timesteps)
    observations = workload.observations(batch)
    workload.spiking(observations)
    while True:
        try:
            start.wait(_PATIENCE)
        except threading.BrokenBarrierError:  # the parent has seen enough, or is no more
            return
        answers.put(_samples_per_second(workload.spiking, observations, seconds))


def _start_deaf_to_ctrl_c(processes: Sequence[BaseProcess]) -> None:
    """Start processes that Ctrl-C does not reach: their parent ends them, without tracebacks of their own."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # children inherit it
    try:
        for process in processes:
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def measure(name: str, batch: int, *, rounds: int = 5, seconds: float = 1.0) -> dict[str, Any]:
    """Compare two threads with two processes, round after round.

    Args:
        name: a workload of :data:`snnfast.bench.workloads.SHAPES`, at its usual rate, exact.
        batch: samples per call.
        rounds, seconds: how often, and how long each of the two runs per round.

    Returns:
        Samples per second of both and of one thread (medians), and the ratio of the two within a round (median, best).

    Raises:
        RuntimeError: if a process does not answer.
    """
    shape = SHAPES[name]
    workload = make_workload(name, shape.sizes, shape.timesteps)
    observations = workload.observations(batch)
    context = multiprocessing.get_context("spawn")
    start, answers = context.Barrier(3), context.Queue()
    processes = [
        context.Process(target=_process, args=(name, batch, seconds, start, answers), daemon=True) for _ in range(2)
    ]
    own_threads = num_threads()
    one, both, threads = [], [], []
    try:
        _start_deaf_to_ctrl_c(processes)
        for _ in range(rounds):
            start.wait(_PATIENCE)
            both.append(answers.get(timeout=_PATIENCE) + answers.get(timeout=_PATIENCE))
            set_num_threads(2)
            threads.append(_samples_per_second(workload.spiking, observations, seconds))
            set_num_threads(1)
            one.append(_samples_per_second(workload.spiking, observations, seconds / 2))
    except (queue.Empty, OSError, threading.BrokenBarrierError) as error:
        raise RuntimeError("a process of the comparison with two threads does not answer") from error
    finally:
        set_num_threads(own_threads)
        start.abort()
        for process in (p for p in processes if p.pid is not None):  # those that were started
            process.terminate()
            process.join()
    ratios = [a / b for a, b in zip(threads, both, strict=True)]
    return {
        "workload": name,
        "batch": batch,
        "one_thread": statistics.median(one),
        "two_threads": statistics.median(threads),
        "two_processes": statistics.median(both),
        "threads_over_processes": statistics.median(ratios),
        "threads_over_processes_best": max(threads) / max(both),
        "rounds": rounds,
        "seconds": seconds,
    }
