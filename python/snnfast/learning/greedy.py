# SPDX-License-Identifier: Apache-2.0
"""Whole episodes of a policy that always takes the action with the largest output."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from snnfast.environments import Interface, failed
from snnfast.learning.acting import Outputs
from snnfast.learning.environments import make_vector_environment


def greedy_returns(
    env_id: str, interface: Interface, outputs: Outputs, *, episodes: int, max_steps: int, seed: int
) -> npt.NDArray[np.float64]:
    """Undiscounted returns of ``episodes`` greedy episodes of at most ``max_steps``, run side by side.

    Only the first episode of each environment counts. Counting whichever episodes end first, or all that end within a
    window, would favour the short ones.

    Raises:
        RuntimeError: if the environment fails, naming it and the step.
        FloatingPointError: if a reward or an observation is not finite.
    """
    environments = make_vector_environment(env_id, episodes, max_steps)
    try:
        returns = np.zeros(episodes, dtype=np.float64)
        alive = np.ones(episodes, dtype=bool)
        where = "in the first step of a greedy check"
        try:
            observations, _ = environments.reset(seed=seed)
        except Exception as error:
            raise failed(env_id, "at the beginning of a greedy check", error) from error
        for t in range(max_steps):
            given = np.asarray(observations, dtype=np.float32)
            if not np.isfinite(given[alive]).all():
                raise FloatingPointError(f"{env_id!r} gave an observation that is not finite {where}")
            actions = outputs(given).argmax(axis=1)
            where = f"in step {t + 1} of a greedy check"
            try:
                observations, rewards, terminated, truncated, _ = environments.step(actions + interface.first_action)
            except Exception as error:
                raise failed(env_id, where, error) from error
            if not np.isfinite(rewards[alive]).all():
                raise FloatingPointError(f"{env_id!r} gave a reward that is not finite {where}")
            returns[alive] += rewards[alive]
            alive &= ~(terminated | truncated)
            if not alive.any():
                break
        return returns
    finally:
        environments.close()
