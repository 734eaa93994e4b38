# SPDX-License-Identifier: Apache-2.0
"""Models of recorded transitions: found where there is one, refused where there is none."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from snnfast.conversion.closed_loop import learn_dynamics, play

Array = npt.NDArray[np.float64]


def step(x: Array, action: npt.NDArray[np.int64], noise: float = 0.0) -> Array:
    """A pendulum with a product in it, pushed either way."""
    rng = np.random.default_rng(len(x) + int(1e6 * float(np.abs(x).sum())) % 1000)
    force = np.where(action == 1, 0.5, -0.5)
    change = np.stack([0.1 * x[:, 1], 0.1 * (force - x[:, 0]) - 0.02 * x[:, 1] * x[:, 0]], axis=1)
    return np.asarray(x + change * (1 + noise * rng.normal(size=change.shape)))


def recorded(
    noise: float = 0.0, lengths: tuple[int, ...] = (80,) * 10
) -> tuple[npt.NDArray[np.float32], Array, list[int]]:
    rng = np.random.default_rng(1)
    states, actions = [], []
    for length in lengths:
        x = rng.normal(size=(1, 2))
        for _ in range(length):
            action = rng.integers(0, 2, size=1)
            states.append(x[0])
            actions.append(action[0])
            x = step(x, action, noise)
    return np.array(states, dtype=np.float32), np.array(actions, dtype=np.int64), list(lengths)


def test_a_model_foretells_many_steps() -> None:
    dynamics = learn_dynamics(*recorded(), 2)  # type: ignore[arg-type]
    assert dynamics is not None
    x = y = np.array([[0.5, -0.3], [-0.8, 0.2]])
    for t in range(50):
        actions = np.array([t % 3 == 0, t % 2 == 0], dtype=np.int64)
        x, y = step(x, actions), dynamics.next(y, actions)
    assert np.abs(x).max() > 0.1
    assert np.allclose(x, y, atol=2e-3)


def test_there_is_no_model_of_noise() -> None:
    assert learn_dynamics(*recorded(noise=0.3), 2) is None  # type: ignore[arg-type]


def test_too_little_for_a_model() -> None:
    states, actions, lengths = recorded()
    assert learn_dynamics(states, actions, [len(states)], 2) is None, "one episode: nothing to test on"  # type: ignore[arg-type]
    assert learn_dynamics(states, actions, lengths, 3) is None, "an action that was never taken"  # type: ignore[arg-type]
    assert learn_dynamics(*recorded(lengths=(6, 6)), 2) is None  # type: ignore[arg-type]


def test_ends_of_episodes_are_no_transitions() -> None:
    # Episodes begin at random: were their ends taken for transitions, no model would hold.
    assert learn_dynamics(*recorded(lengths=(5,) * 200), 2) is not None  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [30, 2000])
def test_playing(length: int) -> None:
    states, actions, lengths = recorded()
    dynamics = learn_dynamics(states, actions, lengths, 2)  # type: ignore[arg-type]
    assert dynamics is not None
    seen = []

    def left(x: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        return (x[:, 0] < 0).astype(np.int64)

    def acting(x: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        seen.append(x)
        return left(x)

    def other(x: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        return (x[:, 0] < 0.1).astype(np.int64)

    first = states[[0, 80, 160]]
    alike = play(dynamics, first, length, acting, other, 1)
    assert alike.shape == (120, min(length, 500))
    assert np.array_equal(alike.T > 0, np.array([left(x) == other(x) for x in seen]))
    assert np.abs(seen[0][::40] - first).max() < 0.1
    # It is the first agent that acts.
    assert np.allclose(seen[1], step(seen[0].astype(np.float64), left(seen[0])), atol=1e-3)
