# SPDX-License-Identifier: Apache-2.0
"""LunarLander-v3: Gymnasium's own heuristic as a ReLU policy, and the spiking networks made of it.

Run ``python examples/lunarlander.py``; it takes a few minutes and needs Box2D (``pip install box2d``). A lander meets
states beyond those of any replay, so every neuron's range is twice as wide as on the replay (``headroom``).
"""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.envs.box2d.lunar_lander import heuristic

from cloning import Conversions, run

CONVERSIONS: Conversions = {
    "thesis": dict(preset="thesis"),
    "rate, 4 copies, signed": dict(preset="rate-copies", signed=True, percentile=100.0),
    "radix": dict(preset="radix", timesteps=14, headroom=2.0),
    "digits": dict(preset="digits", headroom=2.0),
    "digits, certified exit": dict(preset="digits-certified", headroom=2.0),
}


def main(arguments: Sequence[str] | None = None) -> None:
    with gym.make("LunarLander-v3") as lander:  # the heuristic asks it whether its actions are discrete

        def teacher(observations: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
            return np.array([heuristic(lander, state) for state in observations])

        run(__doc__, "LunarLander-v3", teacher, [8, 64, 64, 4], CONVERSIONS, arguments)


if __name__ == "__main__":
    main()
