# SPDX-License-Identifier: Apache-2.0
"""Which Gymnasium environments we can train and play in: found by name, and checked, in one way for everybody."""

from __future__ import annotations

import contextlib
import difflib
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode

from snnfast.spec import FloatArray, check_count


class Interface(NamedTuple):
    """What an agent for an environment takes and gives.

    Attributes:
        n_in: numbers in an observation.
        n_actions: number of actions, hence of an agent's outputs.
        first_action: the environment's number of action 0 (0 but for a ``Discrete`` space with a start).
    """

    n_in: int
    n_actions: int
    first_action: int


def find(env_id: object) -> EnvSpec:
    """Gymnasium's registration of an environment.

    Raises:
        TypeError: if ``env_id`` is no string.
        ValueError: if there is no such environment, naming the nearest ones; or if the name would import a module:
            names come from files, too, and opening a file must run nothing.
    """
    if not isinstance(env_id, str):
        raise TypeError(f"env_id must be the name of a Gymnasium environment, got {env_id!r} ({type(env_id).__name__})")
    if ":" in env_id:
        module, _, name = env_id.partition(":")
        raise ValueError(
            f"env_id must not import a module, got {env_id!r}: import {module!r} first, then pass {name!r} "
            f"(on the command line: --import {module})"
        )
    try:
        return gym.spec(env_id)
    except gym.error.Error as error:
        known = {name.lower(): name for name in sorted(gym.registry)}
        near = [known[name] for name in difflib.get_close_matches(env_id.lower(), list(known), n=3, cutoff=0.5)]
        hint = f"did you mean {' or '.join(near)}?" if near else "gymnasium.pprint_registry() lists all of them"
        raise ValueError(f"env_id must be a registered Gymnasium environment, got {env_id!r}; {hint}") from error


def step_limit(spec: EnvSpec, max_steps: int | None) -> int:
    """The limit of an episode in steps: the one asked for, else, for ``None``, the environment's own.

    Raises:
        TypeError, ValueError: if ``max_steps`` is no number of steps, or ``None`` and the environment has no limit.
    """
    if max_steps is not None:
        return check_count("max_steps", max_steps)
    if spec.max_episode_steps is None:
        raise ValueError(f"max_steps must be given: environment {spec.id!r} is registered without a limit of its own")
    return spec.max_episode_steps


def check_spaces(env_id: str, observations: gym.Space[Any], actions: gym.Space[Any]) -> Interface:
    """What an agent for these spaces takes and gives.

    Raises:
        ValueError: unless the observations are a flat ``Box`` and the actions ``Discrete``.
    """
    if not isinstance(observations, gym.spaces.Box) or len(observations.shape) != 1:
        raise ValueError(
            f"environment {env_id!r} must have flat observations (a Box of shape (n,)), it has {observations}: "
            "register a version wrapped in gymnasium.wrappers.FlattenObservation"
        )
    if not isinstance(actions, gym.spaces.Discrete):
        raise ValueError(f"environment {env_id!r} must have discrete actions (Discrete), it has {actions}")
    return Interface(observations.shape[0], int(actions.n), int(actions.start))


def failed(env_id: str, where: str, error: BaseException) -> RuntimeError:
    """The error that says in which environment and step another one happened."""
    return RuntimeError(f"environment {env_id!r} failed {where}: {type(error).__name__}: {error}")


def observed(value: object, shape: tuple[int, ...], env_id: str, where: str) -> FloatArray:
    """Observations as float32, a copy: the environment may go on writing into its own.

    Raises:
        RuntimeError: if they are of another shape than the space promises.
    """
    try:
        with np.errstate(over="ignore"):  # beyond float32: infinite then
            array = np.array(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise failed(env_id, where, error) from error
    if array.shape != shape:
        raise RuntimeError(f"environment {env_id!r} gave observations of shape {array.shape} {where}, expected {shape}")
    return array


def make_vectorised(spec: EnvSpec, size: int, max_steps: int) -> gym.vector.VectorEnv[Any, Any, Any] | None:
    """The environment's own vectorised version, or ``None`` if there is none that can stand in for single ones.

    It must be free of additional wrappers, and restart finished episodes by itself: those who use it count only the
    first episode of each environment, and let all of them run until the last one has ended.
    """
    if spec.vector_entry_point is None or spec.additional_wrappers:
        return None
    # Gymnasium hands over a limit only if one is registered; elsewhere the caller's own is enough.
    limit: dict[str, Any] = {} if spec.max_episode_steps is None else {"max_episode_steps": max_steps}
    with contextlib.ExitStack() as stack:
        env = gym.make_vec(spec, num_envs=size, vectorization_mode="vector_entry_point", **limit)
        stack.callback(env.close)
        restarts = env.metadata.get("autoreset_mode") in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP)
        if not restarts and spec.entry_point is not None:
            return None
        stack.pop_all()
    return env
