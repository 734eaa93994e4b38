# SPDX-License-Identifier: Apache-2.0
"""A last layer from how often its inputs spiked: what it gives, when it is taken and when it must not be."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch

from conftest import implementations, random_observations, random_spec
from snnfast.backends import CpuExecutable
from snnfast.bench.contract import compare
from snnfast.spec import NetworkSpec
from test_parity import RECORD_ALL, assert_same_bits, assert_same_simulation

ISAS = [implementation.isa for implementation in implementations()[1:]]


def accumulating(seed: int, sizes: tuple[int, ...], decoding: str = "potential", **options: object) -> NetworkSpec:
    """A network whose last layer may be counted."""
    plain = {"alpha": 0.0, "beta": 1.0, "order": "immediate", "encoding": "constant", "decoding": decoding}
    return random_spec(seed, sizes=sizes, **{**plain, **options})


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("decoding", ["potential", "mean_potential"])
def test_outputs_are_the_exact_ones_to_within_rounding(isa: str, decoding: str) -> None:
    # Widths around words of spikes and rows of weights; steps around a byte's counts, whole tiles and more.
    cases = [
        (1, 1, 1),
        (16, 33, 1),
        (17, 63, 2),
        (15, 64, 16),
        (16, 65, 17),
        (128, 128, 3),
        (129, 130, 33),
        (300, 520, 5),
    ]
    for seed, (timesteps, n_in, n_out) in enumerate(cases):
        spec = accumulating(seed, (5, n_in, 40, n_in, n_out), decoding, timesteps=timesteps)
        observations = random_observations(spec, [1, 2, 15, 16, 17][seed % 5], seed)
        executable = CpuExecutable(spec, isa, exact=False)
        assert executable.plan.counts_last, executable.method()
        verdict = compare(spec, observations, functools.partial(executable.simulate, seed=0, record=("spikes",)))
        assert verdict.unexplained == 0, (seed, verdict.examples)
        # The spikes are mostly the same, and then outputs are close.
        got, want = executable.run(observations, 0), CpuExecutable(spec, isa).run(observations, 0)
        near = torch.isclose(got, want, rtol=1e-4, atol=1e-4 * timesteps).all(dim=1)
        assert near.double().mean() > 0.9


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("decoding", ["potential", "mean_potential"])
def test_counts_of_small_whole_numbers_are_exact(isa: str, decoding: str) -> None:
    # Weights and currents of few bits: no sum rounds, so every way to sum gives the same bits. All on a grid, though,
    # are not counted, so one output is not.
    generator = np.random.default_rng(3)
    spec = accumulating(1, (3, 70, 70, 6), decoding, timesteps=128, split_inputs=False, bias_input=False)
    weights = tuple((generator.integers(-8, 9, w.shape) / 16).astype(np.float32) for w in spec.weights)
    biases = tuple((generator.integers(-8, 9, len(w)) / 16).astype(np.float32) for w in spec.weights)
    assert not CpuExecutable(
        dataclasses.replace(spec, weights=weights, biases=biases), isa, exact=False
    ).plan.counts_last
    weights[-1][5, 3] = 1e-20
    neuron = dataclasses.replace(spec.neuron, threshold=1.0, initial_potential=0.5)
    spec = dataclasses.replace(spec, weights=weights, biases=biases, neuron=neuron)
    observations = torch.from_numpy(generator.integers(-4, 5, (19, 3)).astype(np.float32))
    counted = CpuExecutable(spec, isa, exact=False)
    assert counted.plan.counts_last
    want = implementations()[0].compile(spec).simulate(observations, 0, ())
    got = counted.simulate(observations, 0, ())
    for a, b in zip(got.spike_counts, want.spike_counts, strict=True):
        assert_same_bits(a, b, isa)
    assert_same_bits(got.output[:, :5], want.output[:, :5], isa)
    assert_same_bits(counted.run(observations, 0)[:, :5], want.output[:, :5], isa)
    # Recorded potentials are those of every step.
    recorded = counted.simulate(observations, 0, RECORD_ALL)
    assert_same_simulation(recorded, implementations()[0].compile(spec).simulate(observations, 0, RECORD_ALL))


@pytest.mark.parametrize(
    "options",
    [
        {"order": "delayed"},
        {"alpha": 0.5},
        {"beta": 0.9},
        {"decoding": "spikes"},
        {"decoding": "first_spike"},
    ],
)
def test_a_layer_that_does_more_than_accumulate_is_not_counted(options: dict[str, object]) -> None:
    spec = accumulating(2, (3, 70, 70, 6), **options)
    assert not CpuExecutable(spec, exact=False).plan.counts_last


@pytest.mark.parametrize("decoding", ["potential", "mean_potential"])
def test_weights_whose_products_with_counts_could_overflow_are_not_counted(decoding: str) -> None:
    spec = accumulating(2, (1, 40, 3), decoding, timesteps=8, split_inputs=False, bias_input=False)
    weights = np.zeros((3, 40), dtype=np.float32)
    weights[0, :3] = [2.000002e38, -2.000002e38, 0.3]
    weights[1, :3] = [1.2e37, -1.2e37, 0.3]
    spec = dataclasses.replace(
        spec,
        weights=(np.ones((40, 1), dtype=np.float32), weights),
        biases=(None, None),
        neuron=dataclasses.replace(spec.neuron, threshold=1.0, initial_potential=0.0),
    )
    for isa in ISAS:
        fast = CpuExecutable(spec, isa, exact=False)
        assert not fast.plan.counts_last
        assert_same_bits(fast.run(torch.ones(2, 1), 0), CpuExecutable(spec, isa).run(torch.ones(2, 1), 0), isa)


def test_the_exact_contract_and_methods_by_name_do_not_count() -> None:
    spec = accumulating(2, (3, 70, 70, 6), "potential")
    assert "layer 3: from how often each input spiked" in CpuExecutable(spec, exact=False).method()["why"]
    assert not CpuExecutable(spec).plan.counts_last
    assert not CpuExecutable(spec, exact=False, method="events").plan.counts_last
    one_layer = accumulating(2, (3, 70), "potential")
    assert not CpuExecutable(one_layer, exact=False).plan.counts_last


def test_two_layers_and_encoded_inputs_are_counted_too() -> None:
    for options in ({}, {"encoding": "equidistant"}, {"encoding": "poisson"}):
        spec = accumulating(4, (6, 90, 7), "potential", timesteps=40, **options)
        observations = random_observations(spec, 18, 1)
        for isa in ISAS:
            executable = CpuExecutable(spec, isa, exact=False)
            assert executable.plan.counts_last
            want = CpuExecutable(spec, isa).simulate(observations, 7, ("spikes",))
            got = executable.simulate(observations, 7, ("spikes",))
            assert_same_bits(got.spikes[0], want.spikes[0], isa)
            assert torch.allclose(got.output, want.output, rtol=1e-5, atol=1e-4)
