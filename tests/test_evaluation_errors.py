# SPDX-License-Identifier: Apache-2.0
"""What evaluate refuses, in which words, and that it closes every environment whatever happens."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import evaluation_environments as environments
from snnfast import SpikingNetwork
from snnfast.evaluation import evaluate


@pytest.fixture(autouse=True)
def fresh() -> None:
    environments.Counted.made = environments.Counted.closed = environments.FuseVector.closed = 0


def stay(x: Any) -> Any:
    return np.ones((len(x), 3)) * [1, 0, 0]


@pytest.mark.parametrize(
    ("env_id", "words"),
    [
        ("CartPole-v9", "'CartPole-v9'.*CartPole-v[01]"),
        ("cartpol-v1", "'cartpol-v1'.*CartPole-v1"),
        ("Kartpole", "CartPole-v"),
        ("snntest/Fus-v0", "snntest/Fuse-v0"),
        ("xyzzy", "pprint_registry"),
        ("", "pprint_registry"),
        ("LunarLander-v2", "LunarLander-v3"),
        ("os:CartPole-v1", "must not import a module.*import 'os' first"),
    ],
)
def test_unknown_environment(env_id: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        evaluate(env_id, stay)


@pytest.mark.parametrize(
    ("env_id", "words"),
    [
        ("snntest/Torque-v0", r"'snntest/Torque-v0' must have discrete actions.*Box\(-1.0, 1.0, \(1,\)"),
        ("Pendulum-v1", "'Pendulum-v1' must have discrete actions"),
        ("snntest/Image-v0", r"'snntest/Image-v0' must have flat observations.*FlattenObservation"),
        ("snntest/Grid-v0", r"flat observations.*Discrete\(16\)"),
    ],
)
def test_unsuitable_environment(env_id: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        evaluate(env_id, stay, episodes=3, max_steps=10)
    assert environments.Counted.made == environments.Counted.closed


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raises", "in step 3 of episode 0: ZeroDivisionError: a bug of its own"),
        ("nan", r"observation \[nan, 1.0\] in step 3 of episode 0"),
        ("huge", r"observation \[inf, 1.0\] in step 3 of episode 0"),
        ("words", "failed in step 3 of episode 0: ValueError: could not convert string"),
        ("shape", r"observations of shape \(3,\) in step 3 of episode 0, expected \(2,\)"),
        ("reward", "reward inf in step 3 of episode 0"),
        ("four", "in step 3 of episode 0: ValueError: not enough values"),
        ("reset", "failed at reset of episode 0: OSError: will not start"),
        ("nan-at-reset", r"observation \[nan, nan\] at reset of episode 0"),
        ("made", "failed when it was made: OSError: no more of these"),
    ],
)
def test_hostile_environment(how: str, words: str) -> None:
    with pytest.raises(RuntimeError, match=f"environment 'snntest/Hostile-{how}-v0' .*{words}"):
        evaluate(f"snntest/Hostile-{how}-v0", stay, episodes=5)
    assert environments.Counted.made == environments.Counted.closed == (2 if how == "made" else 5)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raises", "failed in step 3: ZeroDivisionError"),
        ("nan", r"observation \[nan, nan\] in step 3"),
        ("reward", "reward nan in step 3"),
        ("shape", r"observations of shape \(30, 1\) in step 3, expected \(30, 2\)"),
    ],
)
def test_hostile_vectorised_environment(how: str, words: str) -> None:
    # With these seeds episode 0 is alive in step 3.
    with pytest.raises(RuntimeError, match=f"environment 'snntest/Vector-{how}-v0' .*{words}"):
        evaluate(f"snntest/Vector-{how}-v0", stay, episodes=30, seed=3)
    assert environments.FuseVector.closed == 1


def test_environments_are_closed_when_an_agent_fails_or_the_user_interrupts() -> None:
    for error in (KeyboardInterrupt, KeyError):

        def fails(x: Any, error: type[BaseException] = error) -> Any:
            raise error

        with pytest.raises(error):
            evaluate("snntest/Fuse-v0", fails, episodes=4)
    assert environments.Counted.made == environments.Counted.closed == 8


@pytest.mark.parametrize("name", ["agent", "compare_against"])
@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (lambda x: np.ones((len(x), 2)), ValueError, r"one number per action.*shape \(4, 3\), got \(4, 2\)"),
        (lambda x: torch.ones(len(x), 4), ValueError, r"shape \(4, 3\), got \(4, 4\)"),
        (lambda x: np.ones(len(x)), ValueError, r"got \(4,\)"),
        (lambda x: np.full((len(x), 3), np.nan), ValueError, r"finite numbers, got \[nan, nan, nan\] for \["),
        (lambda x: np.ones((len(x), 3), complex), TypeError, "real numbers, got complex128"),
        (lambda x: [[1, 2, 3]] * len(x), TypeError, "numpy array or a torch tensor, got list"),
        (nn.Linear(2, 5), ValueError, r"got \(4, 5\)"),
        (nn.Linear(7, 3), ValueError, "takes observations of 7 numbers, got 2 from 'snntest/Fuse-v0'"),
        (
            nn.Sequential(nn.Unflatten(1, (1, 2)), nn.Conv1d(2, 3, 1)),
            ValueError,
            r"could not be asked about observations of shape \(4, 2\) from 'snntest/Fuse-v0'",
        ),
        (  # the width is not what its first Linear layer stumbles over
            nn.Sequential(nn.Linear(2, 5), nn.Linear(4, 3)),
            ValueError,
            r"could not be asked about observations of shape \(4, 2\) from 'snntest/Fuse-v0'",
        ),
        (nn.LSTM(2, 3), TypeError, "got tuple"),
        (SpikingNetwork([np.ones((2, 2))], None, backend="reference"), ValueError, r"got \(4, 2\)"),
        (SpikingNetwork([np.ones((3, 5))], None, backend="reference"), ValueError, "takes observations of 5 .*got 2"),
        ("a string", TypeError, "must be a SpikingNetwork, a torch.nn.Module or a callable.*got str"),
    ],
)
def test_unsuitable_agent(name: str, answer: Any, kind: type[Exception], words: str) -> None:
    agents = {"agent": stay, "compare_against": stay, name: answer}
    with pytest.raises(kind, match=f"^{name} .*{words}"):
        evaluate("snntest/Fuse-v0", episodes=4, **agents)
    assert environments.Counted.made == environments.Counted.closed == 4


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"env_id": 3}, TypeError, "env_id must be the name"),
        ({"episodes": 0}, ValueError, "episodes must be at least 1, got 0"),
        ({"episodes": 2.0}, TypeError, "episodes must be an integer"),
        ({"max_steps": 0}, ValueError, "max_steps must be at least 1"),
        ({"max_steps": None, "env_id": "snntest/Endless-v0"}, ValueError, "max_steps must be given.*Endless"),
        ({"seed": -1}, ValueError, "seed must be from 0"),
        ({"seed": 2**64}, ValueError, "seed must be from 0"),
        ({"seed": None}, TypeError, "seed must be an integer"),
        ({"epsilon": 1.5}, ValueError, "epsilon must be from 0 to 1, got 1.5"),
        ({"epsilon": -0.1}, ValueError, "epsilon must be from 0 to 1"),
        ({"epsilon": float("nan")}, ValueError, "epsilon must be finite"),
        ({"epsilon": "0.1"}, TypeError, "epsilon must be a number"),
        ({"render": "ascii"}, ValueError, "render must be 'human' or None, got 'ascii'"),
        ({"render": "human", "num_envs": 2}, ValueError, "num_envs must be 1 when rendering"),
        ({"render": "human", "env_id": "snntest/Steps-v0"}, ValueError, "cannot be drawn in mode 'human'"),
        ({"gif": "x.gif", "env_id": "snntest/Steps-v0"}, ValueError, "cannot be drawn in mode 'rgb_array'"),
        ({"gif": "x.png"}, ValueError, "gif must be a file name that ends in .gif"),
        ({"gif": "no/such/folder/x.gif"}, FileNotFoundError, "no folder"),
        ({"preprocess": 3}, TypeError, "preprocess must be a function"),
        ({"history": 0}, ValueError, "history must be at least 1"),
        ({"frame_skip": 0}, ValueError, "frame_skip must be at least 1"),
        ({"max_noops": -1}, ValueError, "max_noops must be from 0 to 500"),
        ({"max_noops": 11, "max_steps": 10}, ValueError, "max_noops must be from 0 to 10"),
        ({"num_envs": 0}, ValueError, "num_envs must be at least 1"),
    ],
)
def test_unsuitable_arguments(options: dict[str, Any], kind: type[Exception], words: str) -> None:
    arguments: dict[str, Any] = {"env_id": "snntest/Fuse-v0", **options}
    with pytest.raises(kind, match=words):
        evaluate(arguments.pop("env_id"), stay, **arguments)
    assert environments.Counted.made == environments.Counted.closed


@pytest.mark.parametrize(
    ("preprocess", "kind", "words"),
    [
        (lambda x: x.tolist(), TypeError, "preprocess must give a numpy array, got list"),
        (
            lambda x: x[:1],
            ValueError,
            r"preprocess must give real numbers of shape \(4, m\), got float32 of shape \(1, 2",
        ),
        (lambda x: x[:, 0], ValueError, r"of shape \(4,\)"),
        (lambda x: x.astype(str), ValueError, r"got <U"),
        (lambda x: x * np.nan, ValueError, "preprocess must give finite numbers"),
        (lambda x: x.astype(float) * 1e300, ValueError, "preprocess must give finite numbers"),
    ],
)
def test_unsuitable_preprocessing(preprocess: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        evaluate("snntest/Fuse-v0", stay, episodes=4, preprocess=preprocess)
    assert environments.Counted.made == environments.Counted.closed == 4


def test_preprocessing_must_keep_its_width() -> None:
    widths = iter([2, 1])
    with pytest.raises(ValueError, match="same number of columns every time, got 1 after 2"):
        evaluate("snntest/Steps-v0", stay, episodes=2, history=2, preprocess=lambda x: x[:, : next(widths)])


def test_a_gif_without_pillow_is_refused_before_any_computing(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.split(".")[0] == "PIL":
            raise ImportError("gone")
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "snnfast\[plot\]"'):
        evaluate("snntest/Fuse-v0", lambda x: pytest.fail("asked"), gif=tmp_path / "x.gif")


def test_an_environment_that_cannot_be_drawn_after_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(environments.Fuse, "render", lambda self: 1 / 0)
    with pytest.raises(RuntimeError, match="'snntest/Fuse-v0' failed when it was drawn: ZeroDivisionError"):
        evaluate("snntest/Fuse-v0", stay, episodes=2, gif=tmp_path / "x.gif")
    assert list(tmp_path.iterdir()) == []
    assert environments.Counted.made == environments.Counted.closed
