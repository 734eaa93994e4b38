# SPDX-License-Identifier: Apache-2.0
"""REINFORCE: the update by hand, the rule for "solved" by hand, and runs that survive anything."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from importlib import metadata

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from snnfast import checkpoint
from snnfast.checkpoint import CheckpointError
from snnfast.environments import Interface
from snnfast.learning import make_policy, policy_gradient, train_policy_gradient
from snnfast.learning.acting import batch_outputs
from snnfast.learning.environments import best_return, derived_seed, longest_limit, reward_threshold
from snnfast.learning.greedy import greedy_returns
from snnfast.learning.policy_gradient import standardised_returns

SIZES = [4, 8, 2]
#: Few, short episodes in which every stage occurs: solved, checked, trained on, never good enough.
SHORT = {
    "max_steps": 40,
    "max_episodes": 60,
    "threshold": 12.0,
    "window": 10,
    "consecutive": 5,
    "check_episodes": 4,
    "check_max_steps": 60,
    "check_threshold": 1000.0,
    "check_every": 7,
    "progress": False,
}


def train(policy=None, **changes):
    policy = make_policy(SIZES, seed=1) if policy is None else policy
    return train_policy_gradient("CartPole-v1", policy, **(SHORT | changes))


def fingerprint(result):
    """Every bit of a run that should not depend on when it was run."""
    states = {
        "policy": result.policy.state_dict(),
        "initial": result.initial_state,
        "solved": result.solved_state or {},
    }
    fields = ("returns", "durations", "means", "solved_at", "greedy_return_at_solved", "greedy_return", "holds")
    return {
        **{name: checkpoint.content_hash(state) for name, state in states.items()},
        **{name: getattr(result, name) for name in fields},
        "extra": result.extra_episodes,
    }


class Scripted(gym.Env):
    """One step per episode; the returns are those of a list, whatever is done."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    script: list[float]

    def __init__(self, script=(0.0,)):
        self.script, self.episode = list(script), -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), self.script[self.episode % len(self.script)], True, False, {}


class Matching(gym.Env):
    """Say which of three numbers you see; the actions are called 5, 6, 7. The best return is 10."""

    observation_space = gym.spaces.Box(0, 1, (3,), np.float64)
    action_space = gym.spaces.Discrete(3, start=5)

    def _show(self):
        self.shown = int(self.np_random.integers(3))
        return np.eye(3)[self.shown]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._show(), {}

    def step(self, action):
        assert action in (5, 6, 7)
        reward, self.t = float(action - 5 == self.shown), self.t + 1
        return self._show(), reward, False, self.t == 10, {}


class Hostile(gym.Env):
    """Goes wrong in the third step of the second episode."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, what="raise", episode=0):
        self.what, self.episode = what, episode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        observation, reward = np.zeros(1, np.float32), 1.0
        if (self.episode, self.t) == (2, 3):
            if self.what == "raise":
                raise OSError("the cable fell out")
            if self.what == "reward":
                reward = float("nan")
            if self.what == "observation":
                observation[0] = np.inf
            if self.what == "shape":
                observation = np.zeros((2, 2), np.float32)
            if self.what == "brackets":
                observation = np.zeros((1, 1), np.float32)
        return observation, reward, False, self.t == 5, {}


class Image(Scripted):
    observation_space = gym.spaces.Box(0, 1, (2, 2), np.float32)


@pytest.fixture(scope="module", autouse=True)
def _environments():
    registered = {
        "SnnfastScripted-v0": Scripted,
        "SnnfastMatching-v0": Matching,
        "SnnfastHostile-v0": Hostile,
        "SnnfastImage-v0": Image,
    }
    for name, entry in registered.items():
        gym.register(name, entry_point=entry, reward_threshold=9.5 if entry is Matching else None, max_episode_steps=10)
    yield
    for name in registered:
        del gym.registry[name]


# The update


def test_returns_by_hand():
    given = standardised_returns([1.0, 0.0, 2.0], 0.5)
    raw = torch.tensor([1.5, 1.0, 2.0])  # 1 + 0.5 * 1, 0 + 0.5 * 2, 2
    torch.testing.assert_close(given, (raw - 1.5) / (0.5 + 2**-23), rtol=1e-6, atol=0)
    assert given.dtype == torch.float32


@pytest.mark.parametrize("rewards", [[1.0], [0.0, 0.0, 0.0]])
def test_returns_that_do_not_differ_are_zero(rewards):
    assert standardised_returns(rewards, 1.0).tolist() == [0.0] * len(rewards)


def naive_reinforce(policy, episodes, seed, max_steps, gamma=0.99):
    """The textbook loop, one decision at a time, with the same random numbers."""
    environment = gym.make("CartPole-v1", max_episode_steps=max_steps)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    durations = []
    for episode in range(episodes):
        noise = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, episode, 1])))
        gumbel = noise.gumbel(size=(max_steps, 2))
        observation, _ = environment.reset(seed=derived_seed(seed, episode, 0))
        log_probabilities, rewards, ended = [], [], False
        while not ended:
            log_probability = torch.log_softmax(policy(torch.as_tensor(observation)), dim=-1)
            action = int(np.argmax(log_probability.detach().numpy() + gumbel[len(rewards)]))
            observation, reward, terminated, truncated, _ = environment.step(action)
            log_probabilities.append(log_probability[action])
            rewards.append(reward)
            ended = terminated or truncated
        returns, following = [], 0.0
        for reward in reversed(rewards):
            following = reward + gamma * following
            returns.insert(0, following)
        g = torch.tensor(returns)
        g = (g - g.mean()) / (g.std() + np.finfo(np.float32).eps.item())
        loss = -(torch.stack(log_probabilities) * g).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        durations.append(len(rewards))
    environment.close()
    return durations


def test_against_the_textbook_loop():
    ours, theirs = make_policy([4, 16, 16, 2], seed=5), make_policy([4, 16, 16, 2], seed=5)
    result = train(ours, seed=3, max_episodes=12, max_steps=200, threshold=1e9)
    assert result.durations == naive_reinforce(theirs, 12, 3, 200)
    for name, weight in ours.state_dict().items():
        torch.testing.assert_close(weight, theirs.state_dict()[name], rtol=1e-4, atol=1e-5)


def test_learns_what_can_be_learnt():
    """An environment whose best return is known, with float64 observations and actions that do not start at 0."""
    policy = make_policy([3, 16, 3], seed=1)
    result = train_policy_gradient(
        "SnnfastMatching-v0", policy, max_steps=10, window=20, consecutive=10, check_episodes=20, progress=False
    )
    assert result.settings["threshold"] == 9.5
    assert result.holds
    assert np.mean(result.returns[:20]) < 6  # one in three at first
    assert policy(torch.eye(3)).argmax(1).tolist() == [0, 1, 2]


def test_learns_cartpole():
    policy = make_policy([4, 16, 16, 2], seed=2)
    result = train(
        policy, seed=2, max_episodes=400, max_steps=100, threshold=90, window=20, consecutive=5, check_episodes=0
    )
    assert result.solved
    assert np.mean(result.returns[:20]) < 50


@pytest.mark.long
@pytest.mark.parametrize("seed", [2, 5, 8])
def test_meets_the_thesis_standard(seed):
    policy = make_policy([4, 16, 16, 2], seed=seed)
    result = train_policy_gradient("CartPole-v1", policy, seed=seed, max_steps=200, progress=False)
    assert result.settings["threshold"] == 195
    assert result.settings["check_max_steps"] == result.settings["check_threshold"] == 500
    assert result.holds
    assert min(result.means[result.solved_at - 100 : result.solved_at]) >= 195
    assert result.means[result.solved_at - 101] < 195


# The rule


def scripted(script, **changes):
    gym.registry["SnnfastScripted-v0"].kwargs = {"script": script}
    arguments = {"threshold": 2.0, "window": 3, "consecutive": 2, "max_episodes": 12, "progress": False}
    policy = make_policy([1, 2], seed=1)
    return train_policy_gradient(
        "SnnfastScripted-v0", policy, max_steps=1, **({"check_episodes": 0} | arguments | changes)
    )


def test_solved_by_hand():
    #               means of 3: -  -  2  1  1  2  2
    result = scripted([2, 2, 2, -1, 2, 5, -1, 9])
    assert result.means == [None, None, 2.0, 1.0, 1.0, 2.0, 2.0]
    assert result.solved_at == 7  # the streak of episode 3 was broken by episode 4
    assert result.returns == [2, 2, 2, -1, 2, 5, -1]
    assert result.durations == [1] * 7
    assert (result.greedy_return, result.holds, result.extra_episodes) == (None, None, 0)
    assert result.messages == [
        "solved after 7 episodes (mean return of the last 3 at least 2 for 2 episodes in a row)",
        "not checked greedily",
    ]


def test_never_before_the_window_is_full():
    assert scripted([2.0], consecutive=1).solved_at == 3
    assert scripted([2.0], consecutive=1, window=1).solved_at == 1


def test_not_solved():
    result = scripted([1.0])
    assert (result.solved, result.solved_at, result.solved_state, result.holds) == (False, None, None, None)
    assert result.episodes == 12
    assert "not solved in 12 episodes: the best mean over 3 episodes was 1.0, required is 2" in result.messages[0]


def test_the_best_mean_of_negative_returns_is_one_of_them():
    result = scripted([-5.0, -4.0, -3.0])
    assert "the best mean over 3 episodes was -4.0, required is 2" in result.messages[0]
    few = scripted([-5.0], max_episodes=2)
    assert "not solved in 2 episodes, too few for a mean over 3 of them" in few.messages[0]
    assert few.means == [None, None]


def test_episodes_of_one_step_give_no_nan():
    result = scripted([1.0, 2.0])
    assert all(torch.isfinite(p).all() for p in result.policy.parameters())


def test_continues_until_it_holds():
    """Every checked episode of a fresh environment returns the script's first number, 3."""
    held = scripted([3.0], check_episodes=4, check_max_steps=1, check_threshold=3.0)
    assert (held.solved_at, held.extra_episodes, held.holds, held.greedy_return) == (4, 0, True, 3.0)
    assert held.messages[-1].endswith("it holds")
    failed = scripted([3.0], check_episodes=4, check_max_steps=1, check_threshold=3.5, check_every=3)
    assert (failed.solved_at, failed.extra_episodes, failed.holds, failed.greedy_return) == (4, 8, False, 3.0)
    assert failed.episodes == 12
    assert "does not hold, so training continued" in failed.messages[1]
    assert "still does not hold after 12 episodes" in failed.messages[2]


def test_what_held_is_kept_and_says_so():
    changes = {"max_steps": 60, "threshold": 15, "check_threshold": 55, "check_every": 5, "max_episodes": 400}
    result = train(seed=4, check_episodes=10, **changes)
    assert result.holds
    assert result.extra_episodes > 0
    assert result.greedy_return_at_solved < 55 <= result.greedy_return
    assert (result.episodes - result.solved_at) % 5 == 0
    assert f"holds after {result.extra_episodes} more episodes" in result.messages[-1]
    assert checkpoint.content_hash(result.solved_state) != checkpoint.content_hash(result.policy.state_dict())


def test_the_best_checked_is_kept_where_none_held(monkeypatch):
    checked = []
    real = policy_gradient.greedy_returns

    def spy(*args, **kwargs):
        returns = real(*args, **kwargs)
        checked.append((returns.mean(), checkpoint.content_hash(policy.state_dict())))
        return returns

    monkeypatch.setattr(policy_gradient, "greedy_returns", spy)
    policy = make_policy(SIZES, seed=1)
    result = train(policy)
    assert len(checked) > 3
    best = max(checked, key=lambda entry: entry[0])
    assert (result.greedy_return, checkpoint.content_hash(policy.state_dict())) == best
    assert result.holds is False


def test_defaults_come_from_the_registry():
    assert reward_threshold("CartPole-v1", 200) == 195
    assert reward_threshold("CartPole-v1", 500) == 475
    assert reward_threshold("CartPole-v1", 300) is None
    assert longest_limit("CartPole-v1", 200) == 500
    assert longest_limit("CartPole-v1", 700) == 700


# The result


def test_trained_in_place_and_initial_state_kept():
    policy = make_policy(SIZES, seed=1)
    result = train(policy)
    assert result.policy is policy
    assert checkpoint.content_hash(result.initial_state) == checkpoint.content_hash(
        make_policy(SIZES, seed=1).state_dict()
    )
    assert checkpoint.content_hash(policy.state_dict()) != checkpoint.content_hash(result.initial_state)
    assert result.returns == [float(d) for d in result.durations]
    assert result.seconds > 0
    assert json.loads(json.dumps(result.settings)) == result.settings


def test_csv(tmp_path):
    result = train(max_episodes=15)
    result.save_csv(tmp_path / "curve.csv")
    with open(tmp_path / "curve.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["episode", "duration", "return", "mean10"]
    assert [int(row["episode"]) for row in rows] == list(range(1, 16))
    assert [int(row["duration"]) for row in rows] == result.durations
    assert [float(row["return"]) for row in rows] == result.returns
    assert [row["mean10"] for row in rows[:9]] == [""] * 9, "no ten episodes yet"
    assert [float(row["mean10"]) for row in rows[9:]] == result.means[9:]
    assert result.means[:9] == [None] * 9
    with pytest.raises(FileNotFoundError, match="absent"):
        result.save_csv(tmp_path / "absent" / "curve.csv")


@pytest.mark.parametrize(
    "policy",
    [
        nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)),
        make_policy([4, 6, 2], seed=1).double(),
        nn.Sequential(nn.BatchNorm1d(4, affine=False, momentum=None), nn.Linear(4, 2)).eval(),
    ],
)
def test_other_policies_train_too(policy):
    before = checkpoint.content_hash(policy.state_dict())
    assert train(policy, max_episodes=5).episodes == 5
    assert checkpoint.content_hash(policy.state_dict()) != before


# Bit for bit


def test_same_seed_same_run():
    first = fingerprint(train())
    assert first["solved_at"] is not None
    assert fingerprint(train()) == first
    assert fingerprint(train(seed=2)) != first
    assert fingerprint(train(make_policy(SIZES, seed=2))) != first


def test_threads_make_no_difference():
    before = torch.get_num_threads()
    reference = fingerprint(train())
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            assert fingerprint(train()) == reference
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_global_random_states_are_not_touched():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    train(max_episodes=20)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_checkpoints_do_not_change_the_run(tmp_path, monkeypatch):
    reference = fingerprint(train())
    assert fingerprint(train(checkpoint_path=tmp_path / "a")) == reference
    monkeypatch.setattr(policy_gradient, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    assert fingerprint(train(checkpoint_path=tmp_path / "b")) == reference


@pytest.mark.parametrize("episodes", [1, 15, 33, 60])
def test_resumed_run_is_the_same(tmp_path, episodes):
    """Also at the end, and with more episodes than first allowed, which must not keep the best weights as the last."""
    reference = fingerprint(train())
    path = tmp_path / "training"
    with pytest.raises(KeyboardInterrupt):
        train(checkpoint_path=path, policy=stopping_policy(episodes))
    other = make_policy(SIZES, seed=77)  # replaced by the stored weights
    assert fingerprint(train(other, checkpoint_path=path, resume=True)) == reference
    assert fingerprint(train(checkpoint_path=path, resume=True)) == reference


def test_raising_the_number_of_episodes_again_and_again_changes_nothing(tmp_path):
    """The check at the end of each part is one that an uninterrupted run does not make."""
    changes = {"seed": 5, "window": 10, "consecutive": 1, "threshold": 20, "check_episodes": 10, "check_every": 50,
               "check_threshold": 101, "check_max_steps": 100}  # fmt: skip

    def part(episodes, path=None):
        policy = make_policy([4, 8, 2], seed=5)
        return train(policy, checkpoint_path=path, resume=path is not None, max_episodes=episodes, **changes)

    reference, path = fingerprint(part(200)), tmp_path / "training"
    parts = [part(episodes, path) for episodes in (90, 133, 171, 200, 200)]
    assert parts[0].solved_at is not None, "nothing would have been checked"
    assert max(p.greedy_return for p in parts[:3]) > reference["greedy_return"], "nothing would have been kept"
    assert [fingerprint(p) == reference for p in parts] == [False, False, False, True, True]


class _Stopping(nn.Sequential):
    """Interrupts in the middle of the training pass of an episode."""

    def __init__(self, layers, at):
        super().__init__(*layers)
        self.passes, self.at = 0, at

    def forward(self, x):
        if torch.is_grad_enabled():
            self.passes += 1
            if self.passes == self.at:
                raise KeyboardInterrupt
        return super().forward(x)


def stopping_policy(at):
    return _Stopping(make_policy(SIZES, seed=1), at)


def test_interruption_leaves_whole_episodes(tmp_path, monkeypatch):
    """Even in the middle of Adam's step, with some weights changed and others not."""
    path = tmp_path / "training"
    policy = make_policy(SIZES, seed=1)
    reference = fingerprint(train())
    states = {}
    real = torch.optim.Adam.step
    count = 0

    def interrupted_step(self, *args, **kwargs):
        nonlocal count
        count += 1
        states[count] = checkpoint.content_hash(policy.state_dict())
        if count == 20:
            policy[0].weight.data.add_(1.0)
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", interrupted_step)
    with pytest.raises(KeyboardInterrupt):
        train(policy, checkpoint_path=path)
    monkeypatch.undo()
    assert checkpoint.content_hash(policy.state_dict()) == states[20]
    tensors, metadata = checkpoint.load(path, "training")
    assert metadata["numbers"]["episodes"] == len(tensors["returns"]) == len(tensors["durations"]) == 19
    assert fingerprint(train(checkpoint_path=path, resume=True)) == reference


CHILD = """
import json, os, sys
import torch, torch._dynamo  # noqa: imported once here instead of in every child
from snnfast import checkpoint
from snnfast.learning import make_policy, policy_gradient, train_policy_gradient

policy_gradient._SECONDS_BETWEEN_CHECKPOINTS = 0.0
torch.set_num_threads(1)
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        train_policy_gradient("CartPole-v1", make_policy([4, 8, 2], seed=int(line)), checkpoint_path=sys.argv[1],
                              resume=True, **json.loads(sys.argv[2]))
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


def kill_and_resume(path, kills):
    """Kill training at random moments until it is done; the number of kills."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    rng = random.Random(1)
    done = 0
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), json.dumps(SHORT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as parent:
        assert parent.stdout.readline() == "ready\n"
        for attempt in range(1000):
            parent.stdin.write(f"{1 if attempt == 0 else 90 + attempt}\n")  # later weights come from the checkpoint
            parent.stdin.flush()
            child = int(parent.stdout.readline())
            if attempt < kills:
                time.sleep(rng.uniform(0.02, 0.15))
                with contextlib.suppress(ProcessLookupError):  # it was quicker
                    os.kill(child, signal.SIGKILL)
            if parent.stdout.readline() == "0\n":
                break
            done += 1
        parent.stdin.close()
    return done


def test_kill_and_resume(tmp_path):
    path = tmp_path / "training"
    # The state of episode 0 is on disk, so that every attempt is a resumption.
    with pytest.raises(KeyboardInterrupt):
        train(stopping_policy(1), checkpoint_path=path)
    assert kill_and_resume(path, 12) > 2
    assert fingerprint(train(checkpoint_path=path, resume=True)) == fingerprint(train())
    assert os.listdir(tmp_path) == ["training"]


@pytest.mark.long
def test_kill_and_resume_100_times(tmp_path):
    reference = fingerprint(train())
    kills = 0
    while kills < 100:
        path = tmp_path / str(kills)
        with pytest.raises(KeyboardInterrupt):
            train(stopping_policy(1), checkpoint_path=path)
        kills += kill_and_resume(path, 20)
        assert fingerprint(train(checkpoint_path=path, resume=True)) == reference


# Resuming what cannot be resumed


def test_nothing_to_resume_starts_from_the_beginning(tmp_path):
    result = train(checkpoint_path=tmp_path / "x", resume=True)
    assert "nothing to resume at" in result.messages[0]
    assert fingerprint(result) == fingerprint(train())


def test_an_existing_checkpoint_is_not_overwritten(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match=r"resume=True.*tmp.*/x'"):
        train(checkpoint_path=path)
    assert path.read_bytes() == b"precious"


def test_other_settings_are_listed_with_both_values(tmp_path):
    path = tmp_path / "x"
    train(checkpoint_path=path, max_episodes=3)
    with pytest.raises(CheckpointError, match=r"other settings: seed 1 \(now 2\), gamma 0.99 \(now 0.5\)$"):
        train(checkpoint_path=path, resume=True, seed=2, gamma=0.5)
    with pytest.raises(CheckpointError, match=r"other settings: policy .*\[8, 4\].*\(now .*\[9, 4\]"):
        train(make_policy([4, 9, 2], seed=1), checkpoint_path=path, resume=True)


def test_more_episodes_may_be_allowed(tmp_path):
    path = tmp_path / "x"
    assert train(checkpoint_path=path, max_episodes=5).episodes == 5
    result = train(checkpoint_path=path, resume=True)
    assert fingerprint(result) == fingerprint(train())
    assert result.messages[0] == "resumed after episode 5"


def test_other_versions_are_mentioned(tmp_path, monkeypatch):
    path = tmp_path / "x"
    train(checkpoint_path=path, max_episodes=3)
    assert checkpoint.load(path, "training")[1]["versions"].keys() == {"torch", "numpy", "gymnasium"}
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.0" if name == "numpy" else real(name))
    messages = train(checkpoint_path=path, resume=True, max_episodes=4).messages
    assert any("not bit for bit the same: numpy" in message for message in messages)


def rewrite(path, change):
    tensors, metadata = checkpoint.load(path, "training")
    change(tensors, metadata)
    checkpoint.save(path, "training", tensors, metadata)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: t.pop("returns"), "lacks the tensor 'returns'"),
        (lambda t, m: m.pop("numbers"), "lacks the metadata 'numbers'"),
        (lambda t, m: m.update(numbers=3), "'numbers' is of the wrong kind"),
        (lambda t, m: m["numbers"].pop("streak"), "does not fit this training run: its numbers must be"),
        (lambda t, m: m["numbers"].update(streak="x"), "its counters are no integers"),
        (lambda t, m: t.pop("initial/0.weight"), "its initial weights are of shapes"),
        (lambda t, m: t.update({"best/0.weight": torch.zeros(3)}), "its best weights are of shapes"),
        (lambda t, m: m["numbers"].update(other=1), "does not fit this training run"),
        (lambda t, m: m["numbers"].update(episodes=4), "not as long as its number of episodes"),
        (lambda t, m: t.pop("policy/0.weight"), "does not fit this training run"),
        (lambda t, m: t.update({"optimizer/0/exp_avg": torch.zeros(3)}), "does not fit this training run"),
        (lambda t, m: t.pop("optimizer/0/exp_avg"), "does not fit this training run"),
        (lambda t, m: t.update({"optimizer/0/step": torch.zeros(2)}), "does not fit this training run"),
        (lambda t, m: t.update({"optimizer/x/exp_avg": torch.zeros(3)}), "does not fit this training run"),
        (lambda t, m: t.update({"optimizer/9/exp_avg": torch.zeros(3)}), "does not fit this training run"),
    ],
)
def test_checkpoint_that_does_not_fit(tmp_path, change, message):
    path = tmp_path / "x"
    train(checkpoint_path=path, max_episodes=3)
    rewrite(path, change)
    policy = make_policy(SIZES, seed=1)
    before = checkpoint.content_hash(policy.state_dict())
    with pytest.raises(CheckpointError, match=message):
        train(policy, checkpoint_path=path, resume=True)
    assert checkpoint.content_hash(policy.state_dict()) == before  # nothing half loaded


def test_unwritable_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent/x"):
        train(checkpoint_path=tmp_path / "absent" / "x")


# Wrong arguments


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"env_id": "NoSuchThing-v1"}, ValueError, "must be a registered Gymnasium environment, got 'NoSuchThing-v1'"),
        ({"env_id": "no.such.module:Thing-v1"}, ValueError, "must not import a module, got 'no.such.module:Thing-v1'"),
        ({"env_id": 1}, TypeError, "env_id must be the name of a Gymnasium environment"),
        ({"env_id": "Pendulum-v1"}, ValueError, "'Pendulum-v1' must have discrete actions .*Box"),
        ({"env_id": "SnnfastImage-v0"}, ValueError, "'SnnfastImage-v0' must have flat observations .*Box"),
        ({"policy": make_policy([3, 2], seed=1)}, ValueError, "policy must take observations of 4 features"),
        ({"policy": make_policy([4, 3], seed=1)}, ValueError, "policy must give 2 outputs"),
        ({"policy": lambda x: x}, TypeError, "policy must be an nn.Module, got function"),
        ({"policy": nn.Identity()}, ValueError, "policy must have parameters that require gradients"),
        ({"seed": -1}, ValueError, "seed must be from 0"),
        ({"seed": None}, TypeError, "seed must be an integer"),
        ({"max_steps": 0}, ValueError, "max_steps must be at least 1"),
        ({"max_steps": 2.0}, TypeError, "max_steps must be an integer"),
        ({"max_episodes": 0}, ValueError, "max_episodes must be at least 1"),
        ({"gamma": 1.1}, ValueError, "gamma must be from 0 to 1, got 1.1"),
        ({"learning_rate": -1}, ValueError, "learning_rate must be at least 0, got -1"),
        ({"learning_rate": "x"}, TypeError, "learning_rate must be a number"),
        ({"threshold": float("nan")}, ValueError, "threshold must be finite"),
        ({"threshold": None, "max_steps": 300}, ValueError, "threshold must be given: .* max_steps=300"),
        ({"window": 0}, ValueError, "window must be at least 1"),
        ({"consecutive": 0}, ValueError, "consecutive must be at least 1"),
        ({"check_episodes": -1}, ValueError, "check_episodes must be at least 0"),
        ({"check_max_steps": 0}, ValueError, "check_max_steps must be at least 1"),
        ({"check_threshold": "x"}, TypeError, "check_threshold must be a number"),
        ({"check_every": 0}, ValueError, "check_every must be at least 1"),
        ({"resume": True}, ValueError, "checkpoint_path must be given to resume"),
    ],
)
def test_wrong_arguments(change, error, message):
    arguments = {"env_id": "CartPole-v1", "policy": make_policy(SIZES, seed=1)} | SHORT | change
    with pytest.raises(error, match=message):
        train_policy_gradient(**arguments)


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("raise", RuntimeError, "'SnnfastHostile-v0' failed in episode 2, step 3: OSError: the cable fell out"),
        ("shape", RuntimeError, "'SnnfastHostile-v0' failed in episode 2, step 4: ValueError"),
        ("brackets", RuntimeError, r"in episode 2, step 4: ValueError: an observation of shape \(1, 1\), not \(1,\)"),
        ("reward", FloatingPointError, "'SnnfastHostile-v0' gave a reward .* not finite in episode 2"),
        ("observation", FloatingPointError, "'SnnfastHostile-v0' gave .* not finite in episode 2"),
    ],
)
def test_hostile_environment(what, error, message):
    gym.registry["SnnfastHostile-v0"].kwargs = {"what": what}
    policy = make_policy([1, 2], seed=1)
    with pytest.raises(error, match=message):
        train_policy_gradient("SnnfastHostile-v0", policy, max_steps=5, threshold=9, progress=False)
    assert all(torch.isfinite(p).all() for p in policy.parameters())


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("raise", RuntimeError, "'SnnfastHostile-v0' failed in step 3 of a greedy check: OSError: the cable fell out"),
        ("reward", FloatingPointError, "'SnnfastHostile-v0' gave a reward .* not finite in step 3 of a greedy check"),
        ("observation", FloatingPointError, "gave an observation .* not finite in step 3 of a greedy check"),
    ],
)
def test_hostile_environment_in_a_greedy_check(what, error, message):
    gym.registry["SnnfastHostile-v0"].kwargs = {"what": what, "episode": 1}
    policy = make_policy([1, 2], seed=1)
    outputs = batch_outputs(policy, 1, 2)
    with pytest.raises(error, match=message):
        greedy_returns("SnnfastHostile-v0", Interface(1, 2, 0), outputs, episodes=3, max_steps=5, seed=1)


def test_the_best_return_is_known_of_the_usual_cartpole_only():
    assert best_return("CartPole-v1", 300) == 300
    assert best_return("Acrobot-v1", 300) is None
    gym.register(
        "snnfast/CartPole-v1",
        entry_point="gymnasium.envs.classic_control.cartpole:CartPoleEnv",
        kwargs={"sutton_barto_reward": True},
    )
    try:
        assert best_return("snnfast/CartPole-v1", 300) is None
    finally:
        del gym.registry["snnfast/CartPole-v1"]


class _InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        return self.layer(x.mul_(2.0) if not x.requires_grad else x * 2.0)


class _NotInPlace(_InPlace):
    def forward(self, x):
        return self.layer(x * 2.0)


def test_a_policy_that_works_in_place_learns_what_any_other_does():
    states = []
    for kind in (_InPlace, _NotInPlace):
        torch.manual_seed(0)
        policy = kind()
        train(policy, max_episodes=5)
        states.append(checkpoint.content_hash(policy.state_dict()))
    assert states[0] == states[1]


def test_divergence_is_named():
    with pytest.raises(FloatingPointError, match="training diverged in episode"):
        train(learning_rate=1e30)


def test_progress_bar(capsys, monkeypatch):
    train(max_episodes=3, progress=True)
    assert capsys.readouterr().err == ""  # no terminal
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    train(max_episodes=12, progress=True)
    said = capsys.readouterr()
    assert "CartPole-v1 (seed 1)" in said.err
    assert "12/12" in said.err
    assert "mean" in said.err
    assert said.out == ""
