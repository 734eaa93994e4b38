# SPDX-License-Identifier: Apache-2.0
"""The table of a first layer's spike trains gives the bits of running its neurons, at every current where they change.

Tables made to order have it from the start; otherwise it comes after many samples.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import snnfast as sf
from conftest import implementations
from snnfast import backends
from snnfast.backends import CpuExecutable
from snnfast.spec import NetworkSpec, NeuronSpec
from test_parity import assert_same_bits, assert_same_simulation

REFERENCE = implementations()[0]
ISAS = backends.instruction_sets()
NEURONS = 16


def passing_on(threshold: float, initial: float, timesteps: int, **neuron: object) -> NetworkSpec:
    """A network whose inputs are the currents of its first layer, and whose output depends on when that spikes."""
    numbers = np.random.default_rng(timesteps)
    weights = [np.eye(NEURONS), numbers.normal(size=(NEURONS, NEURONS)) * 0.6, numbers.normal(size=(3, NEURONS))]
    return NetworkSpec(
        tuple(w.astype(np.float32) for w in weights),
        (None, None, None),
        NeuronSpec(threshold=threshold, initial_potential=initial, **neuron),  # type: ignore[arg-type]
        timesteps=timesteps,
        decoding="mean_potential",
    )


def currents_around_every_change(threshold: float, initial: float, timesteps: int) -> torch.Tensor:
    """Currents (B, NEURONS): those at which, but for rounding, a spike moves by a step, and the floats next to them."""
    t = np.arange(1, timesteps + 1)[:, None]
    k = np.arange(1, timesteps + 1)[None, :]
    start = np.float64(np.float32(initial)) * np.float64(np.float32(threshold))
    changes = ((k * np.float64(np.float32(threshold)) - start) / t)[k <= t].astype(np.float32)
    near = [changes]
    for direction in (np.float32(np.inf), np.float32(-np.inf)):
        value = changes
        for _ in range(2):
            value = np.nextafter(value, direction)
            near.append(value)
        near.append(changes + np.float32(2.0**-24) * np.sign(direction) * np.float32(threshold))
    all_of_them = np.concatenate(near)
    np.random.default_rng(3).shuffle(all_of_them)
    rows = max(8, -(-len(all_of_them) // NEURONS))  # fewer do not go by a table
    return torch.from_numpy(np.resize(all_of_them, (rows, NEURONS)))


def check(spec: NetworkSpec, currents: torch.Tensor, *, with_reference: bool = False) -> None:
    want = CpuExecutable(spec, ISAS[-1], method="events").simulate(currents, 0, ())
    if with_reference:
        assert_same_simulation(REFERENCE.compile(spec).simulate(currents, 0, ()), want)
    for isa in ISAS:
        executable = CpuExecutable(spec, isa, method="tables")
        assert_same_simulation(executable.simulate(currents, 0, ()), want)
        assert_same_bits(executable.run(currents, 0), want.output, isa)
        assert executable.plan.trains > spec.timesteps  # that is what ran


@pytest.mark.parametrize("timesteps", [1, 2, 7, 8, 9, 31, 32, 33, 64, 65, 100, 127, 128])
@pytest.mark.parametrize("initial", [0.0, 0.5, 0.3])
def test_every_current_at_which_a_spike_moves(timesteps: int, initial: float) -> None:
    spec = passing_on(1.0, initial, timesteps)
    check(spec, currents_around_every_change(1.0, initial, timesteps), with_reference=timesteps <= 33)


@given(
    threshold=st.floats(2.0**-90, 2.0**120, width=32),
    initial=st.floats(0.0, 0.9990234375, width=32),
    timesteps=st.integers(1, 128),
    seed=st.integers(0, 2**31),
)
def test_random_neurons_and_currents(threshold: float, initial: float, timesteps: int, seed: int) -> None:
    numbers = np.random.default_rng(seed)
    currents = numbers.uniform(-0.3, 1.3, (64, NEURONS)).astype(np.float32) * np.float32(threshold)
    check(passing_on(threshold, initial, timesteps), torch.from_numpy(currents))


def test_currents_that_are_none_or_huge_or_no_number() -> None:
    # Inputs are finite; currents of this layer are not: 3e38 times 10, and the sum of two such of unlike signs.
    first = np.zeros((NEURONS, 2), np.float32)
    first[:9] = [[10, 0], [-10, 0], [10, -10], [-10, 10], [1, 0], [-1, 0], [1, 1], [0, 0], [-1, -1]]
    spec = passing_on(1.0, 0.5, 100)
    spec = NetworkSpec((first, *spec.weights[1:]), spec.biases, spec.neuron, timesteps=100)
    values = [0.0, -0.0, 1e-45, 1e-38, 0.3, 1.0, 1e30, 3e38]
    rows = [[a * s, b] for a, b, s in itertools.product(values, values, (1, -1))]
    check(spec, torch.tensor(rows, dtype=torch.float32), with_reference=True)


@pytest.mark.parametrize("neurons", [1, 2, 15, 16])
@pytest.mark.parametrize("batch", [8, 9, 15, 16, 17, 31, 33])
def test_layers_and_batches_that_fill_a_vector_or_not(neurons: int, batch: int) -> None:
    numbers = np.random.default_rng(neurons)
    for sizes in ((3, neurons, 2), (3, neurons, 16, 4), (3, neurons, 7, 5, 1), (3, neurons, 20, 3), (3, neurons)):
        weights = [numbers.normal(size=(n, k)).astype(np.float32) for k, n in itertools.pairwise(sizes)]
        decoding = "spikes" if len(weights) == 1 else "potential"
        spec = NetworkSpec(
            tuple(weights), (None,) * len(weights), NeuronSpec(initial_potential=0.5), timesteps=50, decoding=decoding
        )
        observations = torch.from_numpy(numbers.normal(size=(batch, 3)).astype(np.float32))
        check(spec, observations, with_reference=True)


def test_there_is_no_table_for_other_neurons_or_longer_runs_or_wider_layers() -> None:
    currents = torch.rand(20, NEURONS)
    others = [
        passing_on(1.0, 0.5, 129),
        passing_on(1.0, 1.0, 20),
        passing_on(1.0, -0.5, 20),
        passing_on(1e-38, 0.5, 20),
        passing_on(1.0, 0.5, 20, order="delayed"),
        passing_on(1.0, 0.5, 20, reset="zero"),
        passing_on(1.0, 0.5, 20, alpha=0.5),
        passing_on(1.0, 0.5, 20, beta=0.9),
    ]
    for spec in others:
        executable = CpuExecutable(spec, method="tables")
        want = REFERENCE.compile(spec).simulate(currents, 0, ())
        assert_same_simulation(executable.simulate(currents, 0, ()), want)
        assert executable.plan.trains == 0, spec
    weights = (np.ones((17, NEURONS), np.float32), np.ones((2, 17), np.float32))
    wide = NetworkSpec(weights, (None, None), NeuronSpec(initial_potential=0.5), timesteps=20)
    executable = CpuExecutable(wide, method="tables")
    executable.run(currents, 0)
    assert executable.plan.trains == 0


def test_the_table_comes_after_many_samples_and_changes_nothing() -> None:
    spec = passing_on(0.7, 0.25, 90)  # of no other test
    executable, currents = CpuExecutable(spec), torch.rand(1000, NEURONS) * 0.5
    before = executable.run(currents, 0)
    assert executable.plan.trains == 0
    for _ in range(90):
        assert_same_bits(executable.run(currents, 0), before, "while it comes")
    assert executable.plan.trains > 2000
    assert f"looked up by its current, from a table of {executable.plan.trains} spike" in executable.method()["why"]
    # Another network with such neurons has it at once, but for calls that would not gain by it.
    other = CpuExecutable(spec)
    few = other.run(currents[:7], 0)
    assert other.plan.trains == 0
    assert_same_bits(few, before[:7], "few samples")
    assert_same_bits(other.run(currents[:8], 0), before[:8], "eight samples")
    assert other.plan.trains == executable.plan.trains


def test_more_tables_than_are_kept_and_networks_that_outlive_theirs() -> None:
    currents = torch.rand(64, NEURONS)
    made = [CpuExecutable(passing_on(1.0, 0.125, t), method="tables") for t in range(10, 30)]
    wanted = [executable.run(currents, 0) for executable in made]
    for executable, want in zip(reversed(made), reversed(wanted), strict=True):
        assert executable.plan.trains > 0
        assert_same_bits(executable.run(currents, 0), want, "again")


def test_threads_share_one_table() -> None:
    spec, before = passing_on(0.9, 0.375, 77), sf.num_threads()
    currents = torch.rand(80_000, NEURONS) * 0.5
    want = CpuExecutable(spec, method="events").run(currents, 0)
    try:
        sf.set_num_threads(3)
        executable = CpuExecutable(spec)
        assert_same_bits(executable.run(currents, 0), want, "three threads")
        assert executable.plan.trains > 0
    finally:
        sf.set_num_threads(before)


def test_a_child_forked_while_a_table_is_made_makes_its_own() -> None:
    # A lock that is held at that moment is held for ever in the child.
    program = """
import os, sys, threading
import torch
from snnfast.backends import CpuExecutable
from test_spike_trains import NEURONS, passing_on
currents, stop = torch.rand(8, NEURONS), threading.Event()
def make_tables():
    number = 0
    while not stop.is_set():
        number += 1
        CpuExecutable(passing_on(1.0, number / 1e4, 100), method="tables").run(currents, 0)
threads = [threading.Thread(target=make_tables) for _ in range(2)]
[thread.start() for thread in threads]
failed = 0
for number in range(20):
    child = os.fork()
    if child == 0:
        executable = CpuExecutable(passing_on(2.0, 0.5, 10), method="tables")
        executable.run(currents, 0)
        os._exit(0 if executable.plan.trains > 0 else 1)
    failed += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
stop.set()
[thread.join() for thread in threads]
sys.exit(failed)
"""
    here = str(Path(__file__).parent)
    path = os.pathsep.join(filter(None, [here, *sys.path]))
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, timeout=100, check=False)
    assert done.returncode == 0
