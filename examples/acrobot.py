# SPDX-License-Identifier: Apache-2.0
"""Acrobot-v1: a policy that swings up by pumping energy, and the spiking networks made of it.

Run ``python examples/acrobot.py``; it takes about two minutes. The teacher pushes the lower link the way it is turning,
and against the way the upper one is, which adds energy with every swing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cloning import Conversions, run

CONVERSIONS: Conversions = {
    "thesis": dict(preset="thesis"),
    "rate, 4 copies, signed": dict(preset="rate-copies", signed=True, percentile=100.0),
    "radix": dict(preset="radix"),
    "digits": dict(preset="digits"),
    "digits, certified exit": dict(preset="digits-certified"),
}


def teacher(observations: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Actions (B,) for observations (B, 6), whose last two are the angular velocities of the links."""
    upper, lower = observations[:, 4], observations[:, 5]
    return np.where(lower > 0.5 * upper, 2, 0)


def main(arguments: Sequence[str] | None = None) -> None:
    run(__doc__, "Acrobot-v1", teacher, [6, 64, 64, 3], CONVERSIONS, arguments)


if __name__ == "__main__":
    main()
