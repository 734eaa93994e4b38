# SPDX-License-Identifier: Apache-2.0
"""Gymnasium environments with observation vectors and discrete actions: made, checked, and asked for their standard."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from snnfast.environments import Interface, check_spaces, find, make_vectorised
from snnfast.spec import check_count

Environment = gym.Env[Any, Any]

#: Environments whose best return is the length of the episode: 1 for every step survived.
_REWARD_PER_STEP = {"gymnasium.envs.classic_control.cartpole:CartPoleEnv"}


def make_environment(env_id: str, max_steps: int) -> Environment:
    """One environment whose episodes are cut after ``max_steps``, without the slow argument checks of every step.

    Raises:
        TypeError, ValueError: if ``env_id`` is no string or names no environment that can be made by itself.
        ImportError: if a package it needs is not installed.
    """
    spec = find(env_id)
    check_count("max_steps", max_steps)
    try:
        return gym.make(spec, max_episode_steps=max_steps, disable_env_checker=True)
    except gym.error.DependencyNotInstalled as error:
        raise ImportError(f"environment {env_id!r} needs a package that is not installed: {error}") from error
    except gym.error.Error as error:  # say, only a vectorised version is registered
        raise ValueError(f"environment {env_id!r} must have a version for one episode at a time: {error}") from error


def make_vector_environment(env_id: str, episodes: int, max_steps: int) -> gym.vector.VectorEnv[Any, Any, Any]:
    """``episodes`` environments stepped together. The caller counts only the first episode of each."""
    vector = make_vectorised(gym.spec(env_id), episodes, max_steps)
    if vector is not None:
        return vector
    return gym.make_vec(
        env_id, num_envs=episodes, vectorization_mode="sync", max_episode_steps=max_steps, disable_env_checker=True
    )


def interface(env_id: str, environment: Environment) -> Interface:
    """Check that an environment has observation vectors and discrete actions, and say of what sizes.

    Raises:
        ValueError: naming the environment, what is required and what it has.
    """
    return check_spaces(env_id, environment.observation_space, environment.action_space)


def reward_threshold(env_id: str, max_steps: int) -> float | None:
    """The return at which Gymnasium calls the environment solved with this episode limit; ``None`` if it says nothing.

    Versions differ in their limit: CartPole has 195 for 200 steps (v0) and 475 for 500 (v1). Either is meant by its
    limit, whatever version is run, since their dynamics are the same.
    """
    for spec in _versions(env_id):
        if spec.max_episode_steps == max_steps and spec.reward_threshold is not None:
            return float(spec.reward_threshold)
    return None


def longest_limit(env_id: str, at_least: int) -> int:
    """The longest episode limit among the environment's registered versions, but no less than ``at_least``."""
    return max([at_least, *(spec.max_episode_steps or 0 for spec in _versions(env_id))])


def best_return(env_id: str, max_steps: int) -> float | None:
    """The highest return an episode of ``max_steps`` can have, where we know it."""
    spec = gym.spec(env_id)
    usual = spec.entry_point in _REWARD_PER_STEP and not spec.kwargs and not spec.additional_wrappers
    return float(max_steps) if usual else None


def derived_seed(seed: int, episode: int, purpose: int) -> int:
    """A seed of its own for one purpose in one episode, so that any episode can be repeated without those before."""
    return int(np.random.SeedSequence([seed, episode, purpose]).generate_state(1)[0])


def _versions(env_id: str) -> list[gym.envs.registration.EnvSpec]:
    own = gym.spec(env_id)
    others = [s for s in gym.registry.values() if (s.namespace, s.name) == (own.namespace, own.name) and s != own]
    return [own, *others]
