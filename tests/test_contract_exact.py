# SPDX-License-Identifier: Apache-2.0
"""The exact contract at large: one hash per network, whatever it runs on and however the work is divided.

`test_parity.py` compares with the reference, bit by bit and with records. Here are more networks, the shapes at which
methods change, batches large enough for the thread pool, and weights on a grid, for which the fast contract must give
the exact bits too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
import time
from collections.abc import Iterable

import numpy as np
import pytest
import torch

import snnfast as sf
from conftest import implementations, on_grid, random_observations, random_spec
from snnfast import backends
from snnfast.bench.contract import network_of
from snnfast.spec import NetworkSpec

REFERENCE, *COMPILED = implementations()
THREADS = (1, 2, 3, 7)
BORDERS = (16, 17, 32, 33, 64)
CHUNK = 50


@dataclasses.dataclass(frozen=True)
class Case:
    spec: NetworkSpec
    batch: int
    grid: bool
    pool: bool  # whether the batch is so large that the pool must start


def make_case(number: int) -> Case:
    """Network ``number`` of the series: ten kinds in turn, every third network on a grid."""
    rng, kind = random.Random(number), number % 10
    batch = rng.choice([1, 2, 5, 9, 17, 33])
    fixed: dict[str, object] = {}
    if kind >= 4:
        fixed["timesteps"] = rng.choice([2, 7, 16, 33])
    if kind in (4, 5):
        fixed["sizes"] = (rng.choice([3, 8, 17]), rng.choice(BORDERS), rng.choice(BORDERS), rng.choice([2, 16, 17, 33]))
    elif kind == 6:
        fixed["sizes"] = (rng.choice([2, 90]), rng.choice([65, 130, 257, 300, 530]), rng.choice([4, *BORDERS]), 3)
    elif kind == 7:
        fixed["sizes"] = (5, rng.choice(BORDERS), rng.choice([100, 129, 200, 300]))
    elif kind in (8, 9):
        fixed |= {"sizes": (8, rng.choice(BORDERS[2:]), rng.choice(BORDERS), 4), "timesteps": rng.choice([16, 24])}
        batch = rng.choice([400, 401, 700])
    if kind in (5, 9):  # what converted policies are
        fixed |= {"encoding": "constant", "alpha": 0.0, "beta": 1.0, "decoding": rng.choice(["potential", "spikes"])}
    spec = random_spec(number, **fixed)
    grid = number % 3 == 0
    return Case(on_grid(spec, rng.choice([4, 8, 12, 15, 16])) if grid else spec, batch, grid, pool=kind >= 8)


def digest(tensors: Iterable[torch.Tensor | None]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        if tensor is not None:
            found.update(tensor.numpy().tobytes())
    return found.hexdigest()


def seconds_of(executable: backends.Executable, observations: torch.Tensor, seed: int) -> float:
    """The least of some calls: on one thread, as it is asked."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        executable.run(observations, seed, 0)
        times.append(time.perf_counter() - start)
    return min(times)


def fingerprint(executable: backends.Executable, observations: torch.Tensor, seed: int, cuts: list[int]) -> str:
    """One hash of all bits that a network gives: outputs of both ways to run it, and spike counts."""
    runs, simulations, first = [], [], 0
    for part in torch.tensor_split(observations, cuts):
        runs.append(executable.run(part, seed, first))
        simulations.append(executable.simulate(part, seed, (), first))
        first += len(part)
    pieces = [torch.cat(runs), torch.cat([s.output for s in simulations])]
    pieces += [torch.cat(counts) for counts in zip(*(s.spike_counts for s in simulations), strict=True)]
    if simulations[0].input_spike_counts is not None:
        pieces.append(torch.cat([s.input_spike_counts for s in simulations]))
    return digest(pieces)


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterable[None]:
    before = sf.num_threads()
    yield
    sf.set_num_threads(before)


def check_case(number: int, *, with_reference: bool) -> tuple[Case, bool]:
    """All ways to run one network of the series; asserts that they give one hash. Returns whether the pool started."""
    case = make_case(number)
    observations = random_observations(case.spec, case.batch, number)
    cuts = [1, case.batch // 3] if case.batch > 3 else [case.batch // 2]
    found: dict[str, str] = {}
    pooled = False
    if with_reference and not case.pool:
        found["reference"] = fingerprint(REFERENCE.compile(case.spec), observations, number, [])
    ways = {f"{i.name} {way}": executable for i in COMPILED for way, executable in enumerate(i.ways(case.spec))}
    if case.grid:
        ways["fast"] = network_of(case.spec, exact=False)._executable
    for name, executable in ways.items():
        for threads in THREADS:
            sf.set_num_threads(threads)
            loops = backends.parallel_loops()
            found[f"{name}, {threads} threads"] = fingerprint(executable, observations, number, [])
            if case.pool:
                started = backends.parallel_loops() > loops
                pooled = pooled or started
                if threads == 1:
                    assert not started
                    long_enough = seconds_of(executable, observations, number) > 5e-4
                elif long_enough:  # what takes less may stay on one thread
                    assert started, f"network {number}, {name}, {threads} threads"
            if threads in (1, 3):
                found[f"{name}, {threads} threads, cut at {cuts}"] = fingerprint(executable, observations, number, cuts)
    assert len(set(found.values())) == 1, f"network {number}, batch {case.batch}: {found} for {case.spec}"
    return case, pooled


def check_series(numbers: range, *, reference_every: int) -> None:
    checked = [check_case(n, with_reference=n // 10 % reference_every == 0) for n in numbers]
    cases = [case for case, _ in checked]
    assert sum(pooled for _, pooled in checked) >= len(cases) // 6
    assert sum(case.grid for case in cases) >= len(cases) // 4


@pytest.mark.parametrize("first", range(0, 150, CHUNK))
def test_150_networks_give_one_hash_each_on_everything_this_machine_has(first: int) -> None:
    check_series(range(first, first + CHUNK), reference_every=5)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("first", range(0, 2000, CHUNK))
def test_2000_networks_give_one_hash_each_on_everything_this_machine_has(first: int) -> None:
    check_series(range(first, first + CHUNK), reference_every=1)


def test_the_series_has_what_it_promises() -> None:
    cases = [make_case(n) for n in range(700)]
    hidden = {w.shape[0] for c in cases for w in c.spec.weights[:-1]}
    assert hidden >= set(BORDERS) | {300}
    inputs = {w.shape[1] for c in cases for w in c.spec.weights[1:]}
    assert inputs >= {300, 530}, "more than a segment's rows: 256 with AVX-512, 512 with the others"
    assert max(w.shape[0] for c in cases for w in c.spec.weights[-1:]) >= 300
    for grid in (False, True):
        options = {(c.spec.encoding, c.spec.decoding, c.spec.neuron.order) for c in cases if c.grid == grid}
        assert len(options) == 3 * 4 * 2
    assert sum(c.pool and c.grid for c in cases) >= 40


@pytest.mark.parametrize("number", [0, 4, 9])
def test_the_hash_sees_one_bit(number: int) -> None:
    case = make_case(number)
    observations = random_observations(case.spec, case.batch, number)
    executable = COMPILED[0].compile(case.spec)

    class Changed:
        def run(self, *arguments: object) -> torch.Tensor:
            output = executable.run(*arguments)
            output[-1, -1] = torch.nextafter(output[-1, -1], torch.tensor(torch.inf))
            return output

        simulate = staticmethod(executable.simulate)

    honest = fingerprint(executable, observations, number, [])
    assert fingerprint(executable, observations, number, []) == honest
    assert fingerprint(Changed(), observations, number, []) != honest


def test_weights_off_the_grid_would_not_do() -> None:
    # The control of "fast": with the inputs of its second layer in another order, a network on a grid keeps its bits,
    # and the same network before snapping does not.
    spec = random_spec(8, sizes=(8, 64, 33, 4), encoding="constant", decoding="potential", timesteps=24, alpha=0.0,
                       split_inputs=False, bias_input=False, beta=1.0)  # fmt: skip
    order = np.random.default_rng(0).permutation(64)
    for network, same in ((spec, False), (on_grid(spec, 16), True)):
        first, second, last = network.weights
        shuffled = (first[order], np.ascontiguousarray(second[:, order]), last)
        biases = tuple(b if i or b is None else b[order] for i, b in enumerate(network.biases))
        turned = dataclasses.replace(network, weights=shuffled, biases=biases)
        observations = random_observations(network, 300, 8)
        for implementation in COMPILED:
            a, b = (
                implementation.compile(s).simulate(observations, 0, {"potentials"}).potentials
                for s in (network, turned)
            )
            assert torch.equal(a[1], b[1]) == same
