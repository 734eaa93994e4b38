# SPDX-License-Identifier: Apache-2.0
"""The choice of a network for a target: it is met on other states, by the cheapest of those tried, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import snnfast as sf
from snnfast.conversion.choice import FAMILIES, RANGES


@pytest.fixture(scope="module")
def policy() -> torch.nn.Sequential:
    return sf.pretrained_policy("CartPole-v1")


@pytest.fixture(scope="module")
def replay(policy: torch.nn.Sequential) -> sf.Replay:
    return sf.record_replay("CartPole-v1", policy, size=20_000, max_steps=500, seed=3)


@pytest.fixture(scope="module")
def fresh(policy: torch.nn.Sequential) -> torch.Tensor:
    return sf.record_replay("CartPole-v1", policy, size=10_000, max_steps=500, seed=400).observations


def table(network: sf.SpikingNetwork) -> sf.Choice:
    return sf.Choice.from_dict(network.conversion["choice"])


def linear_policy() -> torch.nn.Sequential:
    """The larger of two features decides; a hidden neuron each."""
    policy = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
    with torch.no_grad():
        for layer in (policy[0], policy[2]):
            layer.weight.copy_(torch.eye(2))
            layer.bias.zero_()
    return policy


def episodes(last: float, n: int = 2000) -> sf.Replay:
    """Four of them, of uniform states; the last one, which will be held out, is so many times as wide."""
    x = np.random.default_rng(0).uniform(0, 1, size=(4 * n, 2)).astype(np.float32)
    x[0] = 1.0
    x[3 * n :] *= last
    about = {"episode_lengths": [n] * 4}
    return sf.Replay(torch.from_numpy(x), torch.zeros(4 * n, dtype=torch.int64), torch.zeros(4 * n, 2), about)


@pytest.mark.parametrize(
    ("budget", "target"), [(None, 0.99), (None, 0.999), ("spikes", 0.99), ("spikes", 0.999), ("latency", 0.99)]
)
def test_the_target_is_met_on_other_states(
    budget: str | None, target: float, policy: torch.nn.Sequential, replay: sf.Replay, fresh: torch.Tensor
) -> None:
    network = sf.convert(policy, replay, target_similarity=target, budget=budget)  # type: ignore[arg-type]
    with torch.no_grad():
        similarity = float((network(fresh).argmax(1) == policy(fresh).argmax(1)).double().mean())
    assert similarity >= target - np.sqrt(target * (1 - target) / len(fresh))
    choice = table(network)
    assert (choice.target, choice.budget) == (target, budget or "steps")
    assert (choice.states, choice.episodes) == (5000, 10)
    assert choice.chosen is not None
    chosen = choice.tried[choice.chosen]
    for row in choice.tried:
        assert row.interval[0] <= row.similarity <= row.interval[1]
        assert row.met == (row.interval[0] >= target and row.similarity >= (1 + target) / 2)
        assert (row.latency is not None) == (budget == "latency")
        if row.met and budget != "latency":  # which is not the same twice
            cost = "spikes" if budget == "spikes" else "mean_steps"
            assert getattr(chosen, cost) <= getattr(row, cost)
    assert chosen.met
    # It stopped where the target was met: not everything was tried.
    assert len(choice.tried) < sum(len(values) for _, _, values in FAMILIES[choice.budget])


def test_the_chosen_network_is_the_one_that_was_tried(policy: torch.nn.Sequential, replay: sf.Replay) -> None:
    network = sf.convert(policy, replay, target_similarity=0.99, exact=False, split_inputs=True)
    choice = table(network)
    assert choice.chosen is not None
    made_from, held_out = sf.split_replay(replay)
    again = sf.convert(policy, made_from, split_inputs=True, **choice.tried[choice.chosen].settings)
    states = held_out.observations
    assert torch.equal(network(states), again(states))
    assert network.spec.split_inputs
    assert not network.exact
    equal = (again(states).argmax(1) == policy(states).argmax(1)).double().mean()
    assert choice.tried[choice.chosen].similarity == pytest.approx(float(equal))
    assert sf.convert(policy, replay, target_similarity=0.99, exact=False, split_inputs=True).conversion == (
        network.conversion
    )


def test_ranges_are_widened_where_states_leave_them() -> None:
    policy = linear_policy()
    within = table(sf.convert(policy, episodes(0.9), target_similarity=0.99))
    assert all("headroom" not in row.settings for row in within.tried)
    beyond = table(sf.convert(policy, episodes(1.8), target_similarity=0.99))
    assert beyond.chosen is not None
    assert beyond.tried[beyond.chosen].settings["headroom"] == 2.0
    assert all(row.settings["headroom"] == 2.0 for row in beyond.tried), "no steps are tried on ranges that cannot do"


def test_ranges_are_not_widened_for_what_a_grid_rounds_off(policy: torch.nn.Sequential) -> None:
    replay = sf.record_replay("CartPole-v1", policy, size=2500, max_steps=500, seed=3)
    with pytest.raises(sf.TargetNotReached) as info:
        sf.convert(policy, replay, target_similarity=0.99, weight_grid=4)
    assert "headroom" not in info.value.choice.tried[0].settings


def test_no_network_meets_the_target() -> None:
    policy = linear_policy()
    with pytest.raises(sf.TargetNotReached, match=r"target_similarity=0\.99 is not met: of \d+ networks tried") as info:
        sf.convert(policy, episodes(10.0), target_similarity=0.99)
    choice, best = info.value.choice, info.value.best
    assert choice.chosen is None
    assert isinstance(info.value, ValueError)
    assert table(best) == choice
    assert {row.settings["headroom"] for row in choice.tried} == {RANGES[-1][1]}
    most = max(row.similarity for row in choice.tried)
    states = sf.split_replay(episodes(10.0))[1].observations
    assert float((best(states).argmax(1) == policy(states).argmax(1)).double().mean()) == pytest.approx(most)
    assert "->" not in str(choice)


def test_a_network_without_hidden_layers_has_only_rates() -> None:
    policy = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with torch.no_grad():
        policy[0].weight.copy_(torch.eye(2))
    choice = table(sf.convert(policy, episodes(1.0), target_similarity=0.99))
    assert choice.chosen is not None
    assert choice.tried[choice.chosen].settings["preset"].startswith("rate")


def test_table_and_file(policy: torch.nn.Sequential, replay: sf.Replay, tmp_path: Path) -> None:
    network = sf.convert(policy, replay, target_similarity=0.99, budget="latency")
    choice = table(network)
    assert sf.Choice.from_dict(json.loads(json.dumps(choice.as_dict(), allow_nan=False))) == choice
    network.save(tmp_path / "net.safetensors")
    assert table(sf.SpikingNetwork.load(tmp_path / "net.safetensors")) == choice
    text = str(choice)
    assert len(text.splitlines()) == len(choice.tried) + 3
    for words in ("->  ", "similarity", "latency", " us", "target 99 % with 95 % certainty, lowest latency"):
        assert words in text


def test_too_few_states_are_refused_before_anything_is_tried(policy: torch.nn.Sequential) -> None:
    few = sf.record_replay("CartPole-v1", policy, size=2000, seed=3)
    with pytest.raises(ValueError, match=r"target_similarity=0\.999 needs more states: .* Record a larger replay"):
        sf.convert(policy, few, target_similarity=0.999)


def test_a_target_is_not_rounded_to_everything(policy: torch.nn.Sequential, replay: sf.Replay) -> None:
    with pytest.raises(ValueError, match=r"^target_similarity=0\.9999999 needs more states"):
        sf.convert(policy, replay, target_similarity=0.9999999)
    row = sf.Choice(target=0.9999999, budget="steps", states=1, episodes=1, tried=(), chosen=None)
    assert "target 99.99999 % with 95 % certainty" in str(row)


def test_calibrated_exits_need_states_enough(policy: torch.nn.Sequential, replay: sf.Replay) -> None:
    part = sf.split_replay(replay, 0.5)[0]
    choice = table(sf.convert(policy, part, target_similarity=0.99))  # without a warning, which would be an error
    assert not any("calibrated" in row.settings["preset"] for row in choice.tried)


def test_wrong_arguments(policy: torch.nn.Sequential, replay: sf.Replay) -> None:
    cases: list[tuple[dict[str, object], type[Exception], str]] = [
        ({"budget": "steps"}, ValueError, "budget needs target_similarity"),
        ({"target_similarity": 1.0}, ValueError, "target_similarity must be above 0 and below 1, got 1.0"),
        ({"target_similarity": "high"}, TypeError, "target_similarity must be a number"),
        (
            {"target_similarity": 0.9, "budget": "money"},
            ValueError,
            "budget must be one of 'steps', 'spikes', 'latency'",
        ),
        (
            {"target_similarity": 0.9, "method": "rate", "timesteps": 9},
            ValueError,
            "target_similarity chooses the settings itself: leave method and timesteps out",
        ),
    ]
    for options, error, message in cases:
        with pytest.raises(error, match=message):
            sf.convert(policy, replay, **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="replay must be a Replay for target_similarity"):
        sf.convert(policy, replay.observations, target_similarity=0.9)
