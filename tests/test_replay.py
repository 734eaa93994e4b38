# SPDX-License-Identifier: Apache-2.0
"""Replay memory: as if the episodes had been played one after the other, whole."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snnfast import checkpoint, convert
from snnfast.checkpoint import CheckpointError
from snnfast.learning import Replay, make_policy, pretrained_policy, record_replay

POLICY = make_policy([4, 16, 16, 2], seed=3)


def naive(env_id, policy, size, max_steps, seed):
    """The plain loop: one environment, one decision at a time."""
    observations, actions, outputs, lengths = [], [], [], []
    episode = 0
    while len(observations) < size:
        environment = gym.make(env_id, max_episode_steps=max_steps)
        observation, _ = environment.reset(seed=seed + episode)
        ended, length = False, 0
        while not ended:
            with torch.no_grad():
                output = policy(torch.as_tensor(observation)[None])[0]
            observations.append(observation)
            actions.append(int(output.argmax()))
            outputs.append(output.numpy())
            observation, _, terminated, truncated, _ = environment.step(actions[-1])
            ended, length = terminated or truncated, length + 1
        lengths.append(length)
        episode += 1
        environment.close()
    return np.array(observations), np.array(actions), np.array(outputs), lengths


def check_against_naive(env_id, policy, size, max_steps, seed):
    replay = record_replay(env_id, policy, size=size, max_steps=max_steps, seed=seed)
    observations, actions, outputs, lengths = naive(env_id, policy, size, max_steps, seed)
    np.testing.assert_array_equal(replay.observations.numpy(), observations[:size])
    np.testing.assert_array_equal(replay.actions.numpy(), actions[:size])
    np.testing.assert_allclose(replay.outputs.numpy(), outputs[:size], rtol=1e-5, atol=1e-6)
    assert replay.metadata["last_episode_cut"] == (len(observations) > size)
    lengths[-1] -= len(observations) - size
    assert replay.metadata["episode_lengths"] == lengths
    return replay


@settings(max_examples=12, deadline=None)
@given(size=st.integers(1, 400), max_steps=st.integers(1, 60), seed=st.integers(0, 1000), weights=st.integers(0, 50))
def test_as_if_one_after_the_other(size, max_steps, seed, weights):
    check_against_naive("CartPole-v1", make_policy([4, 16, 2], seed=weights), size, max_steps, seed)


@pytest.mark.parametrize("env_id", ["Acrobot-v1", "MountainCar-v0"])
def test_other_environments(env_id):
    environment = gym.make(env_id)
    policy = make_policy([environment.observation_space.shape[0], 8, environment.action_space.n], seed=1)
    environment.close()
    check_against_naive(env_id, policy, 250, 100, 5)


def test_environments_differ_in_length_so_order_matters():
    """The control of the property: here episodes end at different times, and cutting in time order would differ."""
    replay = check_against_naive("CartPole-v1", POLICY, 500, 40, 1)
    assert len(set(replay.metadata["episode_lengths"][:-1])) > 3


def test_seeds_are_those_of_a_vector_environment():
    episodes = gym.make_vec("CartPole-v1", num_envs=5, vectorization_mode="sync")
    starts, _ = episodes.reset(seed=9)
    episodes.close()
    replay = record_replay("CartPole-v1", POLICY, size=45, max_steps=9, seed=9)
    begins = np.cumsum([0, *replay.metadata["episode_lengths"]])[:5]
    np.testing.assert_array_equal(replay.observations[begins].numpy(), starts)


def test_shipped_policy():
    replay = record_replay("CartPole-v1", pretrained_policy("CartPole-v1"), size=1200)
    assert replay.metadata["episode_lengths"] == [500, 500, 200]
    assert replay.metadata["last_episode_cut"] is True
    assert len(replay) == 1200
    assert torch.equal(replay.actions, replay.outputs.argmax(1))
    assert (replay.observations.dtype, replay.actions.dtype, replay.outputs.dtype) == (
        torch.float32,
        torch.int64,
        torch.float32,
    )


def test_metadata_says_how_it_was_made():
    metadata = record_replay("CartPole-v1", POLICY, size=10, max_steps=5, seed=4).metadata
    assert {k: metadata[k] for k in ("env_id", "seed", "max_steps", "size", "policy", "last_episode_cut")} == {
        "env_id": "CartPole-v1",
        "seed": 4,
        "max_steps": 5,
        "size": 10,
        "policy": "Sequential",
        "last_episode_cut": False,
    }
    assert metadata["policy_sha256"] == checkpoint.content_hash(POLICY.state_dict())
    assert metadata["versions"].keys() == {"snnfast", "torch", "numpy", "gymnasium"}


def test_any_callable():
    given = []

    def rule(observations):
        given.append((observations.dtype, observations.shape[1]))
        return np.stack([-observations[:, 2], observations[:, 2]], axis=1)

    replay = record_replay("CartPole-v1", rule, size=100, max_steps=30)
    assert torch.equal(replay.actions, (replay.observations[:, 2] > 0).long())
    assert set(given) == {(np.dtype(np.float32), 4)}
    assert replay.metadata["policy_sha256"] is None
    tensors = record_replay("CartPole-v1", lambda x: torch.from_numpy(rule(x)), size=100, max_steps=30)
    assert torch.equal(tensors.observations, replay.observations)


class Own(gym.Env):
    """Gives its own state and goes on writing into it."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, what=""):
        self.what, self.state = what, np.zeros(2, np.float32)

    def reset(self, *, seed=None, options=None):
        self.state[:] = (seed, 0)
        return self.state, {}

    def step(self, action):
        self.state[1] += 1
        if self.what == "raise" and self.state[1] == 3:
            raise OSError("the cable fell out")
        wrong = self.what == "shape" and self.state[1] == 3
        return (self.state[None] if wrong else self.state), 1.0, bool(self.state[1] == 5), False, {}


@pytest.fixture
def own():
    gym.register("SnnfastOwn-v0", entry_point=Own)
    yield gym.registry["SnnfastOwn-v0"]
    del gym.registry["SnnfastOwn-v0"]


def test_an_environment_and_a_policy_may_write_into_what_they_gave(own):
    outputs = np.zeros((64, 2), np.float32)

    def policy(observations):
        outputs[: len(observations)] = observations
        return outputs[: len(observations)]

    replay = record_replay("SnnfastOwn-v0", policy, size=20, seed=7)
    want = [[7 + episode, step] for episode in range(4) for step in range(5)]
    assert replay.observations.tolist() == want
    assert replay.outputs.tolist() == want
    assert replay.actions.tolist() == [int(second > first) for first, second in want]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("raise", "'SnnfastOwn-v0' failed in episode 1, step 3: OSError: the cable fell out"),
        ("shape", r"'SnnfastOwn-v0' gave observations of shape \(1, 2\) in episode 1, step 3, expected \(2,\)"),
    ],
)
def test_an_environment_that_fails_is_named_with_the_step(own, what, message):
    own.kwargs = {"what": what}
    with pytest.raises(RuntimeError, match=message):
        record_replay("SnnfastOwn-v0", lambda observations: np.zeros((len(observations), 2)), size=20)


def test_modules_decide_as_in_use_and_stay_as_they_were():
    policy = torch.nn.Sequential(
        torch.nn.Linear(4, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Dropout(), torch.nn.Linear(16, 2)
    )
    before = checkpoint.content_hash(policy.state_dict())
    replay = record_replay("CartPole-v1", policy, size=60)
    assert policy.training
    assert checkpoint.content_hash(policy.state_dict()) == before
    with torch.no_grad():
        want = policy.eval()(replay.observations)
    torch.testing.assert_close(replay.outputs, want, rtol=1e-5, atol=1e-6)


def test_torch_may_have_another_default_device():
    with torch.device("meta"):
        replay = record_replay("CartPole-v1", POLICY, size=30)
        network = convert(POLICY, replay)
    assert network.timesteps == 100
    assert replay.observations.device.type == "cpu"


def test_repeatable_and_the_policy_is_untouched():
    before = checkpoint.content_hash(POLICY.state_dict())
    state = torch.get_rng_state()
    a, b = (record_replay("CartPole-v1", POLICY, size=300, max_steps=50) for _ in range(2))
    assert torch.equal(a.observations, b.observations)
    assert torch.equal(a.outputs, b.outputs)
    assert checkpoint.content_hash(POLICY.state_dict()) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(a.observations, record_replay("CartPole-v1", POLICY, size=300, seed=2).observations)


def test_round_trip(tmp_path):
    replay = record_replay("CartPole-v1", POLICY, size=50, max_steps=20)
    replay.save(tmp_path / "replay")
    loaded = Replay.load(tmp_path / "replay")
    for name in ("observations", "actions", "outputs"):
        assert torch.equal(getattr(loaded, name), getattr(replay, name))
    assert loaded.metadata == replay.metadata


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"size": 0}, ValueError, "size must be at least 1"),
        ({"size": 2.5}, TypeError, "size must be an integer"),
        ({"max_steps": 0}, ValueError, "max_steps must be at least 1"),
        ({"seed": -1}, ValueError, "seed must be"),
        ({"policy": make_policy([3, 2], seed=1)}, ValueError, "observations of 4 features, .* it takes 3$"),
        ({"policy": torch.nn.Conv2d(1, 1, 1)}, ValueError, "policy must take observations of 4 features: "),
        ({"policy": make_policy([4, 3], seed=1)}, ValueError, "policy must give 2 outputs"),
        ({"policy": None}, TypeError, "policy must be"),
        ({"policy": lambda x: np.full((len(x), 2), np.nan)}, FloatingPointError, "an output is not finite, in state 0"),
        ({"env_id": "Pendulum-v1"}, ValueError, "'Pendulum-v1' must have discrete actions .*Box"),
        ({"env_id": "NoSuchThing-v1"}, ValueError, "must be a registered Gymnasium environment, got 'NoSuchThing-v1'"),
        ({"env_id": "FrozenLake-v1"}, ValueError, "must have flat observations"),
        ({"env_id": 3}, TypeError, "env_id must be the name of a Gymnasium environment"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*out of date.*:DeprecationWarning")
def test_errors(change, error, message):
    arguments = {"env_id": "CartPole-v1", "policy": POLICY, "size": 10, "max_steps": 10} | change
    with pytest.raises(error, match=message):
        record_replay(**arguments)


GOOD = {"observations": torch.zeros(3, 4), "actions": torch.zeros(3, dtype=torch.int64), "outputs": torch.zeros(3, 2)}
WRONG = [
    ({"actions": torch.zeros(2, dtype=torch.int64)}, "actions must have 3 rows like observations, got 2"),
    ({"outputs": torch.zeros(4, 2)}, "outputs must have 3 rows"),
    ({"observations": torch.zeros(3)}, "observations must have 2 dimensions"),
    ({"observations": torch.zeros(0, 4)}, "not be empty"),
    (
        {"observations": torch.zeros(3, 4, dtype=torch.float64)},
        r"observations must be torch.float32, got torch.float64",
    ),
    ({"actions": torch.full((3,), 2)}, "actions must be from 0 to 1"),
    ({"actions": torch.full((3,), -1)}, "actions must be from 0 to 1"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_inconsistent(tmp_path, change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Replay(**(GOOD | change))
    checkpoint.save(tmp_path / "x", "replay", GOOD | change, {})
    with pytest.raises(CheckpointError, match=message):
        Replay.load(tmp_path / "x")


def test_not_tensors():
    with pytest.raises(TypeError, match="outputs must be a tensor, got ndarray"):
        Replay(**(GOOD | {"outputs": np.zeros((3, 2), dtype=np.float32)}))


def test_tensors_of_another_device():
    with pytest.raises(ValueError, match=r"actions must be on the CPU \(.cpu\(\)\), where replays are used, got meta"):
        Replay(**(GOOD | {"actions": torch.zeros(3, dtype=torch.int64, device="meta")}))


NO_LENGTHS = "episode_lengths must be a list of whole numbers of at least 1, got "


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([2], "episode_lengths do not add up to its 3 states, but to 2"),
        ([1, 3], "episode_lengths do not add up to its 3 states, but to 4"),
        ([], "episode_lengths do not add up to its 3 states, but to 0"),
        ([3, 0], NO_LENGTHS + r"\[3, 0\]"),
        ([-1, 4], NO_LENGTHS + r"\[-1, 4\]"),
        (["3"], NO_LENGTHS + r"\['3'\]"),
        ({}, NO_LENGTHS + r"\{\}"),
        ([3.0], NO_LENGTHS + r"\[3.0\]"),
    ],
)
def test_inconsistent_lengths(tmp_path, lengths, message):
    with pytest.raises(ValueError, match=message):
        Replay(**GOOD, metadata={"episode_lengths": lengths})
    checkpoint.save(tmp_path / "x", "replay", GOOD, {"episode_lengths": lengths})
    with pytest.raises(CheckpointError, match=message):
        Replay.load(tmp_path / "x")


def test_a_part_of_a_replay_does_not_keep_the_lengths_of_the_whole():
    whole = record_replay("CartPole-v1", POLICY, size=60, max_steps=20)
    part = (whole.observations[:30], whole.actions[:30], whole.outputs[:30])
    with pytest.raises(ValueError, match="do not add up to its 30 states, but to 60: metadata must have those of"):
        Replay(*part, whole.metadata)
    assert len(Replay(*part, {**whole.metadata, "episode_lengths": [20, 10]})) == 30


def test_metadata_is_a_dict():
    with pytest.raises(TypeError, match="metadata must be a dict, got NoneType"):
        Replay(**GOOD, metadata=None)


def test_missing_tensor(tmp_path):
    checkpoint.save(tmp_path / "x", "replay", {k: GOOD[k] for k in ("observations", "actions")}, {})
    with pytest.raises(CheckpointError, match="lacks the tensor 'outputs'"):
        Replay.load(tmp_path / "x")


@pytest.mark.parametrize("lengths", [[1, 2], (1, 2), np.array([1, 2]), [np.int64(1), np.int32(2)]])
def test_lengths_of_episodes_may_be_whole_numbers_of_any_kind(lengths, tmp_path):
    about = {"episode_lengths": lengths, "env_id": "X-v0"}
    replay = Replay(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64), torch.zeros(3, 2), about)
    assert replay.metadata == {"episode_lengths": [1, 2], "env_id": "X-v0"}
    assert about["episode_lengths"] is lengths  # the caller's own stays as it was
    replay.save(tmp_path / "replay.safetensors")
    assert Replay.load(tmp_path / "replay.safetensors").metadata == replay.metadata


def test_lengths_of_small_numbers_do_not_wrap():
    for lengths in (np.array([200, 200], np.uint8), [np.uint8(200)] * 2):
        about = {"episode_lengths": lengths}
        states = torch.zeros(400, 2)
        replay = Replay(states, torch.zeros(400, dtype=torch.int64), states, about)
        assert replay.metadata["episode_lengths"] == [200, 200]
        with pytest.raises(ValueError, match="do not add up to its 144 states, but to 400"):
            Replay(states[:144], torch.zeros(144, dtype=torch.int64), states[:144], about)


@pytest.mark.parametrize(
    "lengths",
    [[1.0, 2.0], [True, 2], [np.True_, 2], [0, 3], "12", 3, np.array([1.5, 1.5]), np.array(3), np.array([[1, 2]])],
)
def test_lengths_of_episodes_that_are_none_are_refused(lengths):
    with pytest.raises(ValueError, match="episode_lengths must be a list of whole numbers of at least 1"):
        Replay(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64), torch.zeros(3, 2), {"episode_lengths": lengths})
