# SPDX-License-Identifier: Apache-2.0
"""Prefix sums and slices under the exact contract, off the grid: spikes that are certain although the sums are not the
canonical ones, and neurons too near their threshold, which run again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import pytest
import torch

import snnfast as sf
from conftest import random_observations
from snnfast.backends import CpuExecutable, Simulation
from snnfast.bench.workloads import make_workload
from snnfast.spec import NetworkSpec
from test_parity import RECORD_ALL, assert_same_bits, assert_same_simulation
from test_prefix_sums import ISAS, REFERENCE, plain, with_currents
from test_slices import SLICING_ISAS

SPIKES = frozenset({"spikes"})


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterable[None]:
    before = sf.num_threads()
    yield
    sf.set_num_threads(before)


def fires(spec: NetworkSpec, **neuron: float) -> NetworkSpec:
    """The network with a last layer that fires, and other constants of its neurons."""
    return dataclasses.replace(spec, decoding="spikes", neuron=dataclasses.replace(spec.neuron, **neuron))


def assert_exact(spec: NetworkSpec, observations: torch.Tensor) -> Simulation:
    """By prefix sums and by slices, made to order, on every instruction set: the reference's bits, with and without
    records."""
    want = REFERENCE.compile(spec).simulate(observations, 0, SPIKES)
    ways = [(isa, "prefix_sums") for isa in ISAS] + [(isa, "slices") for isa in SLICING_ISAS]
    for isa, method in ways:
        executable = CpuExecutable(spec, isa, method=method)
        assert executable.method()["method"] == method.replace("_", " ")
        assert "canonical sums where a neuron comes too near its threshold" in executable.method()["why"]
        assert_same_simulation(executable.simulate(observations, 0, SPIKES), want)
        assert_same_bits(executable.run(observations, 0), want.output, f"{isa}, {method}, {spec}")
    return want


def at_the_threshold(inputs: int, outputs: int, timesteps: int, seed: int, initial: float = 0.0) -> NetworkSpec:
    """A network of which most neurons of the second layer come within some roundings of their threshold in some step.

    Their biases are chosen so that in real arithmetic they would be there, within what a bias' rounding makes.
    """
    numbers = np.random.default_rng(seed)
    spec = fires(
        with_currents(numbers.uniform(-0.2, 0.9, inputs), numbers.normal(size=(outputs, inputs)) * 0.2, timesteps),
        initial_potential=initial,
    )
    spikes = REFERENCE.compile(spec).simulate(torch.ones(1, 1), 0, SPIKES).spikes
    assert spikes is not None
    currents = spikes[0][:, 0].double().numpy() @ spec.weights[1].T.astype(np.float64)
    then, neurons = numbers.integers(timesteps // 2, timesteps, outputs), np.arange(outputs)
    bias = np.zeros(outputs)
    for _ in range(30):  # a bias moves the spikes before the step as well, so it takes some attempts
        potential, fired = np.full(outputs, initial), np.zeros((timesteps, outputs))
        for t in range(timesteps):
            potential += currents[t] + bias
            fired[t] = potential >= 1.0
            potential -= fired[t]
        before = fired.cumsum(axis=0)[then - 1, neurons]
        bias = (before + 1.0 - initial - currents.cumsum(axis=0)[then, neurons]) / (then + 1)
    spec = dataclasses.replace(spec, biases=(None, bias.astype(np.float32)))
    if initial == 0.0:
        return spec
    # Of layers that fire, only those before the last begin elsewhere than at 0.
    silent = np.zeros((2, outputs), dtype=np.float32)
    return dataclasses.replace(spec, weights=(*spec.weights, silent), biases=(*spec.biases, None))


@pytest.mark.parametrize("seed", range(20))
def test_networks_of_any_shape_keep_the_reference_bits(seed: int) -> None:
    last = [(), (7,), (33, 3)][seed % 3]
    sizes = (5, 2 + 37 * seed % 331, 1 + 29 * seed % 131, *last)
    decoding = ["spikes", "first_spike"][seed % 2]
    spec = plain(seed, sizes, [1, 2, 33, 100, 128][seed % 5], order="immediate", decoding=decoding)
    assert_exact(spec, random_observations(spec, [1, 2, 15, 16, 17, 33][seed % 6], seed))


@pytest.mark.parametrize("outputs", [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129])
def test_neurons_at_their_threshold_run_again_whatever_their_number(outputs: int) -> None:
    assert_exact(at_the_threshold(300, outputs, 60, outputs), torch.tensor([[1.0], [0.99], [0.0], [-1.0]]))


@pytest.mark.parametrize("method", ["prefix_sums", "slices"])
def test_sums_that_nobody_makes_certain_have_other_spikes_there(method: str) -> None:
    # What the test above rests on: the same sums under the fast contract.
    differ = near = 0
    isa = "baseline" if method == "slices" else None
    for seed in range(6):
        spec = at_the_threshold(700, 200, 60, seed)
        want = assert_exact(spec, torch.ones(1, 1))
        fast = CpuExecutable(spec, isa, exact=False, method=method).simulate(torch.ones(1, 1), 0, RECORD_ALL)
        assert fast.spikes is not None
        assert fast.potentials is not None
        assert want.spikes is not None
        different = (fast.spikes[1] != want.spikes[1]).any(dim=0)
        differ += int(different.sum())
        left = torch.minimum(fast.potentials[1].abs(), (fast.potentials[1] - 1.0).abs()).amin(dim=0)
        near += int((left < 1e-5).sum())
    assert near > 400
    assert differ > 60


@pytest.mark.parametrize("inputs", [2, 8])
def test_few_inputs_and_potentials_that_come_from_far_below(inputs: int) -> None:
    # The bound is narrow there, and a current's last bit decides about how a potential is rounded.
    differ = 0
    for seed in range(4):
        spec = at_the_threshold(inputs, 400, 100, seed, initial=-4.0)
        want = assert_exact(spec, torch.ones(1, 1))
        fast = CpuExecutable(spec, exact=False, method="prefix_sums").simulate(torch.ones(1, 1), 0, SPIKES)
        assert fast.spikes is not None
        assert want.spikes is not None
        differ += int((fast.spikes[1] != want.spikes[1]).any(dim=0).sum())
    assert differ > 20


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-6, 1e6, 1e30])
def test_weights_and_thresholds_of_every_size(scale: float) -> None:
    spec = at_the_threshold(200, 70, 40, 3)
    scaled = dataclasses.replace(
        fires(spec, threshold=scale),
        weights=(spec.weights[0] * np.float32(scale), spec.weights[1] * np.float32(scale)),
        biases=(None, None if spec.biases[1] is None else spec.biases[1] * np.float32(scale)),
    )
    assert_exact(scaled, torch.tensor([[1.0], [0.7]]))


@pytest.mark.parametrize("seed", range(4))
def test_where_membranes_could_leave_the_range_of_numbers_events_run_the_layer(seed: int) -> None:
    # A canonical membrane that a rounding has brought to infinity fires ever after; another one would come back.
    numbers = np.random.default_rng(seed)
    weights = numbers.choice([-1.0, 1.0], size=(40, 64)) * numbers.uniform(1e36, 1.5e36, size=(40, 64))
    weights[::2] = np.abs(weights[::2])
    spec = fires(with_currents(numbers.uniform(0.0, 1.2, 64), weights, 28))
    with pytest.raises(ValueError, match="steps, and below 1e38"):
        CpuExecutable(spec, method="prefix_sums")
    observations = torch.tensor([[1.0], [0.4]])
    want = REFERENCE.compile(spec).simulate(observations, 0, RECORD_ALL)
    assert want.potentials is not None
    assert bool(want.potentials[1].isinf().any())
    for isa in ISAS:
        executable = CpuExecutable(spec, isa)
        assert executable.method()["method"] == "events"
        assert_same_simulation(executable.simulate(observations, 0, RECORD_ALL), want)
        assert_same_bits(executable.run(observations, 0), want.output, isa)


def test_a_third_layer_on_a_grid_behind_a_second_one_that_is_not() -> None:
    # Where there is a matrix unit, the third layer takes products of bytes, made of spikes that are settled by then.
    first = at_the_threshold(400, 256, 60, 9, initial=0.5)
    third = np.round(np.random.default_rng(9).normal(size=(64, 256)) * 20) / 64
    spec = dataclasses.replace(first, weights=(*first.weights[:2], third.astype(np.float32)))
    observations = torch.ones(16, 1)
    want = REFERENCE.compile(spec).simulate(observations, 0, SPIKES)
    for isa in ISAS:
        assert_same_simulation(CpuExecutable(spec, isa).simulate(observations, 0, SPIKES), want)
    assert_exact(spec, observations)


def test_biases_and_potentials_far_larger_than_weights() -> None:
    spec = at_the_threshold(150, 66, 50, 8)
    bias = np.linspace(-3000.0, 3000.0, 66).astype(np.float32)
    assert_exact(dataclasses.replace(spec, biases=(None, bias)), torch.tensor([[1.0], [0.3]]))
    assert_exact(at_the_threshold(150, 66, 50, 8, initial=-700.25), torch.tensor([[1.0], [0.3]]))


def test_rows_of_zeros_of_one_weight_and_on_a_grid_among_others() -> None:
    spec = at_the_threshold(100, 48, 30, 4)
    weights = spec.weights[1].copy()
    weights[::4] = 0.0
    weights[1::4, 1:] = 0.0
    weights[2::4] = np.round(weights[2::4] * 16) / 16
    assert_exact(dataclasses.replace(spec, weights=(spec.weights[0], weights)), torch.tensor([[1.0], [0.6]]))


def test_no_spikes_and_spikes_in_every_step() -> None:
    numbers = np.random.default_rng(6)
    for current in (-0.5, 0.0, 1e-30, 1.0, 7.0):
        spec = fires(with_currents(np.full(130, current), numbers.normal(size=(50, 130)), 20))
        assert_exact(spec, torch.tensor([[1.0], [0.5]]))


def test_threads_splits_and_the_automatic_choice_have_the_same_bits() -> None:
    workload = make_workload("wide", (16, 400, 300, 10), 60, 0.4)
    spec, observations = workload.spiking.spec, workload.observations(70)
    wanted = CpuExecutable(spec, method="events").simulate(observations, 0, RECORD_ALL)
    for isa in ISAS:
        executable = CpuExecutable(spec, isa)
        assert executable.method()["method"] == "prefix sums"
        for threads in (1, 2, 3):
            sf.set_num_threads(threads)
            assert_same_simulation(executable.simulate(observations, 0, RECORD_ALL), wanted)
            for cuts in ([], [1, 18], [35]):
                parts = [executable.run(part, 0) for part in torch.tensor_split(observations, cuts)]
                assert_same_bits(torch.cat(parts), wanted.output, isa)


def test_observations_that_are_not_contiguous() -> None:
    workload = make_workload("wide", (16, 200, 70, 3), 40, 0.4)
    spec, wide = workload.spiking.spec, workload.observations(24)
    strided = torch.cat([wide, wide], dim=1)[::2, ::2]
    assert not strided.is_contiguous()
    want = CpuExecutable(spec, method="events").run(strided.contiguous(), 0)
    assert_same_bits(workload.spiking(strided) / workload.spiking.output_scale, want, "strided")
    assert CpuExecutable(spec).run(strided[:0].contiguous(), 0).shape == (0, 3)


@pytest.mark.parametrize(
    ("sizes", "timesteps", "fixed"),
    [
        ((5, 100, 20), 5, {"decoding": "potential"}),
        ((5, 100, 20), 5, {"decoding": "mean_potential"}),
        ((5, 100, 20, 4), 5, {"order": "delayed"}),
        ((5, 100, 20, 4), 129, {}),
        ((5, 2000, 20, 4), 66, {}),
    ],
)
def test_networks_that_cannot_be_made_certain_are_refused_or_go_by_events(
    sizes: tuple[int, ...], timesteps: int, fixed: dict[str, object]
) -> None:
    spec = plain(4, sizes, timesteps, **({"order": "immediate"} | fixed))
    steps = min(timesteps, 128, 131072 // max(sizes))
    reason = f"on a grid or a second layer that fires, in the immediate order, in at most {steps} steps"
    with pytest.raises(ValueError, match=reason):
        CpuExecutable(spec, method="prefix_sums")
    assert CpuExecutable(spec).method()["method"] == "events"
