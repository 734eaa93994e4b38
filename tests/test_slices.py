# SPDX-License-Identifier: Apache-2.0
"""The method of integer matrix products: exact where weights lie on a grid, refused where it would not be, and the same
integers on every machine. The baseline's tiles are plain C++, so it is tested everywhere; and so are, in a program of
their own, the vectors that AMX shares with AVX-512."""

from __future__ import annotations

import dataclasses
import platform
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import implementations, on_grid, random_observations, random_spec
from slices_host.build import build_for_slices
from snnfast.backends import CpuExecutable
from snnfast.spec import NetworkSpec
from test_parity import RECORD_ALL, assert_same_bits, assert_same_simulation

ISAS = [implementation.isa for implementation in implementations()[1:]]
SLICING_ISAS = [isa for isa in ISAS if isa in ("amx", "baseline")]


def with_weights(weights: np.ndarray, seed: int = 0) -> NetworkSpec:
    """A network of two layers, the second with these weights."""
    n_out, n_in = weights.shape
    spec = random_spec(seed, sizes=(3, n_in, n_out), encoding="constant", split_inputs=False, bias_input=False)
    return dataclasses.replace(spec, weights=(spec.weights[0], weights.astype(np.float32)), biases=(None, None))


@pytest.mark.parametrize("seed", range(40))
def test_on_a_grid_slices_give_the_reference_bits(seed: int) -> None:
    wide = {"sizes": (5, 1 + 13 * seed % 97, 1 + 29 * seed % 131, 1 + 7 * seed % 40)} if seed % 2 else {}
    spec = on_grid(random_spec(seed, **wide), [4, 8, 12, 16][seed % 4])
    observations = random_observations(spec, [1, 2, 15, 16, 17, 33][seed % 6], seed)
    want = implementations()[0].compile(spec).simulate(observations, seed, RECORD_ALL)
    for isa in SLICING_ISAS:
        executable = CpuExecutable(spec, isa, method="slices")
        assert executable.method()["method"] in ("slices", "events")  # one layer alone has nothing to slice
        assert_same_simulation(executable.simulate(observations, seed, RECORD_ALL), want)
        assert_same_bits(executable.run(observations, seed), want.output, f"{isa}, {spec}")


@pytest.mark.parametrize("order", ["immediate", "delayed"])
@pytest.mark.parametrize("decoding", ["potential", "mean_potential", "spikes", "first_spike"])
def test_every_rule_on_a_grid(order: str, decoding: str) -> None:
    for seed, (alpha, beta, reset) in enumerate(
        (a, b, r) for a in (0.0, 0.6) for b in (1.0, 0.9) for r in ("subtraction", "zero")
    ):
        fixed = dict(sizes=(4, 70, 40, 18), order=order, decoding=decoding, alpha=alpha, beta=beta, reset=reset)
        spec = on_grid(random_spec(seed, **fixed, encoding="constant", timesteps=21), 16)
        observations = random_observations(spec, 9, seed)
        want = implementations()[0].compile(spec).simulate(observations, seed, RECORD_ALL)
        for isa in SLICING_ISAS:
            got = CpuExecutable(spec, isa, method="slices").simulate(observations, seed, RECORD_ALL)
            assert_same_simulation(got, want)


def test_three_slices_are_exact_for_few_inputs_and_refused_for_many() -> None:
    # 2**20 + 1 needs 21 bits and so three slices; nine such weights stay below the 24 bits of a float.
    large = float(2**20 + 1)
    few = with_weights(np.full((5, 9), large))
    observations = random_observations(few, 17, 3)
    want = implementations()[0].compile(few).simulate(observations, 0, RECORD_ALL)
    for isa in SLICING_ISAS:
        executable = CpuExecutable(few, isa, method="slices")
        assert "3 slices" in executable.method()["why"]
        assert_same_simulation(executable.simulate(observations, 0, RECORD_ALL), want)
    many = np.ones((5, 600))
    many[:, :9] = large
    with pytest.raises(ValueError, match="'slices' needs weights that lie on a grid"):
        CpuExecutable(with_weights(many), method="slices")


@pytest.mark.parametrize(
    "weights",
    [
        np.array([[1.0, 1.0 + 2.0**-23, 3e7]]),  # more than 24 bits from the largest to the smallest
        np.array([[1.0, 1e-20]]),
        np.full((1, 3), 2.0**24 - 1),  # each weight is exact, a sum of two is not
    ],
)
def test_under_the_exact_contract_weights_off_the_grid_are_refused(weights: np.ndarray) -> None:
    with pytest.raises(ValueError, match="'slices' needs weights that lie on a grid where the result must be exact"):
        CpuExecutable(with_weights(weights), method="slices")
    CpuExecutable(with_weights(weights), method="slices", exact=False)


def test_sums_beyond_every_float_are_refused_in_both_contracts() -> None:
    for exact in (True, False):
        with pytest.raises(ValueError, match="method 'slices' needs"):
            CpuExecutable(with_weights(np.full((1, 4), 3e38)), method="slices", exact=exact)


def test_weights_at_both_ends_of_the_float_range_are_sliced_exactly() -> None:
    smallest = float(np.finfo(np.float32).smallest_subnormal)
    for value in (smallest, 3 * smallest, 2.0**-126, 2.0**100):
        spec = with_weights(np.array([[value, -value, 0.0], [0.0, 0.0, 0.0]]))
        observations = random_observations(spec, 4, 1)
        want = implementations()[0].compile(spec).simulate(observations, 0, RECORD_ALL)
        for isa in SLICING_ISAS:
            got = CpuExecutable(spec, isa, method="slices").simulate(observations, 0, RECORD_ALL)
            assert_same_simulation(got, want)


def test_off_the_grid_slices_give_the_same_bits_on_every_instruction_set_and_few_other_spikes() -> None:
    compared = differing = 0
    for seed in range(8):
        spec = random_spec(seed, sizes=(6, 150, 90, 20), encoding="constant", timesteps=33, beta=1.0, alpha=0.0)
        observations = random_observations(spec, 20, seed)
        exact = CpuExecutable(spec).simulate(observations, 0, RECORD_ALL)
        runs = [
            CpuExecutable(spec, isa, method="slices", exact=False).simulate(observations, 0, RECORD_ALL)
            for isa in SLICING_ISAS
        ]
        for other in runs[1:]:
            assert_same_simulation(other, runs[0])
        assert exact.spikes is not None
        assert runs[0].spikes is not None
        for a, b in zip(runs[0].spikes, exact.spikes, strict=True):
            compared += a.numel()
            differing += int((a != b).sum())
    # Not the exact bits, but rounding moves spikes rarely: `snnfast bench contract` judges each.
    assert compared > 1_000_000
    assert differing < compared * 1e-4


def test_the_other_instruction_sets_refuse_slices_and_leave_them_to_the_baseline() -> None:
    spec = on_grid(random_spec(1, sizes=(4, 64, 64, 2)), 8)
    for isa in set(ISAS) - set(SLICING_ISAS):
        with pytest.raises(ValueError, match=f"'slices' is there for amx and, for comparison, baseline; not for {isa}"):
            CpuExecutable(spec, isa, method="slices")
    assert CpuExecutable(spec, method="slices").method()["isa"] in SLICING_ISAS


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="for the instruction sets of x86")
def test_the_vectors_of_every_instruction_set_leave_the_bits_of_the_baselines(tmp_path: Path) -> None:
    program = build_for_slices(tmp_path)
    done = subprocess.run([program, "400"], capture_output=True, text=True, check=False)
    found = re.fullmatch(r"layers 400, others (\d), different 0, spikes (\d+)\n", done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert found, done.stdout
    assert int(found[1]) == len({"avx2", "avx512"} & set(ISAS))
    assert int(found[2]) > 10_000


def test_the_plan_says_which_method_and_why() -> None:
    narrow, wide = random_spec(1, sizes=(4, 16, 2), encoding="constant"), random_spec(1, sizes=(4, 64, 64, 2))
    assert CpuExecutable(narrow).method()["method"] == "tables"
    assert "addresses the next layer's current" in CpuExecutable(narrow).method()["why"]
    events = CpuExecutable(wide, "baseline").method()
    assert events["method"] == "events"
    assert "layer 2: adds the weight rows of the inputs that spiked (no matrix unit)" in events["why"]
    sliced = CpuExecutable(on_grid(wide, 8), "baseline", method="slices").method()
    assert "layer 2: matrix products in 2 slices of 8 bits, asked for" in sliced["why"]
    assert CpuExecutable(narrow, method="events").method()["method"] == "events"


def test_unknown_method_and_tables_for_wide_layers_are_refused() -> None:
    names = "'auto', 'events', 'tables', 'slices', 'prefix_sums'"
    with pytest.raises(ValueError, match=f"method must be one of {names}, got 'guess'"):
        CpuExecutable(random_spec(0), method="guess")
    with pytest.raises(ValueError, match="'tables' needs constant encoding and layers of at most 32 neurons"):
        CpuExecutable(random_spec(0, sizes=(4, 33, 2), encoding="constant"), method="tables")


@pytest.mark.parametrize("method", ["events", "tables"])
def test_the_methods_of_narrow_layers_agree(method: str) -> None:
    for seed in range(40):
        sizes = (3, *[[16, 17, 31, 32, 1, 8][(seed + i) % 6] for i in range(1 + seed % 3)], 1 + seed % 20)
        spec = random_spec(seed, sizes=sizes, encoding="constant", timesteps=[1, 63, 64, 65, 130][seed % 5])
        observations = random_observations(spec, [1, 2, 7, 8, 9, 17][seed % 6], seed)
        want = implementations()[0].compile(spec).simulate(observations, 0, ())
        for isa in ISAS:
            executable = CpuExecutable(spec, isa, method=method)
            got = executable.simulate(observations, 0, ())
            assert_same_simulation(got, want)
            assert_same_bits(executable.run(observations, 0), want.output, f"{isa}, {sizes}")
            assert_same_bits(executable.run(observations[:1], 0), want.output[:1], f"{isa}, {sizes}, one sample")


def test_no_dynamics_or_encoding_falls_off_the_quick_method() -> None:
    # Options that change the neuron or the input keep the method; only what tables cannot hold changes it.
    for options in (
        {"order": "delayed"}, {"reset": "zero"}, {"alpha": 0.5}, {"beta": 0.9}, {"split_inputs": True},
        {"bias_input": True}, {"decoding": "spikes"}, {"decoding": "first_spike"}, {"decoding": "mean_potential"},
    ):  # fmt: skip
        spec = random_spec(2, sizes=(4, 16, 24, 2), encoding="constant", **options)
        assert CpuExecutable(spec).method()["method"] == "tables", options
    assert torch.equal(CpuExecutable(spec).run(torch.zeros(0, spec.n_in), 0), torch.zeros(0, 2))
