# SPDX-License-Identifier: Apache-2.0
"""The exact contract: every implementation gives the reference's bits, in outputs, counts, spikes and potentials."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import snnfast as sf
from conftest import Implementation, implementations, random_observations, random_spec
from snnfast import backends
from snnfast.reference import Simulation
from snnfast.spec import NetworkSpec, NeuronSpec

COMPILED = implementations()[1:]
RECORD_ALL = frozenset({"spikes", "potentials"})


def assert_same_bits(got: torch.Tensor, want: torch.Tensor, what: str) -> None:
    # Bits, not values: 0.0 and -0.0 are different answers, equal NaNs the same.
    different = int((got.view(torch.int32) != want.view(torch.int32)).sum())
    assert got.shape == want.shape, what
    assert different == 0, f"{what}: {different} of {want.numel()} numbers differ"


def assert_same_simulation(got: Simulation, want: Simulation) -> None:
    assert_same_bits(got.output, want.output, "output")
    for name in ("spike_counts", "spikes", "potentials"):
        a, b = getattr(got, name), getattr(want, name)
        assert (a is None) == (b is None), name
        for layer, (x, y) in enumerate(zip(a or (), b or (), strict=True)):
            assert_same_bits(x, y, f"{name} of layer {layer}")
    if want.input_spike_counts is not None:
        assert got.input_spike_counts is not None
        assert_same_bits(got.input_spike_counts, want.input_spike_counts, "input_spike_counts")


def check_network(seed: int, batch: int, **fixed: object) -> None:
    """One random network on every implementation, whole and cut in two, with and without records."""
    spec = random_spec(seed, **fixed)
    observations = random_observations(spec, batch, seed)
    reference = implementations()[0].compile(spec)
    want = reference.simulate(observations, seed, RECORD_ALL)
    for implementation, executable in ((i, way) for i in COMPILED for way in i.ways(spec)):
        assert_same_simulation(executable.simulate(observations, seed, RECORD_ALL), want)
        assert_same_bits(executable.run(observations, seed), want.output, f"{implementation.name} run, {spec}")
        cut = batch // 3
        parts = [executable.run(observations[:cut], seed), executable.run(observations[cut:], seed, cut)]
        assert_same_bits(torch.cat(parts), want.output, f"{implementation.name} cut, {spec}")


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> object:
    before = sf.num_threads()
    sf.set_num_threads(request.param)
    yield request.param
    sf.set_num_threads(before)


@pytest.mark.parametrize("chunk", range(10))
def test_300_random_networks_with_all_options_match_the_reference_bit_for_bit(chunk: int, threads: int) -> None:
    for seed in range(30 * chunk, 30 * chunk + 30):
        check_network(seed, batch=[0, 1, 2, 5, 9][seed % 5])


@pytest.mark.parametrize("order", ["immediate", "delayed"])
@pytest.mark.parametrize("decoding", ["potential", "mean_potential"])
@pytest.mark.parametrize("hidden", [(16,), (16, 16), (3, 16), (8, 9), (16, 1)])
def test_table_method_matches_for_every_rule(order: str, decoding: str, hidden: tuple[int, ...]) -> None:
    for seed, (alpha, beta, reset) in enumerate(
        (a, b, r) for a in (0.0, 0.6) for b in (1.0, 0.9) for r in ("subtraction", "zero")
    ):
        for n_out in (1, 2, 9, 16):
            fixed = dict(
                sizes=(4, *hidden, n_out), order=order, decoding=decoding, alpha=alpha, beta=beta, reset=reset,
                encoding="constant", split_inputs=False, bias_input=False, timesteps=40,
            )  # fmt: skip
            spec = random_spec(seed, **fixed)
            for implementation in COMPILED:
                assert implementation.compile(spec).method()["method"] == "tables"
            check_network(seed, batch=7, **fixed)


@pytest.mark.parametrize("decoding", ["potential", "mean_potential", "spikes", "first_spike"])
@pytest.mark.parametrize("sizes", [(4, 16, 16, 2), (4, 20, 17, 5), (3, 7, 9), (4, 16, 9, 12)])
def test_tables_at_batch_sizes_around_every_group_of_samples(sizes: tuple[int, ...], decoding: str) -> None:
    options = dict(sizes=sizes, decoding=decoding, encoding="constant", split_inputs=False, bias_input=False)
    for timesteps in (150, 40):  # two tiles of steps; and few enough for tables of the first layer's spike trains
        spec = random_spec(5, timesteps=timesteps, **options)
        observations = random_observations(spec, 45, 5)
        want = implementations()[0].compile(spec).simulate(observations, 0, ())
        for implementation, executable in ((i, way) for i in COMPILED for way in i.ways(spec)):
            assert executable.method()["method"] == "tables"
            assert_same_simulation(executable.simulate(observations, 0, ()), want)
            for batch in range(1, 46):
                got = executable.run(observations[:batch], 0)
                assert_same_bits(got, want.output[:batch], f"{implementation.name}, {batch} of {len(observations)}")


@pytest.mark.parametrize("width", [1, 3, 4, 5, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129, 200])
def test_layer_widths_around_every_lane_and_panel_width(width: int) -> None:
    check_network(width, batch=3, sizes=(5, width, width, 3), timesteps=20)


@pytest.mark.parametrize("inputs", [64, 255, 256, 257, 320, 511, 512, 513, 700, 1030])
def test_lists_of_spikes_at_every_rate_of_inputs_in_one_segment_or_several(inputs: int) -> None:
    gen = torch.Generator().manual_seed(inputs)
    sizes = (3, inputs, 35, 2)
    weights = [torch.randn(n, k, generator=gen) / k**0.5 for k, n in itertools.pairwise(sizes)]
    # From silent through a few and nearly all of a word's 64 inputs to every one at every step.
    drives = [torch.full((inputs,), level) for level in (-9.0, 0.03, 0.9, 9.0)]
    drives.append(torch.rand(inputs, generator=gen) * 1.2)
    drives.append(torch.where(torch.arange(inputs) < inputs // 2, 9.0, 0.05))  # uneven segments
    for drive in drives:
        for timesteps in (1, 2, 3, 5, 7, 18):
            biases = [drive, torch.zeros(35), torch.zeros(2)]
            spec = NetworkSpec(weights, biases, NeuronSpec(), timesteps=timesteps)
            observations = torch.randn(3, 3, generator=gen)
            want = implementations()[0].compile(spec).simulate(observations, 0, RECORD_ALL)
            for implementation in COMPILED:
                assert_same_simulation(implementation.compile(spec).simulate(observations, 0, RECORD_ALL), want)


@pytest.mark.parametrize("copies", [1, 4, 12])
@pytest.mark.parametrize("threshold", [1.0, 0.3, 1e-38, 3e38])
def test_membranes_at_every_edge_of_the_number_range(threshold: float, copies: int) -> None:
    # Currents around the threshold, denormal, huge, and sums that leave the range: infinities, and what is no number.
    one, inf = np.float32(threshold), np.float32(np.inf)
    around = [one, np.nextafter(one, -inf), np.nextafter(one, inf), one / 2, one / 3, one * np.float32(0.9)]
    currents = [*around, *(-x for x in around), 0.0, -0.0, 1e-45, -1e-45, 1e-38, 1e-10, 1.0, -1.0, 1e30, 3e38, -3e38]
    first = np.tile(np.array(currents, dtype=np.float32), copies)[:, None]
    rng = np.random.default_rng(copies)
    second = rng.choice(np.array([0, 1, -1, 1e-45, 3e38, -3e38], dtype=np.float32), (len(first) + 1, len(first)))
    # Currents of +inf and -inf after one another: no number.
    second[:4] = np.where(np.arange(len(first)) % len(currents) == 3, 3e38, np.where(second[:4] > 0, -3e38, second[:4]))
    spec = NetworkSpec(
        weights=(first, second, rng.standard_normal((3, len(second))).astype(np.float32)),
        biases=(None, None, None),
        neuron=NeuronSpec(threshold=threshold),
        timesteps=40,
    )
    observations = torch.tensor([[1.0], [0.5], [-1.0], [2.0], [0.0]])
    want = implementations()[0].compile(spec).simulate(observations, 0, RECORD_ALL)
    assert want.potentials is not None
    assert threshold > 1e38 or bool(want.potentials[1].isnan().any())
    for implementation in COMPILED:
        executable = implementation.compile(spec)
        assert_same_simulation(executable.simulate(observations, 0, RECORD_ALL), want)
        for row in range(len(observations)):
            got = executable.run(observations[row : row + 1], 0)
            assert_same_bits(got, want.output[row : row + 1], f"{implementation.name}, sample {row}")


def test_many_time_tiles_give_the_same_bits_as_one() -> None:
    # Wide layers shorten the tile of time steps: 40 steps of 9000 inputs are 16, 16 and 8 of them.
    spec = random_spec(3, sizes=(2, 9000, 3), timesteps=40, encoding="constant", decoding="potential")
    observations = random_observations(spec, 2, 3)
    want = implementations()[0].compile(spec).simulate(observations, 0, RECORD_ALL)
    for implementation in COMPILED:
        assert_same_simulation(implementation.compile(spec).simulate(observations, 0, RECORD_ALL), want)


@pytest.mark.parametrize("implementation", COMPILED, ids=lambda i: i.name)
@pytest.mark.parametrize("sizes", [(4, 16, 16, 2), (8, 70, 40, 4)])
def test_threads_and_batch_splits_give_the_same_bits_when_the_pool_really_runs(
    implementation: Implementation, sizes: tuple[int, ...]
) -> None:
    spec = random_spec(11, sizes=sizes, timesteps=50, encoding="poisson", decoding="mean_potential", split_inputs=True)
    constant = random_spec(11, sizes=sizes, timesteps=50, encoding="constant", decoding="mean_potential")
    before = sf.num_threads()
    try:
        for network in (spec, constant):
            executable = implementation.compile(network)
            observations = random_observations(network, 6000, 5)
            sf.set_num_threads(1)
            want = executable.run(observations, 9)
            for n in (2, 3, 7):
                sf.set_num_threads(n)
                loops = backends.parallel_loops()
                assert_same_bits(executable.run(observations, 9), want, f"{n} threads")
                assert backends.parallel_loops() == loops + 1
            pieces = [executable.run(p, 9, i * 700) for i, p in enumerate(observations.split(700))]
            assert_same_bits(torch.cat(pieces), want, "batch split")
    finally:
        sf.set_num_threads(before)


@pytest.mark.parametrize("implementation", COMPILED, ids=lambda i: i.name)
@pytest.mark.parametrize("order", ["immediate", "delayed"])
@pytest.mark.parametrize("neurons", [0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 1003])
def test_layer_over_time_matches_reference_bit_for_bit(
    implementation: Implementation, order: str, neurons: int
) -> None:
    generator = torch.Generator().manual_seed(neurons)
    for steps, batch in ((0, 2), (1, 1), (50, 3), (130, 2)):
        current = torch.randn(steps, batch, neurons, generator=generator)
        v0 = torch.rand(batch, neurons, generator=generator)
        got = implementation.if_forward(current, v0, 0.7, order)
        want = implementations()[0].if_forward(current, v0, 0.7, order)
        for g, w, what in zip(got, want, ("spikes", "potential"), strict=True):
            assert_same_bits(g, w, what)
