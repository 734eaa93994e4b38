# SPDX-License-Identifier: Apache-2.0
"""Gymnasium environments side by side, one episode each.

An environment that brings its own vectorised version (CartPole does, 17 times faster) runs as that. Any other one is
stepped one instance after the other, which costs less than Gymnasium's ``SyncVectorEnv``: finished episodes are not
played on, every episode has its own seed, and a failure can name the episode.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode

from snnfast.environments import check_spaces, failed, make_vectorised, observed
from snnfast.spec import FloatArray

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

#: Episodes side by side unless the caller says otherwise. More would save nothing but the agent's overhead per call.
MOST_VECTORISED = 1024
MOST_INSTANCES = 256
#: A return above this has no standard deviation in float64: its square overflows.
LARGEST_RETURN = 1e150


def episode_seeds(seed: int, episodes: int) -> tuple[int, ...]:
    """The seeds that the episodes of an evaluation are reset with.

    They are hashed rather than counted up from ``seed``, so that evaluations with seeds 1 and 2 share no episode. The
    first seeds do not depend on how many follow.
    """
    return tuple(int(s) for s in np.random.SeedSequence(seed).generate_state(episodes))


class Environments(Protocol):
    """Episodes side by side in equal environments. Finished episodes may be given any action; their rows mean nothing.

    Attributes:
        env_id: name of the environment.
        size: how many episodes run side by side.
        n_observation: numbers in an observation.
        n_actions: how many actions there are.
        first_action: the number of the first one (0 but for a ``Discrete`` space with a start).
    """

    env_id: str
    size: int
    n_observation: int
    n_actions: int
    first_action: int

    def reset(self, seeds: tuple[int, ...], first: int) -> FloatArray:
        """Start the episodes ``first``, ``first + 1``, ..., one per seed, at most ``size`` of them.

        Returns:
            observations, (size, n_observation).
        """

    def step(self, actions: Ints, alive: Bools, number: int) -> tuple[FloatArray, Doubles, Bools]:
        """One step, the ``number``-th since the reset: observations, rewards, and whether the episode ended."""


def check_render_mode(spec: EnvSpec, mode: str) -> None:
    """Raise a ``ValueError`` unless the environment can be drawn in this mode, as its first picture shows."""
    with contextlib.ExitStack() as stack:
        env = make_instance(stack, spec)
        modes = env.metadata.get("render_modes") or []
    if mode not in modes:
        raise ValueError(f"environment {spec.id!r} cannot be drawn in mode {mode!r}, only in {modes}")
    if mode == "human":
        return  # making one more would open a window
    with contextlib.ExitStack() as stack:
        env = make_instance(stack, spec, render_mode=mode)
        try:
            env.reset(seed=0)
        except Exception as error:
            raise failed(spec.id, "at reset", error) from error
        drawn(env, spec.id, "at reset")


def drawn(env: gym.Env[Any, Any], env_id: str, where: str) -> npt.NDArray[np.uint8]:
    """What an environment shows, (height, width, 3).

    Raises:
        RuntimeError: if it raises, or shows anything else.
    """
    try:
        frame = np.asarray(env.render())
    except Exception as error:
        raise failed(env_id, f"{where} when it was drawn", error) from error
    good = frame.dtype.kind in "iuf" and frame.ndim == 3 and frame.shape[2] == 3 and frame.size > 0
    if not good or not (frame.min() >= 0 and frame.max() <= 255):
        got = f"{frame.dtype} of shape {frame.shape}" if frame.ndim else repr(frame.item())
        raise RuntimeError(
            f"environment {env_id!r} must be drawn as numbers from 0 to 255 of shape (height, width, 3), "
            f"got {got} {where}"
        )
    return frame.astype(np.uint8)


def make_instance(stack: contextlib.ExitStack, spec: EnvSpec, **options: Any) -> gym.Env[Any, Any]:
    """One environment, which ``stack`` closes."""
    try:
        # What the evaluator relies on it checks itself, in every step and with errors instead of warnings.
        env: gym.Env[Any, Any] = gym.make(spec, disable_env_checker=True, **options)
    except Exception as error:
        raise failed(spec.id, "when it was made", error) from error
    stack.callback(_close, spec.id, env.close)
    return env


def _close(env_id: str, close: Callable[[], None]) -> None:
    """Close an environment; everything has been played then, which a failure must not throw away."""
    try:
        close()
    except Exception as error:
        warnings.warn(str(failed(env_id, "when it was closed", error)), RuntimeWarning, stacklevel=2)


def add_rewards(returns: Doubles, rewards: Doubles, alive: Bools, env_id: str, where: str) -> None:
    """Add what a step paid to the returns of the episodes that still run.

    Raises:
        RuntimeError: if a return is beyond :data:`LARGEST_RETURN`.
    """
    with np.errstate(over="ignore"):  # beyond float64: refused below
        np.add(returns, rewards, out=returns, where=alive)
    largest = np.abs(returns).max(initial=0.0)
    if largest > LARGEST_RETURN:
        raise RuntimeError(
            f"environment {env_id!r} must give rewards that add up to at most {LARGEST_RETURN:g} in size, so that they "
            f"have a standard deviation; they add up to {largest:g} {where}"
        )


def finite(value: object, shape: tuple[int, ...], env_id: str, where: str, rows: Bools | None = None) -> FloatArray:
    """Observations as float32, refused unless they have the shape that the space promises and are finite.

    Args:
        rows: which rows have to be finite; all of them by default.
    """
    array = observed(value, shape, env_id, where)
    if not np.isfinite(array).all():
        bad = array.reshape(-1, shape[-1])
        bad = bad[~np.isfinite(bad).all(axis=1) & (True if rows is None else rows)]
        if len(bad):
            raise RuntimeError(f"environment {env_id!r} gave the observation {bad[0].tolist()} {where}")
    return array


def open_environments(
    stack: contextlib.ExitStack,
    spec: EnvSpec,
    size: int | None,
    episodes: int,
    max_steps: int,
    render_mode: str | None = None,
) -> Environments:
    """Make environments for up to ``size`` episodes side by side; ``stack`` closes them.

    Rendering takes separate instances: vectorised environments draw all of their episodes or cannot draw at all.
    """
    if render_mode is None:
        number = min(size or MOST_VECTORISED, episodes)
        try:
            vector = make_vectorised(spec, number, max_steps)
        except Exception as error:
            raise failed(spec.id, "when it was made", error) from error
        if vector is not None:
            stack.callback(_close, spec.id, vector.close)
            if vector.metadata.get("autoreset_mode") == AutoresetMode.DISABLED:
                raise ValueError(
                    f"environment {spec.id!r} must restart finished episodes by itself (autoreset_mode NEXT_STEP or "
                    "SAME_STEP) or be registered with a version for one episode (entry_point); it has only a "
                    "vectorised one, with autoreset_mode DISABLED"
                )
            return Vectorised(vector, spec.id, number)
    return Instances(stack, spec, min(size or MOST_INSTANCES, episodes), max_steps, render_mode)


class Vectorised:
    """An environment's own vectorised version. It restarts finished episodes by itself; those rows are ignored."""

    def __init__(self, env: gym.vector.VectorEnv[Any, Any, Any], env_id: str, size: int) -> None:
        self._env = env
        self.env_id, self.size = env_id, size
        self.n_observation, self.n_actions, self.first_action = check_spaces(
            env_id, env.single_observation_space, env.single_action_space
        )

    def reset(self, seeds: tuple[int, ...], first: int) -> FloatArray:
        try:
            # One seed for all: versions with a single random generator (CartPole) accept no list.
            observations, _ = self._env.reset(seed=seeds[0])
        except Exception as error:
            raise failed(self.env_id, "at reset", error) from error
        used = np.arange(self.size) < len(seeds)
        return finite(observations, (self.size, self.n_observation), self.env_id, "at reset", used)

    def step(self, actions: Ints, alive: Bools, number: int) -> tuple[FloatArray, Doubles, Bools]:
        where = f"in step {number}"
        try:
            observations, rewards, terminated, truncated, _ = self._env.step(actions)
            rewards = np.asarray(rewards, dtype=np.float64)
            done = np.asarray(terminated, dtype=np.bool_) | np.asarray(truncated, dtype=np.bool_)
            for name, values in (("rewards", rewards), ("terminated and truncated", done)):
                if values.shape != (self.size,):
                    raise ValueError(f"{name} must have shape ({self.size},), got {values.shape}")
        except Exception as error:
            raise failed(self.env_id, where, error) from error
        if not np.isfinite(rewards).all() and not np.isfinite(rewards[alive]).all():
            bad = rewards[alive & ~np.isfinite(rewards)][0]
            raise RuntimeError(f"environment {self.env_id!r} gave the reward {bad} {where}")
        # Nobody is asked about the state that an episode ends in.
        used = alive & ~done
        return finite(observations, (self.size, self.n_observation), self.env_id, where, used), rewards, done


class Instances:
    """Separate instances of an environment, stepped one after the other."""

    def __init__(
        self, stack: contextlib.ExitStack, spec: EnvSpec, size: int, max_steps: int, render_mode: str | None
    ) -> None:
        self.env_id, self.size = spec.id, size
        self.envs: list[gym.Env[Any, Any]] = []
        self._first = 0
        # An environment that cannot be drawn need not know the word.
        word = {} if render_mode is None else {"render_mode": render_mode}
        for _ in range(size):
            env = make_instance(stack, spec, max_episode_steps=max_steps, **word)
            self.envs.append(env)
            if len(self.envs) == 1:
                self.n_observation, self.n_actions, self.first_action = check_spaces(
                    spec.id, env.observation_space, env.action_space
                )

    def reset(self, seeds: tuple[int, ...], first: int) -> FloatArray:
        self._first = first
        observations = np.zeros((self.size, self.n_observation), dtype=np.float32)
        for i, seed in enumerate(seeds):
            where = f"at reset of episode {first + i}"
            try:
                observation, _ = self.envs[i].reset(seed=seed)
            except Exception as error:
                raise failed(self.env_id, where, error) from error
            observations[i] = finite(observation, (self.n_observation,), self.env_id, where)
        return observations

    def step(self, actions: Ints, alive: Bools, number: int) -> tuple[FloatArray, Doubles, Bools]:
        observations = np.zeros((self.size, self.n_observation), dtype=np.float32)
        rewards = np.zeros(self.size)
        done = np.zeros(self.size, dtype=np.bool_)
        for i in np.flatnonzero(alive).tolist():
            where = f"in step {number} of episode {self._first + i}"
            try:
                observation, reward, terminated, truncated, _ = self.envs[i].step(int(actions[i]))
                rewards[i] = float(reward)
                done[i] = bool(terminated) or bool(truncated)
            except Exception as error:
                raise failed(self.env_id, where, error) from error
            if not math.isfinite(rewards[i]):
                raise RuntimeError(f"environment {self.env_id!r} gave the reward {rewards[i]} {where}")
            if not done[i]:  # nobody is asked about the state that an episode ends in
                observations[i] = finite(observation, (self.n_observation,), self.env_id, where)
        return observations, rewards, done
