# SPDX-License-Identifier: Apache-2.0
"""Copies of a neuron are one potential with several thresholds: the same as that many neurons, each by itself.

The neurons here are simulated one by one in exact fractions. All numbers are dyadic and few, so that float32 makes no
rounding error either, and equality is the only acceptable answer.
"""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracle
from conftest import Implementation, implementations
from snnfast.spec import NetworkSpec, NeuronSpec, RateCode, StagedCode
from test_codes_parity import COMPILED, RECORD_ALL, REFERENCE, assert_same, assert_same_bits

Matrix = list[list[Fraction]]

every_implementation = pytest.mark.parametrize("implementation", implementations(), ids=lambda i: i.name)
# A copy's share of the threshold. Powers of two up to 1 make levels that kernels divide by; others are compared with.
SHARES = (Fraction(1), Fraction(1, 4), Fraction(2), Fraction(3, 4), Fraction(5, 2))


@dataclasses.dataclass
class Neurons:
    """Copies of the neurons of a layer, each with a potential and a memory of its own."""

    threshold: Fraction
    signed: bool
    mem: Matrix  # per neuron, per copy
    net: list[list[int]]

    def step(self, currents: list[Fraction]) -> list[int]:
        """What the copies of every neuron send together: +1 each that fires, -1 each that takes a spike back."""
        sent = [0] * len(currents)
        for i, current in enumerate(currents):
            for k in range(len(self.mem[i])):
                spike = 0
                self.mem[i][k] += current
                if self.mem[i][k] >= self.threshold:
                    spike = 1
                elif self.signed and self.mem[i][k] < 0 and self.net[i][k] > 0:
                    spike = -1
                self.mem[i][k] -= spike * self.threshold
                self.net[i][k] += spike
                sent[i] += spike
        return sent


def start(size: int, copies: int, threshold: Fraction, initial: Fraction, signed: bool) -> Neurons:
    mem = [[(k + initial) / copies * threshold for k in range(copies)] for _ in range(size)]
    return Neurons(threshold, signed, mem, [[0] * copies for _ in range(size)])


def currents(weights: Matrix, bias: list[Fraction], values: list[Fraction]) -> list[Fraction]:
    sums = [sum((w * x for w, x in zip(row, values, strict=True)), Fraction(0)) for row in weights]
    return [s + b for s, b in zip(sums, bias, strict=True)]


def random_matrix(rng: np.random.Generator, rows: int, columns: int, unit: Fraction) -> Matrix:
    return [[int(k) * unit for k in row] for row in rng.integers(-9, 10, (rows, columns))]


def as_array(values: object) -> np.ndarray:
    return np.array(values, dtype=np.float64)


@every_implementation
@given(
    seed=st.integers(0, 10_000),
    copies=st.sampled_from([1, 2, 3, 4, 5, 8, 20]),
    share=st.sampled_from(SHARES),
    initial=st.sampled_from([Fraction(1, 2), Fraction(0), Fraction(1), Fraction(-3, 2), Fraction(5, 2)]),
    signed=st.booleans(),
    batch=st.sampled_from([1, 40]),
)
def test_copies_are_that_many_neurons(
    implementation: Implementation,
    seed: int,
    copies: int,
    share: Fraction,
    initial: Fraction,
    signed: bool,
    batch: int,
) -> None:
    rng = np.random.default_rng(seed)
    sizes, threshold, steps = (2, 5, 4, 2), share * copies, 14
    units = [share / 8, Fraction(copies, 8), Fraction(copies, 8)]  # of what a copy sends: a share of the weight
    weights = [random_matrix(rng, n, m, u) for m, n, u in zip(sizes, sizes[1:], units, strict=False)]
    biases = [[int(k) * share / 8 for k in rng.integers(-3, 6, n)] for n in sizes[1:]]
    observations = [[Fraction(int(k), 4) for k in row] for row in rng.integers(-8, 9, (3, sizes[0]))]
    spec = NetworkSpec(
        tuple(as_array(w) for w in weights),
        tuple(as_array(b) for b in biases),
        NeuronSpec(threshold=float(threshold), initial_potential=float(initial)),
        steps,
        code=RateCode(copies, signed),
    )
    given_rows = torch.tensor(as_array(observations), dtype=torch.float32)
    rows = torch.arange(batch) % len(observations)
    got = implementation.compile(spec).simulate(given_rows[rows], 0, RECORD_ALL)
    assert got.spikes is not None
    assert got.potentials is not None
    plain = implementation.compile(spec).run(given_rows[rows], 0)  # without records other kernels run
    for row, x in enumerate(observations[:batch]):
        hidden = [start(n, copies, threshold, initial, signed) for n in sizes[1:-1]]
        total = [Fraction(0)] * sizes[-1]
        counts = [[0] * n for n in sizes[1:-1]]
        for t in range(steps):
            h = currents(weights[0], biases[0], x)
            for layer, neurons in enumerate(hidden):
                before = [list(net) for net in neurons.net]
                sent = neurons.step(h)
                assert got.spikes[layer][t, row].tolist() == sent
                lowest = [float(min(mem)) for mem in neurons.mem]
                assert got.potentials[layer][t, row].tolist() == lowest
                for i, (old, new) in enumerate(zip(before, neurons.net, strict=True)):
                    counts[layer][i] += sum(abs(a - b) for a, b in zip(old, new, strict=True))
                h = currents(weights[layer + 1], biases[layer + 1], [Fraction(s, copies) for s in sent])
            total = [a + b for a, b in zip(total, h, strict=True)]
        assert all(oracle.is_float32(v) for v in total)
        expected = [float(v) for v in total]
        for sample in range(row, batch, len(observations)):
            assert got.output[sample].tolist() == plain[sample].tolist() == expected
            assert [c[sample].tolist() for c in got.spike_counts] == counts


@every_implementation
@given(
    seed=st.integers(0, 10_000),
    copies=st.sampled_from([1, 2, 4, 8]),
    steps=st.sampled_from([1, 7, 16]),
    ramp=st.booleans(),
    size=st.sampled_from([6, 20]),
)
def test_staged_copies_are_that_many_neurons(
    implementation: Implementation, seed: int, copies: int, steps: int, ramp: bool, size: int
) -> None:
    rng = np.random.default_rng(seed)
    # The threshold is 1, so shares are dyadic only of powers of two. The last weights undo what a spike is worth.
    first = random_matrix(rng, size, 2, Fraction(1, 16))
    worth = copies * (steps * (steps + 1) // 2 if ramp else steps)
    last = [[Fraction(int(k) * worth) for k in rng.integers(-3, 4, size)]]
    spec = NetworkSpec(
        (as_array(first), as_array(last)),
        (None, None),
        NeuronSpec(initial_potential=0.5),
        steps,
        code=StagedCode(ramp, copies),
    )
    observations = [[Fraction(int(k), 4) for k in row] for row in rng.integers(-6, 7, (3, 2))]
    rows = torch.tensor(as_array(observations), dtype=torch.float32)[torch.arange(40) % 3]
    executable = implementation.compile(spec)
    got = executable.simulate(rows, 0, RECORD_ALL)
    counted = executable.simulate(rows, 0, ())  # without records other kernels run
    plain = executable.run(rows, 0)
    assert got.spikes is not None
    for row, x in enumerate(observations):
        neurons = start(size, copies, Fraction(1), Fraction(1, 2), signed=False)
        h = currents(first, [Fraction(0)] * size, x)
        output, counts = Fraction(0), [0] * size
        for t in range(steps):
            sent = neurons.step(h)
            assert got.spikes[0][t, row].tolist() == sent
            counts = [a + b for a, b in zip(counts, sent, strict=True)]
            weighed = [w / worth * s for w, s in zip(last[0], sent, strict=True)]
            output += sum(weighed, Fraction(0)) * (steps - t if ramp else 1)
        for sample in range(row, len(rows), 3):
            assert got.output[sample].tolist() == counted.output[sample].tolist() == [float(output)]
            assert plain[sample].tolist() == [float(output)]
            assert got.spike_counts[0][sample].tolist() == counted.spike_counts[0][sample].tolist() == counts


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("initial", [0.0, 0.5])
@pytest.mark.parametrize("copies", [1, 3, 4, 256])
@pytest.mark.parametrize("threshold", [1.0, 0.3, 2.0, 16.0, 1e-38, 3e38, 2.0**-20, 2.0**-50, 2.0**-64, 2.0**60])
def test_copies_at_every_edge_of_the_number_range(threshold: float, copies: int, initial: float, signed: bool) -> None:
    # Currents around the levels, denormal, huge, and sums that leave the range: infinities, and what is no number.
    level, inf = np.float32(threshold / copies), np.float32(np.inf)
    around = [level, np.nextafter(level, -inf), np.nextafter(level, inf), level / 2, level / 3, np.float32(threshold)]
    some = [*around, *(-x for x in around), 0.0, -0.0, 1e-45, -1e-45, 1e-38, 1e-10, 1.0, -1.0, 1e30, 3e38, -3e38]
    first = np.array(some, dtype=np.float32)[:, None]
    rng = np.random.default_rng(copies)
    second = rng.choice(np.array([0, 1, -1, 1e-45, 3e38, -3e38], dtype=np.float32), (len(first) + 1, len(first)))
    second[:4] = np.where(second[:4] > 0, -3e38, np.where(second[:4] < 0, 3e38, second[:4]))
    # What brings a potential to exactly 0 with a spike, and then just below: a spike to take back.
    second[4:8] = 0
    second[4:8, :3] = np.float32(copies) * level
    bias = np.where(np.arange(len(second)) % 2, np.float32(-1e-45), np.float32(0))
    spec = NetworkSpec(
        weights=(first, second, rng.standard_normal((3, len(second))).astype(np.float32)),
        biases=(None, bias, None),
        neuron=NeuronSpec(threshold=threshold, initial_potential=initial),
        timesteps=40,
        code=RateCode(copies, signed),
    )
    observations = torch.tensor([[1.0], [0.5], [-1.0], [2.0], [0.0]]).repeat(7, 1)
    want = REFERENCE.compile(spec).simulate(observations, 0, RECORD_ALL)
    for implementation in COMPILED:
        executable = implementation.compile(spec)
        assert_same(executable.simulate(observations, 0, RECORD_ALL), want, implementation.name)
        assert_same_bits(executable.run(observations, 0), want.output, implementation.name)


@pytest.mark.parametrize("copies", [1, 2])
def test_a_spike_that_came_a_denormal_too_early_is_taken_back(copies: int) -> None:
    # -1.4e-45 over a level of 2 would be 0: such levels are compared with, not divided by.
    size = np.float32(2 * copies)
    weights = tuple(np.full((1, 1), w, dtype=np.float32) for w in (1.0, size, 1.0))
    spec = NetworkSpec(
        weights,
        (None, np.float32([-1.4e-45]), None),
        NeuronSpec(threshold=float(size), initial_potential=0.0),
        6,
        code=RateCode(copies, signed=True),
    )
    ones = torch.ones(40, 1)
    want = REFERENCE.compile(spec).simulate(ones, 0, RECORD_ALL)
    assert want.spikes is not None
    assert bool((want.spikes[1] < 0).any())
    for implementation in COMPILED:
        assert_same(implementation.compile(spec).simulate(ones, 0, RECORD_ALL), want, implementation.name)
        assert_same_bits(implementation.compile(spec).run(ones, 0), want.output, implementation.name)
