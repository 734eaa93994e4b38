# SPDX-License-Identifier: Apache-2.0
"""Held-out states: a replay in two, a network beside its policy, and the interval of what was counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snnfast import Replay, convert, make_policy
from snnfast.conversion.comparison import HeldOut, similarity_interval, split_replay


def replay(lengths: list[int] | None, n_in: int = 4, seed: int = 0) -> Replay:
    n = sum(lengths or [40])
    states = torch.from_numpy(np.random.default_rng(seed).normal(size=(n, n_in)).astype(np.float32))
    about = {} if lengths is None else {"episode_lengths": lengths, "env_id": "X-v0"}
    return Replay(states, torch.zeros(n, dtype=torch.int64), torch.zeros(n, 2), about)


@given(st.lists(st.integers(1, 30), min_size=2, max_size=20))
def test_a_replay_is_cut_between_two_episodes_near_the_share(lengths: list[int]) -> None:
    whole = replay(lengths)
    first, last = split_replay(whole)
    assert first.metadata["episode_lengths"] + last.metadata["episode_lengths"] == lengths
    assert torch.equal(torch.cat([first.observations, last.observations]), whole.observations)
    for part in (first, last):
        assert sum(part.metadata["episode_lengths"]) == len(part) == part.metadata["size"]
        assert part.metadata["env_id"] == "X-v0"
    aim = round(0.75 * len(whole))
    other_cuts = np.cumsum(lengths)[:-1]
    assert abs(len(first) - aim) <= np.abs(other_cuts - aim).min() + 1


@pytest.mark.parametrize("lengths", [None, [40]])
def test_a_replay_without_episodes_to_choose_from_is_cut_within(lengths: list[int] | None) -> None:
    first, last = split_replay(replay(lengths))
    assert (len(first), len(last)) == (30, 10)
    assert [part.metadata["episode_lengths"] for part in (first, last)] == [[30], [10]]


def test_the_held_out_part_of_one_episode_is_counted_by_its_own_length() -> None:
    torch.manual_seed(3)
    policy = make_policy([4, 12, 3])
    made_from, held_out = split_replay(replay([2000]))
    counted = HeldOut(policy, held_out).ask(convert(policy, made_from, preset="digits")).comparison()
    assert counted.similarity > 0.99
    low, high = counted.similarity_interval
    assert 0.98 < low <= counted.similarity <= high


def test_episodes_that_are_not_all_of_the_states_are_refused() -> None:
    states = replay([20, 20])
    states.metadata["episode_lengths"] = [20, 30]
    with pytest.raises(ValueError, match="replay must have episode_lengths that add up to its 40 states, got 50"):
        HeldOut(make_policy([4, 8, 2]), states)


def test_one_state_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="replay must hold at least two states to hold some out, got 1"):
        split_replay(replay([1]))


@pytest.mark.parametrize("share", [0, 1, 2, -0.5])
def test_a_share_is_between_nothing_and_everything(share: float) -> None:
    with pytest.raises(ValueError, match=f"share must be above 0 and below 1, got {share}"):
        split_replay(replay([20, 20]), share)
    assert len(split_replay(replay(None), 0.5)[1]) == 20


def test_what_cannot_be_split_is_refused() -> None:
    with pytest.raises(ValueError, match="share must be finite"):
        split_replay(replay([20, 20]), float("nan"))
    with pytest.raises(TypeError, match="share must be a number, got None"):
        split_replay(replay([20, 20]), None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="replay must be a Replay, got ndarray"):
        split_replay(np.zeros((40, 4)))  # type: ignore[arg-type]


def test_no_difference_is_no_proof_of_none() -> None:
    low, high = similarity_interval(np.ones(1000, dtype=bool), [500, 500], 1)
    assert high == 1.0
    assert 0.99 < low < 1 - 1 / 1000
    assert similarity_interval(np.ones(10_000, dtype=bool), [10_000], 1)[0] > low, "more states say more"


def test_differences_in_few_episodes_widen_the_interval() -> None:
    spread = np.ones(1000, dtype=bool)
    spread[::20] = False
    together = np.ones(1000, dtype=bool)
    together[:50] = False
    lengths = [50] * 20
    a, b = similarity_interval(spread, lengths, 1), similarity_interval(together, lengths, 1)
    assert a[0] < 0.95 < a[1]
    assert b[1] - b[0] > 2 * (a[1] - a[0])


@pytest.mark.parametrize("preset", ["rate", "rate-copies", "radix-certified"])
def test_what_is_counted(preset: str) -> None:
    torch.manual_seed(3)
    policy = make_policy([4, 12, 12, 3])
    states = replay([2000, 3000], seed=1)  # more than one batch
    network = convert(policy, replay([500], seed=2), preset=preset, timesteps=6)
    answers = HeldOut(policy, states).ask(network)
    done = network.simulate(states.observations)
    wanted = policy(states.observations).detach().numpy()
    counted = answers.comparison()
    assert np.array_equal(answers.outputs, done.output.double().numpy() * network.output_scale)
    assert counted.states == 5000
    assert counted.similarity == (answers.outputs.argmax(1) == wanted.argmax(1)).mean() < 1
    assert counted.similarity_interval[0] < counted.similarity < counted.similarity_interval[1]
    assert counted.spikes_per_decision == pytest.approx(sum(float(c.sum()) for c in done.spike_counts) / 5000)
    error = np.abs(answers.outputs - wanted).max(axis=1)
    assert counted.output_error == pytest.approx(np.quantile(error, [0.5, 0.9, 0.99, 1.0]), abs=1e-5)
    if done.steps is None:
        assert counted.mean_steps == counted.most_steps == 6
        assert counted.certified is None
    else:
        assert counted.mean_steps == pytest.approx(float(done.steps.mean()))
        assert counted.most_steps == int(done.steps.max()) <= 12
        assert done.certified is not None
        assert counted.certified == pytest.approx(float(done.certified.mean()))
