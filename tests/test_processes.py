# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C, fork, spawn and threads around long and parallel calls."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import snnfast as sf
from conftest import random_observations, random_spec
from snnfast import backends


def wide_network(decoding: str = "potential") -> tuple[backends.CpuExecutable, torch.Tensor]:
    spec = random_spec(4, sizes=(16, 300, 300, 4), timesteps=100, encoding="constant", decoding=decoding,
                       split_inputs=False, bias_input=False)  # fmt: skip
    return backends.CpuExecutable(spec), random_observations(spec, 400, 4)


def long_calls() -> dict[str, object]:
    """Calls that would take many seconds: on the pool, on one thread, by tables, and one layer by itself."""
    wide, observations = wide_network()
    many = observations.repeat(200, 1)
    tiny = sf.SpikingNetwork([torch.ones(16, 4), torch.ones(2, 16)], timesteps=10_000)
    one_long = sf.SpikingNetwork([torch.ones(64, 4) * 0.1, torch.ones(64, 64), torch.ones(2, 64)], timesteps=2**24 - 1)
    current = torch.ones(200_000, 1, 500)
    return {
        "events, pool": lambda: wide.run(many, 0),
        "tables, pool": lambda: tiny(torch.ones(200_000, 4)),
        "events, one sample": lambda: one_long(torch.ones(1, 4)),
        "simulate": lambda: wide.simulate(many, 0, ()),
        "layer over time": lambda: [sf.if_forward(current, torch.zeros(1, 500)) for _ in range(50)],
    }


@pytest.mark.parametrize("name", list(long_calls()))
def test_ctrl_c_is_honoured_within_a_tenth_of_a_second_and_the_next_call_works(name: str) -> None:
    call = long_calls()[name]
    delays = []
    for _ in range(3):
        sent = []

        def interrupt(times: list[float] = sent) -> None:
            times.append(time.perf_counter())
            os.kill(os.getpid(), signal.SIGINT)

        timer = threading.Timer(0.3, interrupt)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            call()  # type: ignore[operator]
        delays.append(time.perf_counter() - sent[0])
        timer.join()
    # The median of three: the machine that runs this test may be busy with others.
    assert sorted(delays)[1] < 0.1, delays
    executable, observations = wide_network()
    assert executable.run(observations[:2], 0).shape == (2, 4)


def run_in_child(queue: multiprocessing.Queue[float]) -> None:
    executable, observations = wide_network()
    loops = backends.parallel_loops()
    total = float(executable.run(observations, 0).double().sum())
    assert backends.parallel_loops() == loops + 1, "the child's pool did not run"
    queue.put(total)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_child_processes_started_after_parallel_work_run_in_parallel_too(method: str) -> None:
    before = sf.num_threads()
    sf.set_num_threads(2)
    try:
        executable, observations = wide_network()
        want = float(executable.run(observations, 0).double().sum())
        context = multiprocessing.get_context(method)
        for _ in range(5 if method == "fork" else 1):
            queue = context.Queue()
            child = context.Process(target=run_in_child, args=(queue,))
            child.start()
            assert queue.get(timeout=60) == want
            child.join(timeout=60)
            assert child.exitcode == 0
    finally:
        sf.set_num_threads(before)


def test_one_network_called_from_many_threads_gives_the_same_bits() -> None:
    executable, observations = wide_network("mean_potential")
    want = executable.run(observations, 0)
    with ThreadPoolExecutor(8) as pool:
        for result in pool.map(lambda _: executable.run(observations, 0), range(24)):
            assert torch.equal(result, want)


def test_other_threads_run_while_a_long_call_does() -> None:
    executable, observations = wide_network()
    many = observations.repeat(20, 1)
    switch = sys.getswitchinterval()
    ticks = 0
    done = threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not done.is_set():
            ticks += 1
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.perf_counter()
    executable.run(many, 0)
    seconds = time.perf_counter() - start
    done.set()
    thread.join()
    assert sys.getswitchinterval() == switch
    assert ticks > seconds / 0.001 / 20
