# SPDX-License-Identifier: Apache-2.0
"""Sweeps: every combination once, what cannot be is listed, and rows are those of the conversions by themselves."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch

from snnfast import PRESETS, Replay, convert, evaluate, predict_similarity, pretrained_policy, record_replay, sweep
from snnfast.conversion.comparison import HeldOut, split_replay
from snnfast.sweep import METHODS, TIMESTEPS, SweepResult

POLICY = pretrained_policy("CartPole-v1")


@pytest.fixture(scope="module")
def states() -> tuple[Replay, Replay]:
    return tuple(record_replay("CartPole-v1", POLICY, size=2000, seed=s) for s in (1, 1000))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def result(states: tuple[Replay, Replay]) -> SweepResult:
    return sweep(
        POLICY,
        states[0],
        held_out=states[1],
        methods=["rate", "radix-certified", "rate"],
        timesteps=[4, 32, 8],
        percentiles=[99, 100],
    )


def test_every_combination_is_there_once_or_skipped(result: SweepResult) -> None:
    done = [(row.method, row.percentile, row.timesteps) for row in result.rows]
    assert done == [("rate", p, t) for p in (99, 100) for t in (4, 32, 8)] + [
        ("radix-certified", p, t) for p in (99, 100) for t in (4, 8)
    ]
    assert [(s.method, s.percentile, s.timesteps) for s in result.skipped] == [
        ("radix-certified", p, 32) for p in (99, 100)
    ]
    assert all("timesteps must be from 1 to 20, got 32" in s.reason for s in result.skipped)
    assert result.sizes == (4, 16, 16, 2)
    assert (result.env_id, result.replay_states) == ("CartPole-v1", 2000)


def test_a_row_is_what_the_conversion_by_itself_gives(states: tuple[Replay, Replay], result: SweepResult) -> None:
    row = result.rows[-1]
    network = convert(POLICY, states[0], preset="radix-certified", timesteps=8, percentile=100)
    alone = HeldOut(POLICY, states[1]).ask(network).comparison()
    for name in ("similarity", "similarity_interval", "mean_steps", "spikes_per_decision", "output_error", "certified"):
        assert getattr(row, name) == getattr(alone, name)
    assert row.mean_steps < row.most_steps <= 16
    assert 0.9 < row.similarity <= 1


def test_what_the_middle_row_foretells_of_its_neighbours(states: tuple[Replay, Replay]) -> None:
    found = sweep(POLICY, states[0], held_out=states[1], methods=["staged", "radix"], timesteps=[6, 8, 12])
    for row in found.rows:
        assert row.predicted is not None
        middle = convert(POLICY, states[0], preset=row.method, timesteps=8)
        assert row.predicted == predict_similarity(middle, POLICY, states[1]).extrapolate(row.timesteps)
    radix = [row for row in found.rows if row.method == "radix"]
    assert all(row.predicted == pytest.approx(row.similarity, abs=0.01) for row in radix)


def test_nothing_is_foretold_of_an_early_exit(result: SweepResult, states: tuple[Replay, Replay]) -> None:
    assert all((row.predicted is None) == (row.method == "radix-certified") for row in result.rows)
    leaving = sweep(POLICY, states[0], held_out=states[1], methods=["radix"], timesteps=[8], early_exit="certified")
    assert leaving.rows[0].predicted is None


def test_the_cheapest(result: SweepResult) -> None:
    for budget, cost in (("steps", "mean_steps"), ("spikes", "spikes_per_decision")):
        found = result.cheapest(0.95, budget)  # type: ignore[arg-type]
        assert found is not None
        assert found.similarity >= 0.95
        assert getattr(found, cost) == min(getattr(r, cost) for r in result.rows if r.similarity >= 0.95)
    assert result.cheapest(1.01) is None
    with pytest.raises(ValueError, match="budget must be one of 'steps', 'spikes', got 'time'"):
        result.cheapest(0.9, "time")  # type: ignore[arg-type]


def test_table_and_json(result: SweepResult) -> None:
    lines = result.table().splitlines()
    head = ["method", "T", "percentile", "similarity", "95", "%", "interval", "predicted", "steps", "spikes"]
    assert lines[0].split() == head
    assert len(lines) == 1 + len(result.rows) + len(result.skipped)
    assert f"{100 * result.rows[0].similarity:.3f}" in lines[1]
    nearly = dataclasses.replace(result.rows[0], similarity=0.999998, similarity_interval=(0.9, 0.999999))
    assert "99.9998  90.00 to 99.9999" in dataclasses.replace(result, rows=(nearly,)).table()
    kept = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert [row["similarity"] for row in kept["rows"]] == [row.similarity for row in result.rows]
    assert kept["skipped"][0]["reason"] == result.skipped[0].reason


def test_numbers_of_numpy_are_json_too(states: tuple[Replay, Replay]) -> None:
    found = sweep(
        POLICY, states[0], methods=["rate"], timesteps=[8], episodes=1, max_steps=5,
        seed=np.int64(3), weight_grid=np.int64(12),
    )  # fmt: skip
    kept = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert (kept["seed"], kept["weight_grid"]) == (3, 12)
    with pytest.raises(ValueError, match="seed must be from 0"):
        sweep(POLICY, states[0], methods=["rate"], seed=-1)


def test_without_held_out_states_the_last_episodes_are_kept_back(states: tuple[Replay, Replay]) -> None:
    given: dict[str, Any] = dict(methods=["rate"], timesteps=[8])
    kept, held = split_replay(states[0])
    assert sweep(POLICY, states[0], **given) == sweep(POLICY, kept, held_out=held, **given)


def test_defaults_are_each_methods_own(states: tuple[Replay, Replay]) -> None:
    result = sweep(POLICY, states[0], methods=["radix", "thesis"])
    assert [row.timesteps for row in result.rows] == [*TIMESTEPS["radix"], *TIMESTEPS["rate"]]
    assert {row.method: row.percentile for row in result.rows} == {"radix": 99.9, "thesis": 99.0}
    assert set(METHODS) <= set(PRESETS)


def test_playing(states: tuple[Replay, Replay]) -> None:
    given: dict[str, Any] = dict(methods=["rate"], timesteps=[16], held_out=states[1])
    (row,) = sweep(POLICY, states[0], episodes=3, max_steps=50, seed=4, **given).rows
    network = convert(POLICY, states[0], preset="rate", timesteps=16)
    alone = evaluate("CartPole-v1", network, compare_against=POLICY, episodes=3, max_steps=50, seed=4)
    assert row.on_policy == alone
    table = sweep(POLICY, states[0], episodes=3, max_steps=50, seed=4, **given).table()
    assert f"{alone.mean_return:.1f}" in table.splitlines()[1]


def test_further_settings_reach_the_conversion(states: tuple[Replay, Replay]) -> None:
    given: dict[str, Any] = dict(methods=["radix"], timesteps=[6], held_out=states[1])
    (plain,) = sweep(POLICY, states[0], **given).rows
    (wide,) = sweep(POLICY, states[0], headroom=4.0, **given).rows
    assert wide.spikes_per_decision < plain.spikes_per_decision


def test_what_has_its_own_number_of_steps_is_one_row_with_that(states: tuple[Replay, Replay]) -> None:
    given: dict[str, Any] = dict(held_out=states[1], timesteps=[6, 12])
    found = sweep(POLICY, states[0], methods=["fewest-spikes", "digits"], **given)
    needed = convert(POLICY, states[0], preset="fewest-spikes").timesteps
    assert [(row.method, row.timesteps) for row in found.rows] == [
        ("fewest-spikes", needed), ("digits", 6), ("digits", 12)
    ]  # fmt: skip
    assert found.rows[0].mean_steps == needed > 100
    assert [row.predicted is None for row in found.rows] == [True, False, False]
    own = sweep(POLICY, states[0], methods=["digits", "rate"], spike_error=1e-3, **given)
    assert len(own.rows) == len(own.skipped) == 1
    assert own.skipped[0].timesteps is None
    assert "skipped: rate, percentile 99.9: spike_error=0.001 needs method='digits'" in own.table()


@pytest.mark.parametrize("scaling", ["data", "model"])
def test_scaling_without_percentiles(scaling: str, states: tuple[Replay, Replay]) -> None:
    given: dict[str, Any] = dict(held_out=states[1], timesteps=[8], scaling=scaling)
    found = sweep(POLICY, states[0], methods=["rate", "radix"], **given)
    assert [(row.method, row.timesteps, row.percentile) for row in found.rows] == [("rate", 8, 100.0)]
    assert "skipped: radix, T=8: method='radix' needs scaling='neuron'" in found.table()
    with pytest.raises(ValueError, match=r"none of the 1 combinations .*: percentile has no meaning with scaling="):
        sweep(POLICY, states[0], methods=["rate"], percentiles=[99.0], **given)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"methods": []}, TypeError, "methods must be a list with at least one entry"),
        ({"methods": "rate"}, TypeError, "methods must be a list"),
        ({"methods": ["rat"]}, ValueError, "preset must be one of 'thesis', 'rate'"),
        ({"timesteps": [0]}, ValueError, "timesteps must be at least 1, got 0"),
        ({"percentiles": [101]}, ValueError, "percentile must be above 0 and at most 100"),
        ({"episodes": -1}, ValueError, "episodes must be at least 0, got -1"),
        ({"methods": ["radix"], "timesteps": [50]}, ValueError, "none of the 1 combinations can be converted"),
    ],
)
def test_refuses(states: tuple[Replay, Replay], arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        sweep(POLICY, states[0], **arguments)


def test_states_are_replays(states: tuple[Replay, Replay]) -> None:
    with pytest.raises(TypeError, match="replay must be a Replay, got Tensor"):
        sweep(POLICY, states[0].observations, held_out=states[1])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="held_out must be a Replay, got Tensor"):
        sweep(POLICY, states[0], held_out=states[1].observations)  # type: ignore[arg-type]


def test_playing_needs_an_environment() -> None:
    bare = Replay(torch.randn(50, 4), torch.zeros(50, dtype=torch.int64), torch.zeros(50, 2))
    with pytest.raises(ValueError, match="env_id must be given to play episodes"):
        sweep(POLICY, bare, episodes=1)


def test_the_bar_is_on_standard_error_and_only_where_it_is_wanted(
    states: tuple[Replay, Replay], capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, Any] = dict(methods=["rate"], timesteps=[4])
    for progress in (False, None):  # None: standard error is no terminal here
        sweep(POLICY, states[0], progress=progress, **given)
        assert capsys.readouterr() == ("", "")
    sweep(POLICY, states[0], progress=True, **given)
    said = capsys.readouterr()
    assert said.out == ""
    assert "rate, T=4, percentile 99.9" in said.err
