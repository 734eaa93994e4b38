# SPDX-License-Identifier: Apache-2.0
"""The science, as properties that hold for every implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import Implementation, implementations, random_observations, random_spec
from snnfast.reference import plain
from snnfast.spec import NetworkSpec, NeuronSpec

every_implementation = pytest.mark.parametrize("implementation", implementations(), ids=lambda i: i.name)
# Multiples of 1/16 add and subtract without rounding, so laws of the real numbers hold to the last bit.
dyadic = st.integers(-32, 32).map(lambda k: k / 16)


def layer_case(seed: int, steps: int, batch: int, neurons: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    current = torch.randint(-16, 33, (steps, batch, neurons), generator=generator) / 16
    return current, torch.randint(0, 16, (batch, neurons), generator=generator) / 16


@every_implementation
@given(seed=st.integers(0, 1000), steps=st.integers(0, 40), neurons=st.integers(1, 20))
def test_charge_is_conserved(implementation: Implementation, seed: int, steps: int, neurons: int) -> None:
    current, v0 = layer_case(seed, steps, 2, neurons)
    spikes, v = implementation.if_forward(current, v0, 0.75, "immediate")
    expected = v0.double() + current.double().sum(0) - 0.75 * spikes.double().sum(0)
    assert torch.equal(v.double(), expected)


@every_implementation
@given(seed=st.integers(0, 1000), cut=st.integers(0, 30))
def test_one_long_run_equals_two_joined_runs(implementation: Implementation, seed: int, cut: int) -> None:
    current, v0 = layer_case(seed, 30, 2, 9)
    spikes, v = implementation.if_forward(current, v0, 1.0, "immediate")
    first, between = implementation.if_forward(current[:cut], v0, 1.0, "immediate")
    second, end = implementation.if_forward(current[cut:], between, 1.0, "immediate")
    assert torch.equal(torch.cat([first, second]), spikes)
    assert torch.equal(end, v)


@every_implementation
@given(seed=st.integers(0, 10_000))
def test_order_of_the_batch_does_not_matter(implementation: Implementation, seed: int) -> None:
    spec = random_spec(seed)
    if spec.encoding == "poisson":  # its random numbers belong to the sample's place in the batch
        return
    observations = random_observations(spec, 6, seed)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    executable = implementation.compile(spec)
    assert torch.equal(executable.run(observations[order], 0), executable.run(observations, 0)[order])


@every_implementation
@given(current=st.integers(0, 64).map(lambda k: k / 64), steps=st.integers(1, 200))
def test_rate_is_within_one_spike_of_the_current(implementation: Implementation, current: float, steps: int) -> None:
    h = torch.full((steps, 1, 1), current)
    spikes, _ = implementation.if_forward(h, torch.zeros(1, 1), 1.0, "immediate")
    assert int(spikes.sum()) == math.floor(steps * current)
    half, _ = implementation.if_forward(h, torch.full((1, 1), 0.5), 1.0, "immediate")
    assert int(half.sum()) == min(steps, math.floor(steps * current + 0.5))


@every_implementation
@given(
    weights=st.lists(dyadic, min_size=3, max_size=3),
    x=st.lists(st.integers(0, 16).map(lambda k: k / 16), min_size=3, max_size=3),
)
def test_known_network_reaches_known_counts(
    implementation: Implementation, weights: list[float], x: list[float]
) -> None:
    # One hidden neuron with a constant current z fires clip(floor(T z + 1/2), 0, T) times if it starts at 1/2.
    timesteps = 16
    spec = NetworkSpec(
        (np.array([weights]), np.array([[2.0]])),
        (None, np.array([0.25])),
        NeuronSpec(initial_potential=0.5),
        timesteps,
    )
    result = implementation.compile(spec).simulate(torch.tensor([x]), 0, ())
    z = sum(w * v for w, v in zip(weights, x, strict=True))
    count = min(max(math.floor(timesteps * z + 0.5), 0), timesteps)
    assert float(result.spike_counts[0]) == count
    assert float(result.output) == 2.0 * count + 0.25 * timesteps


@every_implementation
def test_split_inputs_give_the_signed_current(implementation: Implementation) -> None:
    weights = (np.array([[0.5, -0.25], [0.125, 1.0]]), np.array([[1.0, -1.0]]))
    plain = NetworkSpec(weights, (None, None), NeuronSpec(), 20)
    split = NetworkSpec(weights, (None, None), NeuronSpec(), 20, split_inputs=True)
    x = torch.tensor([[0.5, -0.75], [-1.0, 0.25], [0.0, 0.0]])
    assert torch.equal(implementation.compile(plain).run(x, 0), implementation.compile(split).run(x, 0))


@every_implementation
def test_bias_as_input_equals_a_bias(implementation: Implementation) -> None:
    hidden, out = np.array([[0.5, 0.25]]), np.array([[1.0]])
    with_bias = NetworkSpec((hidden, out), (np.array([0.125]), None), NeuronSpec(), 20)
    as_input = NetworkSpec((np.array([[0.5, 0.25, 0.125]]), out), (None, None), NeuronSpec(), 20, bias_input=True)
    x = torch.tensor([[0.5, 0.75], [1.0, 0.0]])
    assert torch.equal(implementation.compile(with_bias).run(x, 0), implementation.compile(as_input).run(x, 0))


@every_implementation
def test_poisson_rates_are_the_probabilities(implementation: Implementation) -> None:
    # 7 rates x 400,000 draws; a binomial count leaves five standard deviations once in 1.7 million.
    rates = torch.tensor([0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0])
    spec = NetworkSpec((np.eye(7),), (None,), NeuronSpec(), 200, encoding="poisson")
    batch = 400 if implementation.isa is None else 2000
    counts = implementation.compile(spec).simulate(rates.repeat(batch, 1), 5, ()).input_spike_counts
    assert counts is not None
    n = batch * 200
    share = counts.double().sum(0) / n
    deviation = (rates * (1 - rates) / n).sqrt().double()
    assert ((share - rates).abs() <= 5 * deviation + 2**-24).all()
    # A sampler that is off by one per cent must not pass.
    assert not ((share * 1.01 - rates).abs()[1:6] <= 5 * deviation[1:6]).all()


def test_poisson_draws_do_not_depend_on_each_other() -> None:
    u = torch.stack([plain.uniform(t, 2000, 5, seed=3) for t in range(20)]).double() - 0.5
    n = u.numel()
    for a, b in ((u[1:], u[:-1]), (u[:, 1:], u[:, :-1]), (u[:, :, 1:], u[:, :, :-1])):
        correlation = float((a * b).mean()) * 12
        assert abs(correlation) < 5 / math.sqrt(a.numel())
    assert abs(float(u.mean())) < 5 * math.sqrt(1 / 12 / n)
    other = torch.stack([plain.uniform(t, 2000, 5, seed=4) for t in range(20)]).double() - 0.5
    assert abs(float((u * other).mean()) * 12) < 5 / math.sqrt(n)
