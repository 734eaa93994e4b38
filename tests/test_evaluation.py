# SPDX-License-Identifier: Apache-2.0
"""What an evaluation counts, checked against environments with known episodes and loops written out by hand."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import threading
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

import evaluation_environments as environments
from snnfast import SpikingNetwork
from snnfast.evaluation import EvaluationReport, episode_seeds, evaluate, statistics
from snnfast.evaluation.agents import deciding
from snnfast.evaluation.statistics import RESAMPLES, Stream, bootstrap_interval, share_interval, uniform
from snnfast.spec import NeuronSpec


@pytest.fixture(autouse=True)
def fresh() -> None:
    environments.Counted.made = environments.Counted.closed = environments.FuseVector.closed = 0
    environments.Fuse.rendered.clear()
    environments.Trace.actions.clear()


class Agent:
    """Chooses by a function of the states and remembers what it was asked about."""

    def __init__(self, choose: Any = lambda states: np.zeros(len(states), int), n_actions: int = 3) -> None:
        self.choose, self.n_actions, self.asked = choose, n_actions, []

    def __call__(self, states: Any) -> Any:
        assert states.dtype == np.float32
        self.asked.append(states.copy())
        output = np.zeros((len(states), self.n_actions), np.float32)
        output[np.arange(len(states)), self.choose(states)] = 1
        states[:] = np.nan  # an agent that spoils its input spoils nobody else's
        return output

    @property
    def rows(self) -> int:
        return sum(map(len, self.asked))


def balancer() -> nn.Sequential:
    """A linear policy that holds CartPole's pole for 500 steps."""
    policy = nn.Sequential(nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        gains = torch.tensor([0.1, 0.5, 3.0, 1.5])
        policy[0].weight.copy_(torch.stack([-gains, gains]))
    return policy


# Which episodes count -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_envs", [None, 1, 3, 10, 64])
def test_every_episode_is_counted_once_whatever_runs_side_by_side(num_envs: int | None) -> None:
    report = evaluate("snntest/Fuse-v0", Agent(), episodes=10, seed=5, num_envs=num_envs)
    known = [environments.fuse_of(seed) for seed in episode_seeds(5, 10)]
    assert len(set(known)) > 4, "the episodes differ"
    assert report.returns == tuple(map(float, known))
    assert report.lengths == report.episode_decisions == tuple(known)
    assert report.mean_return == np.mean(known)
    assert report.std_return == pytest.approx(np.std(known, ddof=1), rel=1e-12)
    assert report.decisions == sum(known)
    assert report.num_envs == min(num_envs or 256, 10)


@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP"])
def test_only_the_first_episode_of_a_vectorised_environment_counts(mode: str) -> None:
    report = evaluate(f"snntest/Vector-{mode}-v0", Agent(), episodes=40, seed=3)
    assert environments.FuseVector.closed == 1
    assert environments.Counted.made == 0, "the vectorised version was used"
    rng = gym.utils.seeding.np_random(episode_seeds(3, 1)[0])[0]
    known = rng.integers(1, 21, size=40)
    assert report.returns == tuple(known.astype(float)), "later episodes would have paid a thousand a step"
    assert report.lengths == tuple(known)
    # What counting the first 40 episodes to finish would have found: short ones come round more often.
    finished = sorted((int(k) * turn, int(k)) for k in known for turn in range(1, 41))[:40]
    assert np.mean([k for _, k in finished]) < 0.8 * report.mean_return


def test_a_vectorised_environment_that_does_not_restart_by_itself_runs_as_instances() -> None:
    report = evaluate("snntest/Vector-DISABLED-v0", Agent(), episodes=4, seed=3)
    assert environments.FuseVector.closed == 1
    assert environments.Counted.made == environments.Counted.closed == 4
    assert report.returns == tuple(float(environments.fuse_of(seed)) for seed in episode_seeds(3, 4))


def test_a_vectorised_environment_may_give_anything_after_its_first_episodes() -> None:
    report = evaluate("snntest/Vector-late-nan-v0", Agent(), episodes=20, seed=3)
    assert max(report.returns) <= 20


def test_cartpole_against_a_loop_over_gymnasiums_vector_environment() -> None:
    policy = balancer()
    report = evaluate("CartPole-v1", lambda x: np.flip(x @ policy[0].weight.detach().numpy().T, 1), episodes=30, seed=9)
    env = gym.make_vec("CartPole-v1", num_envs=30)
    states, _ = env.reset(seed=episode_seeds(9, 1)[0])
    returns, alive = np.zeros(30), np.ones(30, bool)
    while alive.any():
        actions = policy(torch.from_numpy(states)).argmin(1).numpy()
        states, rewards, terminated, truncated, _ = env.step(actions)
        returns += np.where(alive, rewards, 0)
        alive &= ~(terminated | truncated)
    env.close()
    assert report.returns == tuple(returns)
    assert 8 <= report.mean_return < 30
    assert report.std_return > 0


def test_cartpole_in_chunks() -> None:
    report = evaluate("CartPole-v1", balancer(), episodes=20, num_envs=8, max_steps=60)
    assert report.returns == (60.0,) * 20
    assert report.num_envs == 8
    weak = [evaluate("CartPole-v1", Agent(n_actions=2), episodes=20, num_envs=n).returns for n in (8, 8, 20)]
    assert weak[0] == weak[1] != weak[2]
    assert weak[0][:8] != weak[0][8:16], "chunks have seeds of their own"


def test_rewards_are_summed_in_double_precision() -> None:
    report = evaluate("snntest/Steps-v0", Agent(), episodes=2)
    total = 0.0
    for _ in range(20):  # sum() is more precise since Python 3.12
        total += 0.1
    assert report.returns[0] == total
    assert report.std_return == 0.0


@pytest.mark.parametrize(
    ("env_id", "max_steps", "length"),
    [("Short", None, 7), ("Short", 15, 15), ("Short", 3, 3), ("Endless", 4, 4), ("Endless", 500, 20), ("Fuse", 1, 1)],
)
def test_max_steps_replaces_the_limit_of_the_environment(env_id: str, max_steps: int | None, length: int) -> None:
    report = evaluate(f"snntest/{env_id}-v0", Agent(), episodes=3, max_steps=max_steps)
    assert report.lengths == (length,) * 3


def test_episodes_share_no_seed_between_neighbouring_seeds() -> None:
    seeds = [set(episode_seeds(seed, 100)) for seed in range(5)]
    assert len(set.union(*seeds)) == 500
    assert episode_seeds(3, 100)[:10] == episode_seeds(3, 10)


# Repeatability --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", ["CartPole-v1", "snntest/Fuse-v0"])
def test_same_arguments_same_report(env_id: str) -> None:
    n_actions = 2 if env_id == "CartPole-v1" else 3
    options: dict[str, Any] = {"episodes": 12, "epsilon": 0.3, "max_noops": 3, "frame_skip": 2, "num_envs": 5}
    first, second, other = (
        evaluate(env_id, Agent(n_actions=n_actions), compare_against=Agent(n_actions=n_actions), seed=seed, **options)
        for seed in (4, 4, 5)
    )
    assert first == second
    assert first.returns != other.returns
    untimed = [{k: v for k, v in r.as_dict().items() if "second" not in k} for r in (first, second)]
    assert untimed[0] == untimed[1]
    assert dataclasses.replace(first, seconds=99.0) == first


@pytest.mark.parametrize("env_id", ["CartPole-v1", "snntest/Trace-v0"])
def test_two_agents_start_from_the_same_states(env_id: str) -> None:
    n_actions = 2 if env_id == "CartPole-v1" else 3
    agents = [Agent(lambda x, a=a: np.full(len(x), a), n_actions) for a in range(2)]
    for agent in agents:
        evaluate(env_id, agent, episodes=9, max_steps=5)
    assert (agents[0].asked[0] == agents[1].asked[0]).all()
    assert not (agents[0].asked[2] == agents[1].asked[2]).all()


# Similarity and randomness --------------------------------------------------------------------------------------------


def test_similarity_is_the_share_of_equal_decisions() -> None:
    acting = Agent(lambda x: x[:, 0].astype(int) % 2)
    other = Agent(lambda x: np.where(x[:, 0].astype(int) % 4 == 0, 2, x[:, 0].astype(int) % 2))
    report = evaluate("snntest/Steps-v0", acting, compare_against=other, episodes=6)
    assert report.decisions == 120
    assert report.similarity == 0.75
    assert report.episode_agreements == (15,) * 6
    # No episode differs from another, but 120 decisions are no proof: Wilson's interval.
    assert report.similarity_interval == pytest.approx((0.6655, 0.8190), abs=1e-4)
    assert all((a == b).all() for a, b in zip(acting.asked, other.asked, strict=True)), "asked about the same states"
    assert report.compared_with == "Agent"


def test_the_agent_acts_and_the_other_does_not() -> None:
    quits = Agent(lambda x: np.full(len(x), 2))
    assert evaluate("snntest/Fuse-v0", Agent(), compare_against=quits, episodes=8).mean_return > 5
    report = evaluate("snntest/Fuse-v0", quits, compare_against=Agent(), episodes=8)
    assert report.returns == (1.0,) * 8
    assert report.similarity == 0.0


def test_ties_go_to_the_first_action() -> None:
    report = evaluate(
        "snntest/Steps-v0", lambda x: np.ones((len(x), 3)), compare_against=lambda x: np.ones((len(x), 3)) * [1, 0, 0],
        episodes=1,
    )  # fmt: skip
    assert report.similarity == 1.0


def test_random_steps_are_not_asked_and_not_counted() -> None:
    acting, other = Agent(lambda x: np.full(len(x), 1)), Agent(lambda x: x[:, 0].astype(int) % 2)
    report = evaluate(
        "snntest/Trace-v0", acting, compare_against=other, episodes=40, epsilon=0.25, max_steps=25, seed=2
    )
    assert acting.rows == other.rows == report.decisions == sum(report.episode_decisions)
    assert report.decisions + report.random_decisions == sum(report.lengths)
    assert 0.2 < report.random_decisions / sum(report.lengths) < 0.3
    states = np.concatenate(acting.asked)
    assert report.similarity == np.mean(states[:, 0].astype(int) % 2 == 1)
    # The actions taken: 1 wherever asked; the random ones in between are the same whoever acts.
    taken = {seed: list(actions) for seed, actions in environments.Trace.actions.items()}
    for number, seed in enumerate(episode_seeds(2, 40)):
        draws = np.array([uniform(2, Stream.EPSILON, t, number, 1)[0] for t in range(len(taken[seed]))])
        is_random = draws[:, 0] < 0.25
        assert report.episode_decisions[number] == (~is_random).sum()
        expected = np.where(is_random, 5 + (3 * draws[:, 1]).astype(int), 6)
        assert taken[seed] == expected.tolist()


def test_random_actions_are_uniform() -> None:
    acting = Agent()
    report = evaluate("snntest/Trace-v0", acting, compare_against=Agent(), episodes=200, epsilon=1.0, max_steps=10)
    assert acting.rows == report.decisions == 0
    assert report.similarity is None
    assert report.similarity_interval is None
    assert report.decisions_per_second == 0.0
    counts = np.bincount(list(itertools.chain(*environments.Trace.actions.values())))[5:]
    assert counts.sum() == report.random_decisions == 2000
    assert np.abs(counts - 2000 / 3).max() < 4 * np.sqrt(2000 * 2 / 9)


# History, frame skip, no-ops ------------------------------------------------------------------------------------------


def by_hand(
    env_id: str, choose: Any, number: int, seed: int, max_steps: int, preprocess: Any, history: int, frame_skip: int,
    max_noops: int, epsilon: float,
) -> tuple[float, int, list[Any]]:  # fmt: skip
    """One episode in one environment, as plainly as can be: return, length, states the agent was asked about."""
    env = gym.make(env_id, max_episode_steps=max_steps, disable_env_checker=True)
    observation, _ = env.reset(seed=episode_seeds(seed, number + 1)[number])
    total, steps, over, past, asked = 0.0, 0, False, [], []

    def take(action: int) -> None:
        nonlocal observation, total, steps, over
        observation, reward, terminated, truncated, _ = env.step(5 + action)
        total, steps, over = total + reward, steps + 1, terminated or truncated

    for _ in range(int(uniform(seed, Stream.NOOPS, 0, number, 1)[0, 0] * (max_noops + 1))):
        if not over:
            take(0)
    while not over:
        state = np.float32(observation)
        state = state if preprocess is None else preprocess(state[None])[0]
        past = [*past, state][-history:]
        draw = uniform(seed, Stream.EPSILON, steps, number, 1)[0]
        if draw[0] < epsilon:
            action = int(draw[1] * 3)
        else:
            asked.append(np.concatenate([past[0]] * (history - len(past)) + past))
            action = int(choose(asked[-1][None])[0])
        for _ in range(frame_skip):
            if not over:
                take(action)
    env.close()
    return total, steps, asked


@pytest.mark.parametrize(
    ("preprocess", "history", "frame_skip", "max_noops", "epsilon"),
    [
        (None, 1, 1, 0, 0.0),
        (None, 3, 1, 0, 0.0),
        (None, 1, 4, 0, 0.0),
        (None, 1, 1, 6, 0.0),
        (lambda x: np.concatenate([2 * x.astype(np.float64), x[:, :1] ** 2], axis=1), 2, 3, 5, 0.2),
        (lambda x: x[:, 1:], 4, 2, 3, 0.5),
    ],
)
@pytest.mark.parametrize("num_envs", [4, None])
def test_hooks_against_a_loop_by_hand(
    preprocess: Any, history: int, frame_skip: int, max_noops: int, epsilon: float, num_envs: int | None
) -> None:
    def choose(x: Any) -> Any:
        return (np.abs(x[:, -1] * 3 + x[:, 0]) % 3).astype(int)

    agent = Agent(choose)
    options: dict[str, Any] = {
        "preprocess": preprocess,
        "history": history,
        "frame_skip": frame_skip,
        "max_noops": max_noops,
        "epsilon": epsilon,
    }
    report = evaluate("snntest/Trace-v0", agent, episodes=10, seed=7, max_steps=33, num_envs=num_envs, **options)
    hand = [by_hand("snntest/Trace-v0", choose, i, 7, 33, **options) for i in range(10)]
    assert report.returns == tuple(total for total, _, _ in hand)
    assert report.lengths == tuple(steps for _, steps, _ in hand)
    assert report.episode_decisions == tuple(len(asked) for _, _, asked in hand)
    asked = np.concatenate(agent.asked)
    expected = np.concatenate([a for _, _, a in hand])
    assert sorted(map(tuple, asked.tolist())) == sorted(map(tuple, expected.tolist()))


def test_history_begins_with_the_first_observation() -> None:
    agent = Agent()
    evaluate("snntest/Steps-v0", agent, episodes=1, history=3, max_steps=4)
    steps = [states[0, ::2].tolist() for states in agent.asked]
    assert steps == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3]]


def test_frame_skip_repeats_the_action_and_sums_the_rewards() -> None:
    actions = iter([1, 2, 0, 1, 2])
    report = evaluate("snntest/Trace-v0", Agent(lambda x: np.full(len(x), next(actions))), episodes=1, frame_skip=3,
                      max_steps=13)  # fmt: skip
    (taken,) = environments.Trace.actions.values()
    assert taken == [6, 6, 6, 7, 7, 7, 5, 5, 5, 6, 6, 6, 7]
    assert report.decisions == 5
    assert report.lengths == (13,)


def test_noops_are_drawn_from_nought_to_the_maximum_per_episode() -> None:
    report = evaluate("snntest/Trace-v0", Agent(lambda x: np.full(len(x), 1)), episodes=300, max_noops=4, max_steps=10)
    leading = [actions.index(6) for actions in environments.Trace.actions.values()]
    assert [10 - n for n in leading] == list(report.episode_decisions)
    counts = np.bincount(leading)
    assert len(counts) == 5
    assert np.abs(counts - 60).max() < 4 * np.sqrt(300 * 0.2 * 0.8)


def test_an_episode_may_end_within_its_noops() -> None:
    agent = Agent()
    report = evaluate("snntest/Fuse-v0", agent, episodes=50, max_noops=40)
    assert 0 in report.episode_decisions
    assert report.returns == tuple(float(environments.fuse_of(s)) for s in episode_seeds(1, 50))
    assert agent.rows == report.decisions > 0


# Kinds of agents ------------------------------------------------------------------------------------------------------


def test_a_module_is_asked_as_it_is_used_and_left_as_it_was(two_torch_threads: int) -> None:
    seen: list[tuple[bool, bool, torch.dtype, int]] = []

    class Policy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 3)).double()
            self.body[1].eval()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append((self.training, torch.is_grad_enabled(), x.dtype, torch.get_num_threads()))
            x.mul_(1.0)  # in place is allowed
            return self.body(x)

    policy = Policy()
    modes = [m.training for m in policy.modules()]
    state = {k: v.clone() for k, v in policy.state_dict().items()}
    first, second = (evaluate("snntest/Steps-v0", policy, compare_against=policy, episodes=3) for _ in range(2))
    assert first == second
    assert first.similarity == 1.0, "no dropout"
    assert set(seen) == {(False, False, torch.float64, 1)}
    assert [m.training for m in policy.modules()] == modes
    assert torch.get_num_threads() == two_torch_threads
    assert all(torch.equal(v, state[k]) for k, v in policy.state_dict().items())
    assert first.agent == "Policy 2-8-3"
    assert first.spikes_per_decision is first.timesteps is first.synaptic_operations_per_decision is None


def test_modes_and_threads_are_restored_after_an_error(two_torch_threads: int) -> None:
    policy = nn.Sequential(nn.Linear(2, 3))
    with pytest.raises(RuntimeError):
        evaluate("snntest/Hostile-raises-v0", policy, episodes=2)
    assert policy.training
    assert policy[0].training
    assert torch.get_num_threads() == two_torch_threads


@pytest.mark.parametrize("first", ["this", "other"])
def test_a_module_decides_as_long_as_any_thread_wants_it_to(first: str) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Dropout()).train()
    module[0].eval()
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with deciding(module):
            entered.set()
            assert leave.wait(30)

    thread = threading.Thread(target=other)
    with contextlib.ExitStack() as this:
        this.enter_context(deciding(module))
        thread.start()
        assert entered.wait(30)
        if first == "this":
            this.close()
        else:
            leave.set()
            thread.join()
        assert not module.training
        assert not module[1].training
    leave.set()
    thread.join()
    assert module.training
    assert module[1].training
    assert not module[0].training


def test_threads_are_restored_by_evaluations_inside_each_other(two_torch_threads: int) -> None:
    policy, inside = nn.Linear(2, 3), []

    def preprocess(x: Any) -> Any:
        evaluate("snntest/Steps-v0", policy, episodes=1, max_steps=1)
        inside.append(torch.get_num_threads())
        return x

    evaluate("snntest/Steps-v0", policy, episodes=1, max_steps=2, preprocess=preprocess)
    assert torch.get_num_threads() == two_torch_threads
    assert len(inside) == 2


def test_a_large_module_and_a_users_function_keep_their_threads(two_torch_threads: int) -> None:
    seen = []

    class Large(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            return super().forward(x)[:, :3]

    def function(x: Any) -> Any:
        seen.append(torch.get_num_threads())
        return np.zeros((len(x), 3))

    evaluate("snntest/Steps-v0", Large(2, 1 << 14), episodes=1, max_steps=1)
    evaluate("snntest/Steps-v0", nn.Linear(2, 3), compare_against=function, episodes=1, max_steps=1)
    assert seen == [two_torch_threads, two_torch_threads]


def network(encoding: str = "constant", decoding: str = "potential", **options: Any) -> SpikingNetwork:
    rng = np.random.default_rng(3)
    columns = 2 + options.get("bias_input", False)
    return SpikingNetwork(
        [rng.normal(size=(5, columns)) * 0.4, rng.normal(size=(4, 5)) * 0.6, rng.normal(size=(3, 4))],
        [rng.normal(size=5) * 0.1, None, np.zeros(3)],
        neuron=NeuronSpec(initial_potential=0.5),
        timesteps=8,
        encoding=encoding,  # type: ignore[arg-type]
        decoding=decoding,  # type: ignore[arg-type]
        backend="reference",
        **options,
    )


@pytest.mark.parametrize("decoding", ["potential", "mean_potential", "spikes"])
@pytest.mark.parametrize(
    ("encoding", "options"),
    [("constant", {}), ("constant", {"bias_input": True}), ("equidistant", {}),
     ("equidistant", {"split_inputs": True, "bias_input": True})],
)  # fmt: skip
def test_spikes_and_operations_of_a_spiking_network(encoding: str, decoding: str, options: dict[str, bool]) -> None:
    net = network(encoding, decoding, **options)
    states: list[Any] = []

    def preprocess(x: Any) -> Any:
        states.append(np.stack([np.abs(np.sin(x[:, 0])), np.cos(x[:, 0])], axis=1).astype(np.float32))
        return states[-1]

    report = evaluate("snntest/Steps-v0", net, compare_against=net, episodes=3, preprocess=preprocess)
    assert report.decisions == 60
    assert report.similarity == 1.0
    sim = net.simulate(np.concatenate(states))
    layers = [float(c.sum()) / 60 for c in sim.spike_counts]
    assert len(layers) == (3 if decoding == "spikes" else 2)
    assert report.spikes_per_layer == pytest.approx(layers, rel=1e-12)
    assert report.spikes_per_decision == pytest.approx(sum(layers), rel=1e-12)
    assert report.timesteps == 8
    inputs = 0.0 if sim.input_spike_counts is None else float(sim.input_spike_counts.sum()) / 60
    assert report.input_spikes_per_decision == pytest.approx(inputs, rel=1e-12)
    assert (inputs > 0) == (encoding == "equidistant")
    operations = inputs * 5 + layers[0] * 4 + layers[1] * 3
    assert report.synaptic_operations_per_decision == pytest.approx(operations, rel=1e-12)
    assert report.input_macs_per_decision == (5 * (2 + len(options)) if encoding == "constant" else 0)
    assert "spiking network 2-5-4-3, T=8" in str(report)


def test_poisson_networks_draw_anew_in_every_step_and_again_the_same() -> None:
    seeds: list[int] = []

    class Spy(SpikingNetwork):
        def simulate(self, observations: Any, *, seed: int = 0, record: Any = ()) -> Any:
            seeds.append(seed)
            return super().simulate(observations, seed=seed, record=record)

    spy = Spy([np.eye(3, 2)], None, timesteps=5, encoding="poisson", backend="reference")
    options: dict[str, Any] = {"episodes": 6, "num_envs": 3, "preprocess": lambda x: np.full_like(x, 0.5)}
    first = evaluate("snntest/Steps-v0", spy, compare_against=spy, **options)
    assert len(set(seeds)) == len(seeds) == 80, "20 steps of two agents in two chunks"
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert evaluate("snntest/Steps-v0", spy, compare_against=spy, **options) == first
    assert evaluate("snntest/Steps-v0", spy, compare_against=spy, seed=2, **options) != first
    assert first.similarity is not None
    assert 0.2 < first.similarity < 0.9, "asked twice with different random numbers"
    assert evaluate("snntest/Steps-v0", spy, seed=2**64 - 1, **options).decisions == 120
    assert first.input_spikes_per_decision == pytest.approx(5, rel=0.15), "two inputs, 5 steps, probability one half"


def test_a_spiking_network_against_its_policy_in_cartpole() -> None:
    policy = balancer()
    net = SpikingNetwork([policy[0].weight], None, backend="reference", timesteps=3)
    report = evaluate("CartPole-v1", net, compare_against=policy, episodes=5, max_steps=30)
    assert report.similarity == 1.0, "a single layer only accumulates"
    assert report.mean_return == 30
    assert report.spikes_per_decision == 0.0
    assert report.spikes_per_layer == ()
    assert report.input_macs_per_decision == 8


# Intervals ------------------------------------------------------------------------------------------------------------


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng, ones, hits = np.random.default_rng(0), np.ones(60), 0
    for trial in range(200):
        low, high = bootstrap_interval(rng.normal(3, 2, 60), ones, trial)
        hits += low <= 3 <= high
    assert 0.90 <= hits / 200 <= 0.99


@pytest.mark.parametrize("episodes", [3, 5, 10])
def test_the_interval_of_few_episodes_covers_the_truth_too(monkeypatch: pytest.MonkeyPatch, episodes: int) -> None:
    # Percentiles of resamples alone: 74, 82 and 91 times in 100 for the mean; 85, 85 and 89 for the share.
    monkeypatch.setattr("snnfast.evaluation.statistics.RESAMPLES", 500)
    rng, trials, mean, share = np.random.default_rng(3), 800, 0, 0
    for trial in range(trials):
        low, high = bootstrap_interval(rng.normal(3, 2, episodes), np.ones(episodes), trial)
        mean += low <= 3 <= high
        decisions = rng.integers(20, 501, episodes)
        equal = rng.binomial(decisions, rng.beta(97, 3, episodes))
        low, high = share_interval(equal.astype(float), decisions.astype(float), trial)
        share += low <= 0.97 <= high
    assert 0.92 <= mean / trials <= 0.98
    assert 0.91 <= share / trials <= 0.98


def test_few_episodes_widen_the_interval_by_students_t() -> None:
    def wider(episodes: int) -> float:
        values = np.random.default_rng(episodes).normal(size=episodes)
        low, high = bootstrap_interval(values, np.ones(episodes), 0)
        drawn = np.random.default_rng(7).choice(values, (20_000, episodes)).mean(axis=1)
        return float((high - low) / np.ptp(np.percentile(drawn, [2.5, 97.5])))

    # sqrt(n / (n - 1)) t / z with t of n - 1 degrees of freedom from a table.
    for episodes, t in ((3, 4.30265), (5, 2.77645), (6, 2.57058), (10, 2.26216), (40, 2.02269), (400, 1.96593)):
        expected = np.sqrt(episodes / (episodes - 1)) * t / 1.959964
        assert wider(episodes) == pytest.approx(expected, rel=0.03)
        assert statistics._few(episodes) == pytest.approx(expected, rel=2e-4)


def test_intervals_shrink_with_the_root_of_the_episodes() -> None:
    rng = np.random.default_rng(1)
    widths = []
    for n in (50, 800):
        low, high = bootstrap_interval(rng.normal(size=n), np.ones(n), 0)
        widths.append(high - low)
    assert 2.8 < widths[0] / widths[1] < 5.7


def test_the_interval_of_the_similarity_is_clustered_by_episode() -> None:
    # Half of the episodes agree throughout, half never: 1,000 decisions, but only 10 independent ones.
    decisions = np.full(10, 100.0)
    low, high = bootstrap_interval(decisions * (np.arange(10) < 5), decisions, 0)
    assert low < 0.25
    assert high > 0.75
    # Longer episodes weigh more.
    low, high = bootstrap_interval(np.array([90.0, 0.0]), np.array([90.0, 10.0]), 0)
    assert 0.9 - low == pytest.approx(9 * (high - 0.9)), "resamples reach from 0 to 1"
    # It is the interval of a ratio, which may be any number; a share's ends are shares.
    assert low < 0 < 1 < high
    assert share_interval(np.array([90.0, 0.0]), np.array([90.0, 10.0]), 0) == (0.0, 1.0)


def test_no_difference_is_no_proof_of_none() -> None:
    decisions = np.full(4, 250.0)
    low, high = share_interval(decisions, decisions, 0)
    assert (low, high) == (pytest.approx(1000 / (1000 + 1.959964**2)), 1.0)
    assert share_interval(0 * decisions, decisions, 0) == (0.0, pytest.approx(1 - low))
    assert share_interval(10 * decisions, 10 * decisions, 0)[0] > low, "more decisions say more"
    # Where episodes differ by more than their decisions explain, they decide.
    apart = decisions * [1, 1, 0, 0]
    assert share_interval(apart, decisions, 0) == (0.0, 1.0)


def test_the_interval_contains_the_estimate_and_does_not_depend_on_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.full(37, 0.1)
    low, high = bootstrap_interval(values, np.ones(37), 0)
    assert low <= values.sum() / 37 <= high
    assert high - low < 1e-12
    assert bootstrap_interval(np.array([4.0]), np.ones(1), 0) == (4.0, 4.0)
    many = np.random.default_rng(2).normal(size=500)
    whole = bootstrap_interval(many, np.ones(500), 0)
    monkeypatch.setattr("snnfast.evaluation.statistics._BLOCK", 500 * 77)
    assert RESAMPLES % 77
    assert bootstrap_interval(many, np.ones(500), 0) == whole


def test_episodes_without_decisions_do_not_spoil_the_interval() -> None:
    low, high = bootstrap_interval(np.array([0.0, 0.0, 3.0]), np.array([0.0, 0.0, 4.0]), 0)
    assert (low, high) == (0.75, 0.75)
    # Nor are they counted among those that an interval is of.
    some, all_of_them = np.array([3.0, 1.0, 2.0]), np.array([4.0, 4.0, 4.0])
    without = bootstrap_interval(some, all_of_them, 0)
    more = bootstrap_interval(np.append(some, [0.0] * 3), np.append(all_of_them, [0.0] * 3), 0)
    assert more == pytest.approx(without)


def test_one_episode() -> None:
    report = evaluate("snntest/Fuse-v0", Agent(), compare_against=Agent(), episodes=1)
    assert report.std_return == 0.0
    assert report.return_interval == (report.mean_return,) * 2
    low, high = report.similarity_interval or (0.0, 0.0)
    assert 1 - 4 / report.decisions < low < 1 - 1 / report.decisions, "no difference is no proof of none"
    assert high == 1.0
    assert isinstance(report, EvaluationReport)


# Pictures -------------------------------------------------------------------------------------------------------------


def test_render_human_shows_one_environment_at_a_time() -> None:
    report = evaluate("snntest/Fuse-v0", Agent(), episodes=3, render="human")
    assert report.num_envs == 1
    shown = "".join("R" if r == "reset" else "." for r in environments.Fuse.rendered)
    assert [len(part) for part in shown.split("R")[1:]] == list(report.lengths)
    assert report.returns == evaluate("snntest/Fuse-v0", Agent(), episodes=3).returns


def test_a_gif_shows_the_first_episode_and_changes_nothing(tmp_path: Any) -> None:
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "episode.gif"
    options: dict[str, Any] = {"episodes": 4, "seed": 5, "epsilon": 0.2, "frame_skip": 2}
    report = evaluate("snntest/Fuse-v0", Agent(), gif=path, **options)
    assert report == evaluate("snntest/Fuse-v0", Agent(), **options)
    with image.open(path) as film:
        assert film.n_frames == report.lengths[0] + 1
        assert film.size == (20, 12)
        assert film.info["duration"] == 100
    assert environments.Counted.made == environments.Counted.closed


def test_a_gif_of_cartpole(tmp_path: Any) -> None:
    image = pytest.importorskip("PIL.Image")
    evaluate("CartPole-v1", balancer(), episodes=2, max_steps=31, gif=tmp_path / "pole.gif")
    with image.open(tmp_path / "pole.gif") as film:
        total = 0
        for number in range(film.n_frames):
            film.seek(number)
            total += film.info["duration"]
    # Every second of 32 pictures at 50 per second, and the last one; equal ones in a row are merged and stay longer.
    assert total == 17 * 40
