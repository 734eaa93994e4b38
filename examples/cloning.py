# SPDX-License-Identifier: Apache-2.0
"""A ReLU policy cloned from a controller written by hand, and its spiking networks measured beside it.

What the examples of reinforcement learning share: they differ in environment and teacher.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import snnfast as sf

#: A controller: observations (B, n_in) to actions (B,).
Teacher = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.int64]]
#: Names of rows of the table, and arguments of :func:`snnfast.convert`.
Conversions = dict[str, dict[str, Any]]


def clone(
    env_id: str, teacher: Teacher, sizes: Sequence[int], *, rounds: int, states: int, steps: int, seed: int
) -> nn.Sequential:
    """A policy that learned from a teacher to act as it would.

    First it learns from states that the teacher meets; then, round after round, from those that itself met as well,
    where the teacher says what to do instead.

    Args:
        env_id: the environment.
        teacher: the controller.
        sizes: of the policy's layers.
        rounds: rounds of learning.
        states: recorded in each round.
        steps: of Adam, in each round, 256 states each.
        seed: of everything.

    Source: Ross, Gordon and Bagnell 2011, A reduction of imitation learning and structured prediction to no-regret
    online learning (DAgger), AISTATS.
    """
    actions = sizes[-1]
    policy = sf.make_policy(sizes, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    met, wanted = [], []

    def taught(observations: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.eye(actions, dtype=np.float32)[teacher(observations)]

    agent: nn.Module | Callable[..., Any] = taught
    for number in range(rounds):
        replay = sf.record_replay(env_id, agent, size=states, max_steps=1000, seed=seed + 100_000 * (number + 1))
        met.append(replay.observations)
        wanted.append(torch.from_numpy(teacher(replay.observations.numpy())))
        _learn(policy, torch.cat(met), torch.cat(wanted), steps, generator)
        agent = policy
    return policy


def _learn(
    policy: nn.Module, observations: torch.Tensor, actions: torch.Tensor, steps: int, generator: torch.Generator
) -> None:
    """Make the actions likely, with a rate of learning that falls to zero."""
    optimiser = torch.optim.Adam(policy.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        batch = torch.randint(len(observations), (256,), generator=generator)
        loss = nn.functional.cross_entropy(policy(observations[batch]), actions[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def compare(
    env_id: str,
    policy: nn.Module,
    conversions: Conversions,
    *,
    replay_states: int,
    episodes: int,
    seed: int,
) -> None:
    """Convert a policy in several ways, let each network play the same episodes, and print a table.

    Args:
        env_id: the environment.
        policy: the policy.
        conversions: the networks to make of it.
        replay_states: states of the policy that ranges and bounds come from.
        episodes: played by each network, from starts that the replay does not have.
        seed: of the replay; that of the episodes is another.
    """
    replay = sf.record_replay(env_id, policy, size=replay_states, max_steps=1000, seed=seed)
    rules: dict[str, Any] = dict(episodes=episodes, max_steps=None, seed=seed + 10_000)
    original = sf.evaluate(env_id, policy, **rules)
    print(f"{env_id}, {episodes} episodes, the same starts for all")
    print(f"{'':<22} {'return':>8} {'paired difference':>18} {'similarity':>12} {'steps':>7} {'spikes':>8}")
    print(f"{'original':<22} {original.mean_return:>8.1f}")
    for name, settings in conversions.items():
        network = sf.convert(policy, replay, **settings)
        report = sf.evaluate(env_id, network, compare_against=policy, **rules)
        assert report.similarity is not None
        differences = np.subtract(report.returns, original.returns)
        error = differences.std(ddof=1) / math.sqrt(episodes)
        print(
            f"{name:<22} {report.mean_return:>8.1f} {f'{differences.mean():+.2f} +- {error:.2f}':>18} "
            f"{100 * report.similarity:>10.3f} % {report.mean_steps:>7.1f} {report.spikes_per_decision:>8.1f}"
        )


def run(
    description: str | None,
    env_id: str,
    teacher: Teacher,
    sizes: Sequence[int],
    conversions: Conversions,
    arguments: Sequence[str] | None,
) -> None:
    """The command line of an example: clone the teacher, then compare."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of everything (default %(default)s)")
    parser.add_argument("--episodes", type=int, default=200, help="to play with each network (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="learn briefly and play few episodes")
    given = parser.parse_args(arguments)
    if given.quick:
        learning, replay_states, episodes = dict(rounds=1, states=5_000, steps=800), 4_000, 5
    else:
        learning, replay_states, episodes = dict(rounds=5, states=20_000, steps=3_000), 60_000, given.episodes
    policy = clone(env_id, teacher, sizes, seed=given.seed, **learning)
    compare(env_id, policy, conversions, replay_states=replay_states, episodes=episodes, seed=given.seed)
