# SPDX-License-Identifier: Apache-2.0
"""The method of prefix sums over inputs sorted by their currents: exact on a grid, the same integers on every machine,
and taken where it costs less."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import pytest
import torch

import snnfast as sf
from conftest import implementations, on_grid, random_observations, random_spec
from snnfast.backends import CpuExecutable
from snnfast.bench import contract
from snnfast.bench.workloads import make_workload
from snnfast.spec import NetworkSpec
from test_parity import RECORD_ALL, assert_same_bits, assert_same_simulation

REFERENCE = implementations()[0]
ISAS = [implementation.isa for implementation in implementations()[1:]]
PLAIN = {"encoding": "constant", "alpha": 0.0, "beta": 1.0, "reset": "subtraction"}


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterable[None]:
    before = sf.num_threads()
    yield
    sf.set_num_threads(before)


def plain(seed: int, sizes: tuple[int, ...], timesteps: int, **fixed: object) -> NetworkSpec:
    return random_spec(seed, sizes=sizes, timesteps=timesteps, **(PLAIN | fixed))


def with_currents(currents: np.ndarray, weights: np.ndarray, timesteps: int, initial: float = 0.5) -> NetworkSpec:
    """A network whose first layer's currents are these numbers times the one input; the second layer is the last."""
    spec = plain(0, (1, len(currents), len(weights)), timesteps, decoding="potential", order="immediate")
    neuron = dataclasses.replace(spec.neuron, threshold=1.0, initial_potential=initial)
    layers = (currents[:, None].astype(np.float32), weights.astype(np.float32))
    return dataclasses.replace(
        spec, weights=layers, biases=(None, None), neuron=neuron, split_inputs=False, bias_input=False
    )


def assert_exact(spec: NetworkSpec, observations: torch.Tensor, seed: int = 0) -> None:
    want = REFERENCE.compile(spec).simulate(observations, seed, RECORD_ALL)
    for isa in ISAS:
        executable = CpuExecutable(spec, isa, method="prefix_sums")
        assert executable.method()["method"] == "prefix sums"
        assert_same_simulation(executable.simulate(observations, seed, RECORD_ALL), want)
        assert_same_bits(executable.run(observations, seed), want.output, f"{isa}, {spec}")


@pytest.mark.parametrize("seed", range(40))
def test_on_a_grid_prefix_sums_give_the_reference_bits(seed: int) -> None:
    sizes = (5, 1 + 37 * seed % 331, 1 + 29 * seed % 131, *[7] * (seed % 2))
    options = {"order": ["immediate", "delayed"][seed % 2]}
    spec = on_grid(plain(seed, sizes, [1, 2, 33, 129, 150][seed % 5], **options), [4, 8, 12, 16][seed % 4])
    assert_exact(spec, random_observations(spec, [1, 2, 15, 16, 17, 33][seed % 6], seed), seed)


@pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 192])
def test_widths_around_words_of_spikes_and_vectors(width: int) -> None:
    spec = on_grid(plain(width, (3, width, width, 2), 20), 12)
    assert_exact(spec, random_observations(spec, 5, width))


@pytest.mark.parametrize("timesteps", [140, 141, 127])  # whole groups of steps, and half of one, in several segments
def test_more_trains_than_a_segment_holds(timesteps: int) -> None:
    # 900 currents from 0 to 1 have 900 different trains in 140 steps, and a segment at most 384 prefix sums.
    numbers = np.random.default_rng(0)
    currents = numbers.permutation(np.linspace(0.0, 1.0, 900))
    assert len(np.unique((currents[:, None] * np.arange(1, timesteps + 1) + 0.5).astype(int), axis=0)) > 850
    weights = np.round(numbers.normal(size=(70, 900)) * 40)
    spec = with_currents(currents, weights, timesteps)
    assert_exact(spec, torch.tensor([[1.0], [0.3], [-1.0], [2.5]]))


@pytest.mark.parametrize(
    "currents",
    [
        np.full(200, 0.3),  # one train
        np.full(200, -0.3),  # silence
        np.full(200, 1.5),  # fire in every step
        np.repeat([0.2, 3e38, -3e38, 0.0, 1e-30, 1e-42], 40),  # overflow, and next to nothing
        np.r_[np.full(70, -1.0), np.linspace(0.4, 0.40001, 70), np.full(60, 0.9)],
    ],
)
@pytest.mark.parametrize("initial", [0.0, 0.5, 1.5, -2.0])
def test_currents_at_the_edges(currents: np.ndarray, initial: float) -> None:
    weights = np.round(np.random.default_rng(1).normal(size=(33, len(currents))) * 50)
    assert_exact(with_currents(currents, weights, 40, initial), torch.tensor([[1.0], [0.7], [0.0]]))


def test_off_the_grid_all_sets_threads_and_splits_have_the_same_bits_and_few_other_spikes() -> None:
    compared = differing = 0
    for seed in range(8):
        spec = plain(seed, (6, 150, 90, 20), 33)
        observations = random_observations(spec, 40, seed)
        exact = CpuExecutable(spec).simulate(observations, 0, RECORD_ALL)
        wanted = None
        for isa in ISAS:
            executable = CpuExecutable(spec, isa, method="prefix_sums", exact=False)
            for threads in (1, 2, 3):
                sf.set_num_threads(threads)
                got = executable.simulate(observations, 0, RECORD_ALL)
                wanted = wanted or got
                assert_same_simulation(got, wanted)
                parts = [executable.run(part, 0) for part in torch.tensor_split(observations, [1, 18])]
                assert_same_bits(torch.cat(parts), wanted.output, isa)
            # They really ran: the second layer's potentials are not those of the canonical sums.
            assert not torch.equal(got.potentials[1], exact.potentials[1])
        assert exact.spikes is not None
        assert wanted is not None
        assert wanted.spikes is not None
        for a, b in zip(wanted.spikes, exact.spikes, strict=True):
            compared += a.numel()
            differing += int((a != b).sum())
    assert compared > 2_000_000
    assert differing < compared * 1e-4


def test_sums_that_would_not_fit_are_of_fewer_bits_and_within_the_judges_bound() -> None:
    # 3,000 weights of nearly the same size: their 24-bit integers would sum to 2^34.
    numbers = np.random.default_rng(2)
    weights = numbers.uniform(0.09, 0.1, size=(20, 3000)) * np.where(np.arange(20) % 2, 1, -1)[:, None]
    spec = with_currents(numbers.uniform(0.0, 1.2, size=3000), weights, 30)
    observations = torch.tensor([[1.0], [0.5], [0.9]])
    step = 2 * contract.integer_error(torch.from_numpy(spec.weights[1].astype(np.float64)))
    assert float(step.min()) > 4 * 0.1 / contract.SLICED_RANGE
    found = contract.compare(spec, observations, contract.simulation_of(spec, "prefix_sums"))
    assert found.outputs_judged == 60
    assert found.unexplained == 0


def test_the_judge_of_the_fast_contract_accepts_them() -> None:
    workload = make_workload("wide", (20, 500, 300), 40)
    spec = workload.spiking.spec
    found = contract.compare(spec, workload.observations(300), contract.simulation_of(spec, "prefix_sums"))
    assert found.spikes_compared == 300 * 40 * 500
    assert found.unexplained == 0
    assert found.outputs_judged > 10_000


def test_they_are_taken_where_spikes_are_many_and_not_where_they_are_few() -> None:
    for rate, taken in ((0.4, True), (0.03, False)):
        workload = make_workload("wide", (16, 400, 64), 60, rate)
        spec, observations = workload.spiking.spec, workload.observations(64)
        # In the immediate order a last layer goes by counts.
        spec = dataclasses.replace(spec, neuron=dataclasses.replace(spec.neuron, order="delayed"))
        fast = CpuExecutable(spec, exact=False)
        assert fast.method()["method"] == "prefix sums"
        assert "layer 2: differences of prefix sums" in fast.method()["why"]
        outputs = fast.run(observations, 0)
        by_sums = CpuExecutable(spec, exact=False, method="prefix_sums").run(observations, 0)
        by_events = CpuExecutable(spec, method="events").run(observations, 0)
        same = torch.equal(outputs, by_sums), torch.equal(outputs, by_events)
        assert same == (taken, not taken)


def test_a_grid_lets_the_exact_contract_have_them() -> None:
    spec = on_grid(make_workload("wide", (16, 400, 64), 60, 0.4).spiking.spec, 16)
    assert CpuExecutable(spec).method()["method"] == "prefix sums"
    assert CpuExecutable(spec, method="events").method()["method"] == "events"
    observations = random_observations(spec, 20, 0)
    assert_same_bits(
        CpuExecutable(spec).run(observations, 0), CpuExecutable(spec, method="events").run(observations, 0), "grid"
    )


@pytest.mark.parametrize(
    "fixed",
    [
        {"encoding": "equidistant"},
        {"encoding": "poisson"},
        {"alpha": 0.5},
        {"beta": 0.9},
        {"reset": "zero"},
        {"sizes": (5, 100)},
    ],
)
def test_networks_that_they_cannot_run_are_refused(fixed: dict[str, object]) -> None:
    spec = random_spec(3, **(PLAIN | {"sizes": (5, 100, 20), "timesteps": 5} | fixed))
    with pytest.raises(ValueError, match="method 'prefix_sums' needs constant encoding, plain neurons, at least two"):
        CpuExecutable(spec, method="prefix_sums", exact=False)


@pytest.mark.parametrize("exact", [True, False])
def test_layers_with_too_many_inputs_or_too_large_weights_are_refused(exact: bool) -> None:
    spec = with_currents(np.ones(32769), np.ones((1, 32769)), 2)
    with pytest.raises(ValueError, match="at most 32768 inputs of the second"):
        CpuExecutable(spec, method="prefix_sums", exact=exact)
    spec = with_currents(np.ones(2), np.full((1, 2), 1e38), 2)
    with pytest.raises(ValueError, match="method 'prefix_sums' needs"):
        CpuExecutable(spec, method="prefix_sums", exact=exact)
    assert CpuExecutable(spec).method()["method"] == "tables"  # others run them


def test_under_the_exact_contract_weights_off_the_grid_are_refused() -> None:
    spec = plain(4, (5, 100, 20), 5)
    with pytest.raises(ValueError, match="where the result must be exact, weights that lie on a grid"):
        CpuExecutable(spec, method="prefix_sums")
    CpuExecutable(spec, method="prefix_sums", exact=False)
