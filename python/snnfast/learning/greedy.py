# SPDX-License-Identifier: Apache-2.0
"""Whole episodes of a policy that always takes the action with the largest output."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from snnfast.environments import Interface
from snnfast.learning.acting import Outputs
from snnfast.learning.environments import make_vector_environment


def greedy_returns(
    env_id: str, interface: Interface, outputs: Outputs, *, episodes: int, max_steps: int, seed: int
) -> npt.NDArray[np.float64]:
    """Undiscounted returns of ``episodes`` greedy episodes of at most ``max_steps``, run side by side.

    Only the first episode of each environment counts. Counting whichever episodes end first, or all that end within a
    window, would favour the short ones.
    """
    environments = make_vector_environment(env_id, episodes, max_steps)
    try:
        returns = np.zeros(episodes, dtype=np.float64)
        alive = np.ones(episodes, dtype=bool)
        observations, _ = environments.reset(seed=seed)
        for _ in range(max_steps):
            actions = outputs(np.asarray(observations, dtype=np.float32)).argmax(axis=1)
            observations, rewards, terminated, truncated, _ = environments.step(actions + interface.first_action)
            returns[alive] += rewards[alive]
            alive &= ~(terminated | truncated)
            if not alive.any():
                break
        return returns
    finally:
        environments.close()
