# SPDX-License-Identifier: Apache-2.0
"""Playing episodes and counting: every episode once, from its first step to its last."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from snnfast import plots
from snnfast.environments import failed, find, step_limit
from snnfast.evaluation import environments
from snnfast.evaluation.agents import Agent, Asker, deciding
from snnfast.evaluation.environments import Environments, Ints
from snnfast.evaluation.report import EvaluationReport
from snnfast.evaluation.statistics import Stream, bootstrap_interval, network_seed, share_interval, uniform
from snnfast.spec import FloatArray, check_count, check_float

#: A function on observations, (B, n) to (B, m), float32.
Preprocess = Callable[[FloatArray], npt.NDArray[Any]]

_GIF_FRAMES_PER_SECOND = 25.0  # players slow GIFs down that are much faster


def evaluate(
    env_id: str,
    agent: Agent,
    *,
    compare_against: Agent | None = None,
    episodes: int = 100,
    max_steps: int | None = 500,
    seed: int = 1,
    epsilon: float = 0.0,
    render: Literal["human"] | None = None,
    gif: str | os.PathLike[str] | None = None,
    preprocess: Preprocess | None = None,
    history: int = 1,
    frame_skip: int = 1,
    max_noops: int = 0,
    num_envs: int | None = None,
) -> EvaluationReport:
    """Let an agent play whole episodes and report its returns, decisions and spikes.

    The agent acts greedily: the action with the largest output, the first one at a tie. Exactly ``episodes`` episodes
    are played and each is counted, however long it lasts; counting the first ones to finish would favour short ones.
    Equal arguments give an equal report, times excepted, and two agents evaluated with the same arguments start from
    the same states, meet the same random actions and make the same number of no-ops.

    Args:
        env_id: a registered environment with discrete actions and flat observations.
        agent: a :class:`~snnfast.SpikingNetwork`, a ``torch.nn.Module`` (asked in evaluation mode, without gradients)
            or a function from (B, n_in) float32 numpy to (B, n_actions).
        compare_against: a second agent, asked about the same states; it never acts.
        episodes: how many episodes to play.
        max_steps: limit of an episode in environment steps, in place of the environment's own; None keeps that one.
        seed: of the environments (see :func:`episode_seeds`), random actions, no-ops, Poisson encoding and intervals.
        epsilon: probability of a uniformly random action in place of a decision. In such a step no agent is asked.
        render: ``"human"`` shows every episode in a window, one at a time.
        gif: file for a film of an episode, played once more in an environment of its own with the first episode's
            seed: recording changes no figure in the report.
        preprocess: function on observations, (B, n) to (B, m), applied to each state in which a decision is due.
        history: the agent sees the last ``history`` preprocessed observations of the states in which a decision was
            due, oldest first, (B, history * m); at first the places of the missing ones hold the first observation.
        frame_skip: every chosen action is repeated this many steps; all their rewards count.
        max_noops: each episode begins with a random number of steps, 0 to ``max_noops``, with the first action. They
            belong to the episode: their rewards and steps count. They are no decisions, nor repeated.
        num_envs: episodes side by side; by default up to 1024 in an environment that brings its own vectorised version
            and up to 256 in others. In the former it determines the start states, which come from one generator. A
            network with Poisson encoding draws other spikes with it in either, so that its decisions, and returns,
            change too.

    Raises:
        TypeError: if an argument is of the wrong kind, or an agent does not give arrays.
        ValueError: if the environment is unknown (the nearest names are given), its actions are not discrete or its
            observations not flat; if an agent's output is not one finite number per action; if an argument is out of
            range.
        RuntimeError: if the environment raises, or gives an observation or reward that is not finite, naming
            environment and step; or rewards that add up to more than 1e150. All environments are closed in any case;
            where that fails there is a ``RuntimeWarning``, and the report all the same.
        ImportError: if a GIF is asked for and Pillow is not installed.
        OSError: if the GIF cannot be written.

    Source: the evaluation of the 2020 thesis system, on Gymnasium's vectorised environments; Stable-Baselines3
    ``evaluate_policy`` for fixing the episodes beforehand.
    """
    began = time.perf_counter()
    spec = find(env_id)
    episodes = check_count("episodes", episodes)
    limit = step_limit(spec, max_steps)
    seed = check_count("seed", seed, minimum=0, maximum=2**64 - 1)
    epsilon = check_float("epsilon", epsilon)
    if not 0 <= epsilon <= 1:
        raise ValueError(f"epsilon must be from 0 to 1, got {epsilon}")
    if render not in (None, "human"):
        raise ValueError(f"render must be 'human' or None, got {render!r}; for a film there is gif=")
    if preprocess is not None and not callable(preprocess):
        raise TypeError(f"preprocess must be a function on (B, n) arrays, got {type(preprocess).__name__}")
    history = check_count("history", history)
    frame_skip = check_count("frame_skip", frame_skip)
    max_noops = check_count("max_noops", max_noops, minimum=0, maximum=limit)
    if num_envs is not None:
        num_envs = check_count("num_envs", num_envs)
    if render is not None:
        if num_envs not in (None, 1):
            raise ValueError(f"num_envs must be 1 when rendering, got {num_envs}")
        num_envs = 1
    if gif is not None:
        _check_gif(gif)
    for mode in ("human",) * (render is not None) + ("rgb_array",) * (gif is not None):
        environments.check_render_mode(spec, mode)
    rules = _Rules(episodes, limit, seed, epsilon, preprocess, history, frame_skip, max_noops)

    with contextlib.ExitStack() as stack, deciding(agent, compare_against):
        envs = environments.open_environments(stack, spec, num_envs, episodes, limit, render)
        run = _Run(envs, agent, compare_against, rules)
        run.play_all()
    report = run.report(began)
    if gif is not None:
        with contextlib.ExitStack() as stack, deciding(agent):
            envs = environments.Instances(stack, spec, 1, limit, "rgb_array")
            _film(_Run(envs, agent, None, dataclasses.replace(rules, episodes=1)), envs, gif)
    return report


@dataclasses.dataclass(frozen=True)
class _Rules:
    """How episodes are played; the checked arguments of :func:`evaluate`."""

    episodes: int
    max_steps: int
    seed: int
    epsilon: float
    preprocess: Preprocess | None
    history: int
    frame_skip: int
    max_noops: int


class _Run:
    """The episodes of one evaluation and what was counted in them."""

    def __init__(self, envs: Environments, agent: Agent, compare_against: Agent | None, rules: _Rules) -> None:
        self.envs, self.rules, episodes = envs, rules, rules.episodes
        self.agent = Asker("agent", agent, envs.env_id, envs.n_actions)
        self.compared = (
            None if compare_against is None else Asker("compare_against", compare_against, envs.env_id, envs.n_actions)
        )
        self.returns = np.zeros(episodes)
        self.lengths, self.decided, self.agreed = (np.zeros(episodes, dtype=np.int64) for _ in range(3))
        self.random_decisions = 0
        self.certified_differing = 0
        self.agent_seconds = self.compared_seconds = self.environment_seconds = 0.0
        self._past: FloatArray | None = None

    def play_all(self) -> None:
        """Play every episode, as many at a time as there are environments."""
        for first in range(0, self.rules.episodes, self.envs.size):
            self.play(first, min(self.envs.size, self.rules.episodes - first))

    def play(self, first: int, count: int, watch: Callable[[], None] | None = None) -> None:
        """Play the episodes ``first``, ..., ``first + count - 1`` side by side, each in an environment of its own.

        In every step each episode has one action, chosen anew when the old one has been held for long enough. The
        initial no-ops are an action held for a random number of steps.

        Args:
            watch: called after the reset and after every step.
        """
        envs, size, rules, now = self.envs, self.envs.size, self.rules, time.perf_counter
        seeds = environments.episode_seeds(rules.seed, first + count)[first:]
        asked_seed, compared_seed = (network_seed(rules.seed, s, first) for s in (Stream.AGENT, Stream.COMPARED))
        alive = np.arange(size) < count
        hold = np.zeros(size, dtype=np.int64)
        if rules.max_noops:
            drawn = uniform(rules.seed, Stream.NOOPS, 0, first, count)[:, 0]
            hold[:count] = (drawn * (rules.max_noops + 1)).astype(np.int64)
        actions = np.full(size, envs.first_action, dtype=np.int64)
        returns = np.zeros(size)
        lengths, decided, agreed = (np.zeros(size, dtype=np.int64) for _ in range(3))
        self._past, seen = None, np.zeros(size, dtype=np.bool_)

        began = now()
        observations = envs.reset(seeds, first)
        self.environment_seconds += now() - began
        if watch is not None:
            watch()
        for step in range(rules.max_steps):
            due = np.flatnonzero(alive & (hold == 0))
            if len(due):
                states = self._states(observations, due, seen)
                hold[due] = rules.frame_skip
                if rules.epsilon:
                    drawn = uniform(rules.seed, Stream.EPSILON, step, first, size)[due]
                    is_random = drawn[:, 0] < rules.epsilon
                    choice = (drawn[is_random, 1] * envs.n_actions).astype(np.int64)
                    actions[due[is_random]] = envs.first_action + choice
                    self.random_decisions += len(choice)
                    due, states = due[~is_random], states[~is_random]
            if len(due):
                began = now()
                decisions = self.agent(states, (asked_seed + step) % 2**64)
                ended = now()
                self.agent_seconds += ended - began
                actions[due] = envs.first_action + decisions
                decided[due] += 1
                if self.compared is not None:
                    equal = decisions == self.compared(states, (compared_seed + step) % 2**64)
                    agreed[due] += equal
                    if self.agent.certified is not None:
                        self.certified_differing += int((self.agent.certified & ~equal).sum())
                    self.compared_seconds += now() - ended
            began = now()
            observations, rewards, done = envs.step(actions, alive, step + 1)
            self.environment_seconds += now() - began
            environments.add_rewards(returns, rewards, alive, envs.env_id, f"by step {step + 1}")
            lengths += alive
            hold -= 1
            alive &= ~done
            if watch is not None:
                watch()
            if not alive.any():
                break

        played = slice(first, first + count)
        for total, part in (
            (self.returns, returns),
            (self.lengths, lengths),
            (self.decided, decided),
            (self.agreed, agreed),
        ):
            total[played] = part[:count]

    def _states(self, observations: FloatArray, due: Ints, seen: npt.NDArray[np.bool_]) -> FloatArray:
        """What the agent sees in the episodes ``due``: preprocessed, with history. ``seen`` says which had a state."""
        states = observations[due]
        if self.rules.preprocess is not None:
            states = self._preprocessed(states)
        if self.rules.history == 1:
            return states
        if self._past is None:
            self._past = np.zeros((len(observations), self.rules.history, states.shape[1]), dtype=np.float32)
        if states.shape[1] != self._past.shape[2]:
            raise ValueError(
                f"preprocess must give the same number of columns every time, got {states.shape[1]} "
                f"after {self._past.shape[2]}"
            )
        past = np.concatenate([self._past[due, 1:], states[:, None]], axis=1)
        new = ~seen[due]
        past[new] = states[new, None]
        seen[due] = True
        self._past[due] = past
        return past.reshape(len(due), -1)

    def _preprocessed(self, states: FloatArray) -> FloatArray:
        assert self.rules.preprocess is not None
        given = self.rules.preprocess(states)
        if not isinstance(given, np.ndarray):
            raise TypeError(f"preprocess must give a numpy array, got {type(given).__name__}")
        if given.ndim != 2 or len(given) != len(states) or given.dtype.kind not in "fiub":
            raise ValueError(
                f"preprocess must give real numbers of shape ({len(states)}, m), got {given.dtype} of shape "
                f"{given.shape}"
            )
        with np.errstate(over="ignore"):
            states = np.array(given, dtype=np.float32)
        if not np.isfinite(states).all():
            raise ValueError("preprocess must give finite numbers, got NaN or infinity")
        return states

    def report(self, began: float) -> EvaluationReport:
        """The counts, averages and intervals; ``began`` is when the evaluation did."""
        rules, decisions = self.rules, int(self.decided.sum())
        ones = np.ones(rules.episodes)
        similarity = interval = agreements = None
        if self.compared is not None:
            agreements = tuple(self.agreed.tolist())
            if decisions:
                similarity = float(self.agreed.sum() / decisions)
                interval = share_interval(self.agreed.astype(float), self.decided.astype(float), rules.seed)
        activity = self.agent.activity()
        certified = None if activity is None else activity.certified
        return_interval = bootstrap_interval(self.returns, ones, rules.seed)
        seconds = time.perf_counter() - began
        return EvaluationReport(
            env_id=self.envs.env_id,
            agent=self.agent.description,
            compared_with=None if self.compared is None else self.compared.description,
            seed=rules.seed,
            episodes=rules.episodes,
            max_steps=rules.max_steps,
            epsilon=rules.epsilon,
            history=rules.history,
            frame_skip=rules.frame_skip,
            max_noops=rules.max_noops,
            num_envs=self.envs.size,
            mean_return=float(self.returns.sum() / rules.episodes),
            std_return=float(self.returns.std(ddof=1)) if rules.episodes > 1 else 0.0,
            return_interval=return_interval,
            similarity=similarity,
            similarity_interval=interval,
            decisions=decisions,
            random_decisions=self.random_decisions,
            timesteps=None if activity is None else activity.timesteps,
            mean_steps=None if activity is None else activity.steps,
            certified_share=certified,
            certified_differing=None if certified is None or self.compared is None else self.certified_differing,
            saturated_share=None if activity is None else activity.saturated,
            spikes_per_decision=None if activity is None else float(sum(activity.spikes_per_layer)),
            spikes_per_layer=None if activity is None else activity.spikes_per_layer,
            input_spikes_per_decision=None if activity is None else activity.input_spikes,
            synaptic_operations_per_decision=None if activity is None else activity.synaptic_operations,
            input_macs_per_decision=None if activity is None else activity.input_macs,
            returns=tuple(self.returns.tolist()),
            lengths=tuple(self.lengths.tolist()),
            episode_decisions=tuple(self.decided.tolist()),
            episode_agreements=agreements,
            seconds=seconds,
            agent_seconds=self.agent_seconds,
            compared_seconds=self.compared_seconds,
            environment_seconds=self.environment_seconds,
            decisions_per_second=decisions / seconds,
        )


def _check_gif(path: str | os.PathLike[str]) -> None:
    """Find out before any computing whether a GIF can be written."""
    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise ValueError(f"gif must be a file name that ends in .gif, got {str(path)!r}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"gif: there is no folder {str(path.parent)!r}")
    if path.is_dir():
        raise IsADirectoryError(f"gif must be the name of a file, {str(path)!r} is a folder")
    folder = os.path.dirname(os.path.realpath(path))  # where a link leads
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"gif: the folder {folder!r} cannot be written to")
    plots.require_pillow()


def _film(run: _Run, envs: environments.Instances, path: str | os.PathLike[str]) -> None:
    """Play the first episode and write it as a GIF of at most 25 frames per second, the end state always included."""
    env = envs.envs[0]
    rate = float(env.metadata.get("render_fps") or _GIF_FRAMES_PER_SECOND)
    stride = max(1, round(rate / _GIF_FRAMES_PER_SECOND))
    film = plots.GifFilm(frames_per_second=rate / stride)
    calls = 0
    last: npt.NDArray[np.uint8] | None = None

    def show(frame: npt.NDArray[np.uint8], where: str) -> None:
        try:
            film.add(frame)
        except ValueError as error:  # of another size than the first one
            raise failed(envs.env_id, f"{where} when it was drawn", error) from error

    def watch() -> None:
        nonlocal calls, last
        where = f"in step {calls}" if calls else "at reset"
        last = environments.drawn(env, envs.env_id, where)
        if calls % stride == 0:
            show(last, where)
        calls += 1

    run.play(0, 1, watch)
    if (calls - 1) % stride and last is not None:
        show(last, f"in step {calls - 1}")
    film.write(path)
