# SPDX-License-Identifier: Apache-2.0
"""Weights on a grid: what the rounding promises, and that it makes sums independent of their order."""

from __future__ import annotations

import itertools
import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snnfast.cli import main
from snnfast.conversion import convert
from snnfast.conversion.grid import EXACT_SUM, LARGEST_INTEGER, snap_to_grid, whole_multiples
from snnfast.learning import make_policy, pretrained_policy, record_replay
from snnfast.network import SpikingNetwork

BITS = st.integers(2, 16)
SEEDS = st.integers(0, 10_000)


def rows(seed: int, columns: int | None = None) -> np.ndarray:
    """Layers of every kind: sizes from denormal to huge, near ties, zero rows, rows of one weight."""
    numbers = np.random.default_rng(seed)
    shape = int(numbers.integers(1, 8)), columns or int(numbers.choice([1, 2, 5, 17, 64, 300]))
    w = numbers.normal(size=shape) * np.exp2(numbers.integers(-149, 100, size=(shape[0], 1)).astype(float))
    if seed % 3 == 0:  # a few large ones among many small ones
        w *= np.exp2(numbers.integers(-20, 1, size=shape).astype(float))
    if seed % 5 == 0:  # exactly half a step off, up to float32
        w = (numbers.integers(-400, 400, size=shape) + 0.5) * np.exp2(numbers.integers(-149, 100, size=(shape[0], 1)))
    w[numbers.random(shape[0]) < 0.2] = 0.0
    w[numbers.random(shape) < 0.1] = -0.0
    return w.astype(np.float32)


def integers(w: np.ndarray, steps: np.ndarray) -> list[list[int]]:
    """The weights in units of their row's step, by exact division; fails if one is no multiple."""
    table = []
    for row, step in zip(w, steps, strict=True):
        quotients = [Fraction(float(x)) / Fraction(float(step)) for x in row]
        assert all(q.denominator == 1 for q in quotients)
        table.append([int(q) for q in quotients])
    return table


@given(seed=SEEDS, bits=BITS)
def test_every_row_is_on_its_grid_and_within_the_bounds(seed: int, bits: int) -> None:
    w = rows(seed)
    snapped = snap_to_grid(w, bits)
    assert snapped.weights.dtype == np.float32
    assert (np.frexp(snapped.steps)[0] == 0.5).all()  # powers of two
    for q in integers(snapped.weights, snapped.steps):
        assert max(map(abs, q)) <= min(2 ** (bits - 1) - 1, LARGEST_INTEGER)
        assert sum(map(abs, q)) < EXACT_SUM
    assert not np.signbit(snapped.weights[snapped.weights == 0]).any()


@given(seed=SEEDS, bits=BITS)
def test_no_weight_moves_by_more_than_half_a_step_and_steps_are_the_smallest(seed: int, bits: int) -> None:
    w = rows(seed)
    snapped = snap_to_grid(w, bits)
    moved = np.abs(snapped.weights.astype(np.float64) - w)
    assert (moved <= snapped.steps[:, None] / 2).all()
    limit = min(2 ** (bits - 1) - 1, LARGEST_INTEGER)
    for row, step in zip(w, snapped.steps, strict=True):
        finer = np.abs(np.rint(row.astype(np.float64) / (step / 2)))
        assert step == 2.0**-149 or finer.max() > limit or finer.sum() >= EXACT_SUM


@given(seed=SEEDS, bits=BITS)
def test_snapping_twice_is_snapping_once(seed: int, bits: int) -> None:
    once = snap_to_grid(rows(seed), bits).weights
    twice = snap_to_grid(once, bits)
    assert once.tobytes() == twice.weights.tobytes()


@given(seed=SEEDS, bits=BITS)
def test_every_order_of_summation_gives_the_same_bits(seed: int, bits: int) -> None:
    w = snap_to_grid(rows(seed), bits).weights
    numbers = np.random.default_rng(seed)
    active = np.flatnonzero(numbers.random(w.shape[1]) < 0.6)
    sums = set()
    for _ in range(5):
        chain = np.zeros(len(w), np.float32)
        for k in numbers.permutation(active):
            chain = chain + w[:, k]
        sums.add(chain.tobytes())
    halves = [np.zeros(len(w), np.float32), np.zeros(len(w), np.float32)]
    for k in active:
        halves[k % 2] = halves[k % 2] + w[:, k]
    sums |= {
        (halves[0] + halves[1]).tobytes(),
        w[:, active].astype(np.float64).sum(axis=1).astype(np.float32).tobytes(),
        (torch.from_numpy(w)[:, active].sum(dim=1) + 0.0).numpy().tobytes(),
    }
    assert len(sums) == 1


def test_sums_of_weights_that_are_on_no_grid_do_depend_on_the_order() -> None:
    # The control of the test above.
    w = np.random.default_rng(0).normal(size=(20, 300)).astype(np.float32)
    forwards, backwards = np.zeros(20, np.float32), np.zeros(20, np.float32)
    for k in range(300):
        forwards, backwards = forwards + w[:, k], backwards + w[:, 299 - k]
    assert (forwards != backwards).any()


def test_a_row_of_many_weights_takes_a_coarser_step() -> None:
    # 600 weights of 1: 16 bits alone would allow q = 2**14, but 600 * 2**14 < 2**24 and 1100 * 2**14 is not.
    assert snap_to_grid(np.ones((1, 600), np.float32), 16).steps[0] == 2.0**-14
    assert snap_to_grid(np.ones((1, 1100), np.float32), 16).steps[0] == 2.0**-13
    assert snap_to_grid(np.ones((1, 1024), np.float32), 16).steps[0] == 2.0**-13  # 2**24 itself is too much


@pytest.mark.parametrize(
    ("value", "bits", "step"),
    [(32639.0, 16, 1.0), (32639.5, 16, 2.0), (32640.0, 16, 2.0), (1.0, 2, 1.0), (1.5, 2, 2.0), (127.49, 8, 1.0)],
)
def test_the_largest_integer_of_each_width(value: float, bits: int, step: float) -> None:
    assert snap_to_grid(np.array([[value, 1.0]], np.float32), bits).steps[0] == step


def test_zero_rows_stay_zero_and_the_smallest_numbers_stay_themselves() -> None:
    w = np.array([[0.0, -0.0], [2.0**-149, -3 * 2.0**-149]], np.float32)
    snapped = snap_to_grid(w, 16)
    assert snapped.weights.tobytes() == (w + 0.0).tobytes()
    assert (snapped.steps == 2.0**-149).all()


@pytest.mark.parametrize("row", [[3e38, 3e38], [3.4028235e38]])
def test_weights_whose_sums_overflow_are_refused(row: list[float]) -> None:
    with pytest.raises(ValueError, match="the weights of output 1 add up to more than float32 holds"):
        snap_to_grid(np.array([[1.0] * len(row), row], np.float32), 8)


# In a conversion -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def policy() -> torch.nn.Sequential:
    return make_policy([4, 16, 16, 3], seed=3)


STATES = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0))


def test_convert_snaps_all_layers_but_the_first_and_says_so(policy: torch.nn.Sequential) -> None:
    plain, snapped = convert(policy, STATES), convert(policy, STATES, weight_grid=9)
    assert plain.conversion["weight_grid"] is None
    assert torch.equal(snapped.weights[0], plain.weights[0])
    for layer, (a, b) in enumerate(itertools.zip_longest(plain.spec.weights, snapped.spec.weights)):
        if layer:
            assert b.tobytes() == snap_to_grid(a, 9).weights.tobytes()
            assert (a != b).any()
    for a, b in zip(plain.biases, snapped.biases, strict=True):
        assert torch.equal(a, b)
    grid = snapped.conversion["weight_grid"]
    moved = [float((a.double() - b.double()).abs().max()) for a, b in zip(plain.weights, snapped.weights, strict=True)]
    assert grid == {"bits": 9, "largest_change": moved}
    assert snapped.output_scale == plain.output_scale


def test_the_record_survives_saving(policy: torch.nn.Sequential, tmp_path) -> None:
    net = convert(policy, STATES, weight_grid=16)
    net.save(tmp_path / "net.safetensors")
    assert SpikingNetwork.load(tmp_path / "net.safetensors").conversion["weight_grid"] == net.conversion["weight_grid"]


@pytest.mark.parametrize("wrong", [1, 17, 0, -3])
def test_a_number_of_bits_out_of_range_is_an_error(policy: torch.nn.Sequential, wrong: int) -> None:
    with pytest.raises(ValueError, match=rf"weight_grid must be from 2 to 16, got {wrong}"):
        convert(policy, STATES, weight_grid=wrong)


@pytest.mark.parametrize("wrong", [8.0, "8", True])
def test_a_grid_of_another_type_is_an_error(policy: torch.nn.Sequential, wrong: object) -> None:
    with pytest.raises(TypeError, match=r"weight_grid must be an integer, got"):
        convert(policy, STATES, weight_grid=wrong)


def test_a_layer_that_no_grid_makes_exact_is_named() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.full((2, 2), 0.5))
        net[0].bias.zero_()
        net[2].weight.copy_(torch.full((2, 2), 3e38))
        net[2].bias.zero_()
    with pytest.raises(ValueError, match=r"weight_grid=8 is not possible for layer 2 of 2: the weights of output 0"):
        convert(net, torch.ones(5, 2), scaling="neuron", shift=False, percentile=100.0, weight_grid=8)


def test_what_the_grid_costs_on_the_shipped_policy() -> None:
    policy = pretrained_policy("CartPole-v1")
    states = record_replay("CartPole-v1", policy, size=4000, max_steps=500, seed=7).observations
    want = torch.as_tensor(policy(torch.as_tensor(states)).detach().numpy()).argmax(1)

    def similarity(bits: int | None) -> float:
        net = convert(policy, states[:2000], weight_grid=bits)
        return float((net(torch.as_tensor(states)).argmax(1) == want).double().mean())

    free = similarity(None)
    assert abs(similarity(16) - free) < 0.002
    assert abs(similarity(12) - free) < 0.01
    assert similarity(2) < free - 0.02  # a grid can be too coarse: the figures above are no accident of the measure


def test_the_command_line_option(tmp_path, capsys) -> None:
    out, result = tmp_path / "net.safetensors", tmp_path / "r.json"
    command = ["convert", "cartpole", "--size", "500", "--out", str(out), "--json", str(result)]
    assert main([*command, "--weight-grid", "12"]) == 0
    assert "weights on a grid of 12 bits: moved by" in capsys.readouterr().out
    assert SpikingNetwork.load(out).conversion["weight_grid"]["bits"] == 12
    assert json.loads(result.read_text())["conversion"]["weight_grid"]["bits"] == 12
    assert main([*command, "--weight-grid", "40", "--overwrite"]) == 2
    assert "weight_grid must be from 2 to 16, got 40" in capsys.readouterr().err


@given(seed=SEEDS, copies=st.integers(1, 40))
def test_multiples_of_a_copys_share_are_exact(seed: int, copies: int) -> None:
    w = rows(seed)
    got = whole_multiples(w, copies)
    assert (got.dtype, got.shape) == (w.dtype, w.shape)
    assert (np.signbit(got) == np.signbit(w)).all()
    if not 3 <= copies <= 16:  # a power of two divides exactly; of many copies' weights too much would be lost
        assert got.tobytes() == w.tobytes()
        return
    normal = np.abs(w) >= 2.0**-120
    assert (np.abs(got.astype(np.float64) - w) <= 2.0**-20 * np.abs(w.astype(np.float64)))[normal].all()
    share = (got / np.float32(copies)).astype(np.float64)
    assert (share * copies == got).all()
    for spikes in range(copies + 1):
        assert ((share * spikes).astype(np.float32) == share * spikes).all()
    assert whole_multiples(got, copies).tobytes() == got.tobytes()


def test_weights_that_would_not_fit_stay_as_they_are() -> None:
    most = np.array([[np.finfo(np.float32).max, -np.finfo(np.float32).max]], np.float32)
    assert whole_multiples(most, 5).tobytes() == most.tobytes()


@pytest.mark.parametrize(("copies", "differ"), [(1, False), (2, False), (4, True), (15, True), (17, False)])
def test_conversions_with_copies_have_such_weights(copies: int, differ: bool) -> None:
    policy, states = make_policy([3, 9, 7, 2], seed=4), torch.randn(500, 3, generator=torch.Generator().manual_seed(1))
    plain, copied = (convert(policy, states, preset="rate", copies=k).spec.weights for k in (1, copies))
    assert copied[0].tobytes() == plain[0].tobytes()
    for a, b in zip(copied[1:], plain[1:], strict=True):
        assert (a != b).any() == differ
        assert a.tobytes() == whole_multiples(b, copies).tobytes()
    gridded = convert(policy, states, preset="rate", copies=copies, weight_grid=12).spec.weights
    for a, b in zip(gridded[1:], plain[1:], strict=True):
        assert a.tobytes() == snap_to_grid(b, 12).weights.tobytes()  # a grid is what was asked for
