# SPDX-License-Identifier: Apache-2.0
"""Small environments with known episodes, for the tests of evaluation. Importing this module registers them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode


class Counted(gym.Env[Any, Any]):
    """Base: counts how many instances were made and closed."""

    made: ClassVar[int] = 0
    closed: ClassVar[int] = 0
    observation_space: Any = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space: Any = spaces.Discrete(3)

    def __init__(self, render_mode: str | None = None) -> None:
        Counted.made += 1
        self.render_mode = render_mode

    def close(self) -> None:
        Counted.closed += 1


class Fuse(Counted):
    """Burns for 1 to 20 steps, drawn at reset; one point per step. Action 2 ends the episode at once.

    Observation: [length of the fuse, steps so far].
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["human", "rgb_array"], "render_fps": 10}
    rendered: ClassVar[list[str]] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.fuse, self.t = int(self.np_random.integers(1, 21)), 0
        if self.render_mode == "human":
            Fuse.rendered.append("reset")
        return self._observation(), {}

    def _observation(self) -> Any:
        return np.array([self.fuse, self.t], dtype=np.float32)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.t += 1
        if self.render_mode == "human":
            Fuse.rendered.append("step")
        return self._observation(), 1.0, bool(self.t >= self.fuse or action == 2), False, {}

    def render(self) -> Any:
        frame = np.zeros((12, 20, 3), np.uint8)
        frame[:, : self.t] = 255
        return frame


def fuse_of(seed: int) -> int:
    env = Fuse()
    return int(env.reset(seed=seed)[0][0])


class Trace(Counted):
    """A walk that depends on seed and actions; keeps every action that it was given.

    Observation: [x, y] with x += action, y random; reward x + 10 y; ends above x = 25.
    """

    action_space = spaces.Discrete(3, start=5)
    actions: ClassVar[dict[int, list[int]]] = {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        assert seed is not None
        self.log = Trace.actions[seed] = []
        self.x, self.y = 0.0, float(self.np_random.normal())
        return np.array([self.x, self.y]), {}  # float64 on purpose

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.log.append(int(action))
        self.x += int(action) - 5
        self.y = float(self.np_random.normal())
        return np.array([self.x, self.y]), self.x + 10 * self.y, self.x > 25, False, {}


class Steps(Counted):
    """Ends after 20 steps; observation: [steps so far, 1]."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.t = 0
        return np.array([0, 1], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return np.array([self.t, 1], np.float32), 0.1, self.t >= 20, False, {}


class Hostile(Steps):
    """Misbehaves in step 3 in the way that it was made for."""

    def __init__(self, how: str, render_mode: str | None = None) -> None:
        self.how = how
        if how == "made" and Counted.made >= 2:
            raise OSError("no more of these")
        super().__init__(render_mode)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        observation, info = super().reset(seed=seed)
        if self.how == "reset":
            raise OSError("will not start")
        return (observation * np.nan if self.how == "nan at reset" else observation), info

    def close(self) -> None:
        super().close()
        if self.how == "close":
            raise OSError("cannot let go")

    def step(self, action: Any) -> tuple[Any, Any, Any, bool, dict[str, Any]]:
        observation, reward, done, truncated, info = super().step(action)
        if self.how == "rich":
            reward = 1e308
        if self.t == 3:
            if self.how == "raises":
                raise ZeroDivisionError("a bug of its own")
            if self.how == "nan":
                observation = np.array([np.nan, 1])
            if self.how == "huge":
                observation = np.array([1e300, 1])
            if self.how == "words":
                observation = np.array(["a", "b"])
            if self.how == "shape":
                observation = np.zeros(3)
            if self.how == "reward":
                reward = float("inf")
            if self.how == "four":
                return observation, reward, done, info  # type: ignore[return-value]
        return observation, reward, done, truncated, info


class FuseVector(gym.vector.VectorEnv[Any, Any, Any]):
    """Fuses side by side from one generator. After its first episode an environment pays a thousand a step."""

    closed: ClassVar[int] = 0

    def __init__(self, num_envs: int, mode: AutoresetMode, bad: str = "", **_: Any) -> None:
        self.num_envs, self.bad = num_envs, bad
        self.metadata = {"autoreset_mode": mode}
        self.single_observation_space = Counted.observation_space
        self.single_action_space = Counted.action_space
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.fuse = self.np_random.integers(1, 21, size=self.num_envs)
        self.t, self.over = np.zeros(self.num_envs, int), np.zeros(self.num_envs, bool)
        self.episode = np.zeros(self.num_envs, int)
        self.calls = 0
        return self._observations(), {}

    def _observations(self) -> Any:
        return np.stack([self.fuse, self.t], axis=1).astype(np.float32)

    def step(self, actions: Any) -> Any:
        assert self.action_space.contains(actions)
        self.calls += 1
        if self.bad == "raises" and self.calls == 3:
            raise ZeroDivisionError("a bug of its own")
        same = self.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
        rewards = np.where(self.episode == 0, 1.0, 1000.0).astype(np.float32)
        rewards[self.over] = 0
        self.t = np.where(self.over, 0, self.t + 1)
        done = ~self.over & (self.t >= self.fuse)
        self.episode += done
        if same:
            self.t[done] = 0
        else:
            self.over = done
        observations = self._observations()
        if self.bad == "late nan":  # only where the first episode is over
            observations[self.episode > 0] = np.nan
        if self.bad == "nan" and self.calls == 3:
            observations[0] = np.nan
        if self.bad == "reward" and self.calls == 3:
            rewards[0] = np.nan
        if self.bad == "shape" and self.calls == 3:
            observations = observations[:, :1]
        return observations, rewards, done, np.zeros(self.num_envs, bool), {}

    def close_extras(self, **_: Any) -> None:
        FuseVector.closed += 1


class Blind(Steps):
    """Knows nothing of drawing, not even the word."""

    def __init__(self) -> None:
        super().__init__()


class Painter(Steps):
    """Draws what the test wants, by the number of the step."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 25}
    picture: ClassVar[Callable[[int], Any]]

    def render(self) -> Any:
        return Painter.picture(self.t)


class Image(Counted):
    observation_space = spaces.Box(0, 255, (8, 8, 3), np.uint8)


class Grid(Counted):
    observation_space = spaces.Discrete(16)


class Torque(Counted):
    action_space = spaces.Box(-1, 1, (1,), np.float32)


HOSTILE = (
    "raises",
    "nan",
    "huge",
    "words",
    "shape",
    "reward",
    "four",
    "reset",
    "nan at reset",
    "made",
    "close",
    "rich",
)

for _name, _class in (
    ("Fuse", Fuse),
    ("Trace", Trace),
    ("Steps", Steps),
    ("Image", Image),
    ("Grid", Grid),
    ("Blind", Blind),
    ("Painter", Painter),
):
    gym.register(f"snntest/{_name}-v0", _class, max_episode_steps=50)
gym.register("snntest/Torque-v0", Torque)
gym.register("snntest/Short-v0", Steps, max_episode_steps=7)
gym.register("snntest/Endless-v0", Steps)
for _how in HOSTILE:
    gym.register(f"snntest/Hostile-{_how.replace(' ', '-')}-v0", Hostile, max_episode_steps=50, kwargs={"how": _how})
for _mode in AutoresetMode:
    _vector: Any = functools.partial(FuseVector, mode=_mode)
    gym.register(f"snntest/Vector-{_mode.name}-v0", Fuse, vector_entry_point=_vector, max_episode_steps=50)
_vector = functools.partial(FuseVector, mode=AutoresetMode.DISABLED)
gym.register("snntest/Vector-only-v0", vector_entry_point=_vector, max_episode_steps=50)
for _bad in ("raises", "nan", "reward", "shape", "late nan"):
    _vector = functools.partial(FuseVector, mode=AutoresetMode.NEXT_STEP, bad=_bad)
    gym.register(f"snntest/Vector-{_bad.replace(' ', '-')}-v0", Fuse, vector_entry_point=_vector)
