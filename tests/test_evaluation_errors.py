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
    with pytest.raises(RuntimeError, match="'snntest/Fuse-v0' failed at reset when it was drawn: ZeroDivisionError"):
        evaluate("snntest/Fuse-v0", stay, episodes=2, gif=tmp_path / "x.gif")
    assert list(tmp_path.iterdir()) == []
    assert environments.Counted.made == environments.Counted.closed


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (lambda t: None, "must be drawn as numbers from 0 to 255 of shape .*, got None at reset"),
        (lambda t: np.zeros((4, 4), np.uint8), r"got uint8 of shape \(4, 4\) at reset"),
        (lambda t: np.zeros((4, 4, 3)) - (t > 2), r"numbers from 0 to 255 .* in step 3"),
        (lambda t: None if t == 3 else np.zeros((4, 4, 3), np.uint8), "got None in step 3"),
        (lambda t: np.zeros((4, 4, 3 // (t != 3)), np.uint8), "failed in step 3 when it was drawn: ZeroDivisionError"),
        (lambda t: np.zeros((4 + t // 3, 4, 3), np.uint8), "failed in step 3 when it was drawn: .*of one size"),
    ],
)
def test_what_is_no_picture(picture: Any, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(environments.Painter, "picture", picture, raising=False)
    with pytest.raises(RuntimeError, match=f"environment 'snntest/Painter-v0' .*{words}"):
        evaluate("snntest/Painter-v0", stay, episodes=2, gif=tmp_path / "x.gif")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("env_id", "words"),
    [("snntest/Painter-v0", "got None at reset"), ("snntest/Blind-v0", "cannot be drawn in mode 'rgb_array'")],
)
def test_what_cannot_be_drawn_is_refused_before_playing(
    env_id: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(environments.Painter, "picture", lambda t: None, raising=False)
    with pytest.raises((RuntimeError, ValueError), match=words):
        evaluate(env_id, lambda x: pytest.fail("asked"), gif=tmp_path / "x.gif")


def test_a_folder_in_the_place_of_a_gif_is_refused_before_playing(tmp_path: Any) -> None:
    (tmp_path / "x.gif").mkdir()
    with pytest.raises(IsADirectoryError, match=r"gif must be the name of a file, .*x\.gif' is a folder"):
        evaluate("snntest/Fuse-v0", lambda x: pytest.fail("asked"), gif=tmp_path / "x.gif")


def test_an_environment_that_does_not_know_render_mode_is_played() -> None:
    assert evaluate("snntest/Blind-v0", stay, episodes=3).lengths == (20, 20, 20)


def test_a_failure_to_close_loses_no_evaluation() -> None:
    with pytest.warns(
        RuntimeWarning, match="environment 'snntest/Hostile-close-v0' failed when it was closed: OSError"
    ):
        report = evaluate("snntest/Hostile-close-v0", stay, episodes=3)
    assert report.lengths == (20, 20, 20)
    assert environments.Counted.made == environments.Counted.closed == 3


def test_a_vectorised_environment_that_never_restarts_says_what_is_required() -> None:
    words = "'snntest/Vector-only-v0' must restart finished episodes by itself .*NEXT_STEP.*DISABLED"
    with pytest.raises(ValueError, match=words):
        evaluate("snntest/Vector-only-v0", lambda x: pytest.fail("asked"), episodes=3)
    assert environments.FuseVector.closed == 1


def test_rewards_beyond_a_standard_deviation_are_refused() -> None:
    words = r"'snntest/Hostile-rich-v0' must give rewards that add up to at most 1e\+150 .*1e\+308 by step 1"
    with pytest.raises(RuntimeError, match=words):
        evaluate("snntest/Hostile-rich-v0", stay, episodes=3)
