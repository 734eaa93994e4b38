# SPDX-License-Identifier: Apache-2.0
"""REINFORCE: learn a policy from whole episodes, one update each.

After an episode with rewards r_t and actions a_t, the discounted returns G_t = r_t + gamma * G_{t+1} are standardised
within the episode, (G - mean) / (sd + eps), and the policy takes one Adam step on -mean_t(log pi(a_t | s_t) * G_t).

Source: Williams 1992, Machine Learning 8:229-256. The details (standardisation, learning rate, and the rule for
"solved") are those of the 2020 thesis that snnfast re-creates.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from snnfast import checkpoint
from snnfast.checkpoint import CheckpointError
from snnfast.environments import Interface
from snnfast.info import versions
from snnfast.learning import environments
from snnfast.learning.acting import FloatArray, batch_outputs, single_outputs
from snnfast.learning.greedy import greedy_returns
from snnfast.spec import check_count, check_float
from snnfast.torch_threads import one_thread

Tensors = dict[str, torch.Tensor]

# What a seed is derived for, beside the seed of the run and the episode.
_ENVIRONMENT, _ACTIONS, _CHECK = range(3)
_SECONDS_BETWEEN_CHECKPOINTS = 2.0
_NOISE_ROWS = 256
# What a continued run may differ by from an undisturbed one.
_VERSIONS = ("torch", "numpy", "gymnasium")


@dataclasses.dataclass
class TrainingResult:
    """What training gave.

    Attributes:
        policy: the trained policy: the very module that was passed in. Its weights are those that held in the greedy
            check; if none held, those that did best in it; if the rule was never met, the last ones.
        initial_state: ``state_dict`` of the policy before training.
        solved_state: ``state_dict`` at the moment the rule for "solved" was met (the thesis' "trained"), or ``None``.
        returns: undiscounted return of every episode.
        durations: steps of every episode.
        means: after every episode the mean of the last ``window`` returns; None for the first ``window - 1``.
        window: episodes in that mean.
        solved_at: number of episodes after which the rule was met, or ``None``.
        greedy_return_at_solved: mean greedy return at that moment, or ``None`` if there was no check.
        greedy_return: mean greedy return of ``policy`` as it is, or ``None`` if there was no check.
        extra_episodes: episodes trained after ``solved_at``.
        holds: whether ``greedy_return`` reached the required one. ``None`` if it was never checked.
        messages: what happened, in plain words.
        seconds: time spent training, over all resumed parts.
        settings: everything that determines the result, as JSON could hold it.
    """

    policy: nn.Module
    initial_state: Tensors
    solved_state: Tensors | None
    returns: list[float]
    durations: list[int]
    means: list[float | None]
    window: int
    solved_at: int | None
    greedy_return_at_solved: float | None
    greedy_return: float | None
    extra_episodes: int
    holds: bool | None
    messages: list[str]
    seconds: float
    settings: dict[str, Any]

    @property
    def episodes(self) -> int:
        """Number of episodes trained."""
        return len(self.returns)

    @property
    def solved(self) -> bool:
        """Whether the rule for "solved" was met."""
        return self.solved_at is not None

    def save_csv(self, path: checkpoint.Path) -> None:
        """Write the learning curve: one line per episode with its number from 1, duration, return and running mean.

        The running mean is empty where there is none yet.

        Raises:
            OSError: if the file cannot be written; an existing one is then untouched.
        """
        lines = [f"episode,duration,return,mean{self.window}"]
        rows = zip(self.durations, self.returns, self.means, strict=True)
        lines += [
            f"{i},{duration},{value!r},{'' if mean is None else repr(mean)}"
            for i, (duration, value, mean) in enumerate(rows, start=1)
        ]
        checkpoint.atomic_write(path, ("\n".join(lines) + "\n").encode())


def train_policy_gradient(
    env_id: str,
    policy: nn.Module,
    *,
    seed: int = 1,
    max_steps: int = 200,
    max_episodes: int = 3000,
    gamma: float = 0.99,
    learning_rate: float = 0.01,
    threshold: float | None = None,
    window: int = 100,
    consecutive: int = 100,
    check_episodes: int = 100,
    check_max_steps: int | None = None,
    check_threshold: float | None = None,
    check_every: int = 25,
    checkpoint_path: checkpoint.Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> TrainingResult:
    """Train ``policy`` in place until it solves the environment and also does so greedily.

    "Solved" is: the mean return of the last ``window`` episodes has been at least ``threshold`` for ``consecutive``
    episodes in a row. Such a policy acts at random, with probabilities; converted, it will take the likeliest action
    every time, and some solved policies fail at that. So it is then checked greedily, and trained on, checking every
    ``check_every`` episodes, until it holds.

    The same arguments on the same kind of machine give the same run, bit for bit, also if it was killed and resumed any
    number of times. The global random states of torch and numpy are neither read nor changed; the policy itself must
    not be random (no dropout).

    Args:
        env_id: a Gymnasium environment with observation vectors and discrete actions.
        policy: (B, n_in) observations to (B, n_actions) logits, for example of :func:`make_policy`. Plain networks of
            Linear and ReLU act several times faster than others while episodes are played.
        seed: of the environment and the choice of actions.
        max_steps: the longest an episode may take while training.
        max_episodes: give up after so many, greedy or not. The only setting that may change when resuming.
        gamma: discount of later rewards, from 0 to 1.
        learning_rate: of Adam.
        threshold: see above. ``None`` is Gymnasium's own for this environment and ``max_steps`` (CartPole: 195 for
            200 steps, 475 for 500).
        window, consecutive: see above.
        check_episodes: episodes in a greedy check; 0 for no check.
        check_max_steps: the longest a checked episode may take. ``None`` is the longest limit among the environment's
            registered versions (CartPole: 500).
        check_threshold: the mean return a check requires. ``None`` is the best possible return where it is known
            (CartPole: ``check_max_steps``), else Gymnasium's threshold for ``check_max_steps``, else ``threshold``.
        check_every: see above.
        checkpoint_path: where to keep the state of training, written every two seconds or so, at the end, and when
            interrupted. Must not exist yet, unless resuming.
        resume: continue from ``checkpoint_path``. The policy's weights are replaced by those stored. If there is no
            such file yet (killed before the first was written), training starts from the beginning and says so.
        progress: show a progress bar with the running mean if standard error is a terminal.

    Returns:
        A :class:`TrainingResult`.

    Raises:
        TypeError, ValueError: if an argument is wrong, or the environment or the policy is not of the kind described;
            before training starts.
        FileExistsError: if ``checkpoint_path`` exists and ``resume`` is false.
        CheckpointError: if it cannot be resumed: damaged, or made with other settings (both are listed).
        FloatingPointError: if training diverges or the environment returns a number that is not finite.
        RuntimeError: if the environment fails; the message says in which episode and step.
        OSError: if the checkpoint cannot be written.
        KeyboardInterrupt: after writing a checkpoint. The policy is as it was after the last whole episode.
    """
    environment = environments.make_environment(env_id, max_steps)
    try:
        interface = environments.interface(env_id, environment)
        if not isinstance(policy, nn.Module):
            raise TypeError(f"policy must be an nn.Module, got {type(policy).__name__}")
        if not any(p.requires_grad for p in policy.parameters()):
            raise ValueError("policy must have parameters that require gradients, got none")
        if threshold is None:
            threshold = environments.reward_threshold(env_id, max_steps)
            if threshold is None:
                raise ValueError(
                    f"threshold must be given: Gymnasium has none for {env_id!r} with max_steps={max_steps}"
                )
        if check_max_steps is None:
            check_max_steps = environments.longest_limit(env_id, check_count("max_steps", max_steps))
        if check_threshold is None:
            check_threshold = _default_check_threshold(
                env_id, check_count("check_max_steps", check_max_steps), threshold
            )
        settings = {
            "env_id": env_id,
            "seed": check_count("seed", seed, minimum=0, maximum=2**63 - 1),
            "max_steps": check_count("max_steps", max_steps),
            "gamma": _check_range("gamma", gamma, 0.0, 1.0),
            "learning_rate": _check_range("learning_rate", learning_rate, 0.0, math.inf),
            "threshold": check_float("threshold", threshold),
            "window": check_count("window", window),
            "consecutive": check_count("consecutive", consecutive),
            "check_episodes": check_count("check_episodes", check_episodes, minimum=0),
            "check_max_steps": check_count("check_max_steps", check_max_steps),
            "check_threshold": check_float("check_threshold", check_threshold),
            "check_every": check_count("check_every", check_every),
            "policy": {name: list(value.shape) for name, value in policy.state_dict().items()},
        }
        check_count("max_episodes", max_episodes)
        if resume and checkpoint_path is None:
            raise ValueError("checkpoint_path must be given to resume, got None")
        if checkpoint_path is not None and not resume and os.path.lexists(checkpoint_path):
            raise FileExistsError(
                17,
                "exists; resume from it (resume=True), remove it, or choose another path",
                os.fspath(checkpoint_path),
            )
        run = _Run(environment, interface, policy, settings, checkpoint_path)
        if resume and checkpoint_path is not None:
            run.resume(checkpoint_path)
        with one_thread():
            return run.train(max_episodes, progress)
    finally:
        environment.close()


@dataclasses.dataclass(frozen=True)
class _Boundary:
    """Everything that the next episode depends on, as it was when the last one ended.

    Made whole and then put in place by one assignment, so an interruption at any instruction finds a consistent one.
    """

    policy: Tensors
    optimizer: Tensors
    initial: Tensors
    solved: Tensors = dataclasses.field(default_factory=dict)
    best: Tensors = dataclasses.field(default_factory=dict)
    episodes: int = 0
    streak: int = 0  # consecutive episodes with the mean at or above the threshold
    solved_at: int | None = None
    greedy_return_at_solved: float | None = None
    greedy_return: float | None = None  # of the latest check
    best_return: float | None = None
    best_at: int | None = None
    holds: bool | None = None


_TENSOR_GROUPS = ("policy", "optimizer", "initial", "solved", "best")
_NUMBERS = [f.name for f in dataclasses.fields(_Boundary) if f.name not in _TENSOR_GROUPS]


class _Run:
    """One training run between its start (or resumption) and its end."""

    def __init__(
        self,
        environment: environments.Environment,
        interface: Interface,
        policy: nn.Module,
        settings: dict[str, Any],
        path: checkpoint.Path | None,
    ) -> None:
        self.environment, self.interface, self.policy = environment, interface, policy
        self.settings, self.path = settings, path
        self.outputs = single_outputs(policy, interface.n_in, interface.n_actions)
        self.parameter = next(p for p in policy.parameters() if p.requires_grad)
        self.optimizer = torch.optim.Adam(policy.parameters(), lr=settings["learning_rate"])
        self.returns: list[float] = []
        self.durations: list[int] = []
        self.notes: list[str] = []
        self.seconds_before = 0.0
        # Row t holds observation t of the episode. torch's memory, for its alignment: see acting.py.
        self.observations = _memory(min(settings["max_steps"], 1024), interface.n_in)
        state = _copy(policy.state_dict())
        self.boundary = _Boundary(policy=state, optimizer={}, initial=state)

    # The loop

    def train(self, max_episodes: int, progress: bool) -> TrainingResult:
        started = written = time.monotonic()
        name = f"{self.settings['env_id']} (seed {self.settings['seed']})"
        if self.path is not None:
            self.write(started)
        # disable=None: only where standard error is a terminal.
        with tqdm(
            total=max_episodes,
            initial=self.boundary.episodes,
            desc=name,
            unit=" episodes",
            disable=None if progress else True,
            file=sys.stderr,
            dynamic_ncols=True,
        ) as bar:
            try:
                while not self.boundary.holds and self.boundary.episodes < max_episodes:
                    if self.boundary.solved_at is not None and not self.settings["check_episodes"]:
                        break
                    self.boundary = self.episode(self.boundary)
                    mean = f"mean {_mean_of_last(self.returns, self.settings['window']):.1f}"
                    bar.set_postfix_str(mean + (", solved" if self.boundary.solved_at else ""), refresh=False)
                    bar.update()
                    if self.path is not None and time.monotonic() - written > _SECONDS_BETWEEN_CHECKPOINTS:
                        self.write(started)
                        written = time.monotonic()
            except BaseException as error:
                # Half an update may have been made: back to the last whole episode.
                self.policy.load_state_dict(self.boundary.policy)
                if isinstance(error, KeyboardInterrupt) and self.path is not None:
                    self.write(started)
                raise
        if self.path is not None:
            self.write(started)
        end = self.boundary
        checks = end.solved_at is not None and self.settings["check_episodes"]
        if checks and not end.holds and end.episodes == max_episodes and not self.is_due(end):
            # How it stands at the end. Not a part of the training: whoever continues it does what one run would have.
            end = self.check(end)
        return self.result(end, max_episodes, self.seconds_before + time.monotonic() - started)

    def episode(self, before: _Boundary) -> _Boundary:
        """Play an episode, learn from it, and keep the books."""
        number = before.episodes
        del self.returns[number:], self.durations[number:]
        with np.errstate(over="ignore", invalid="ignore"):  # divergence gets its own message when the policy learns
            actions, rewards = self.play(number)
        total = math.fsum(rewards)
        self.learn(number, actions, rewards)
        self.returns.append(total)
        self.durations.append(len(rewards))

        settings, state = self.settings, _copy(self.policy.state_dict())
        changes: dict[str, Any] = {"episodes": number + 1}
        if before.solved_at is None:
            enough = len(self.returns) >= settings["window"]
            above = enough and _mean_of_last(self.returns, settings["window"]) >= settings["threshold"]
            changes["streak"] = before.streak + 1 if above else 0
            if changes["streak"] >= settings["consecutive"]:
                changes |= {"solved_at": number + 1, "solved": state}
        after = dataclasses.replace(before, policy=state, optimizer=_optimizer_tensors(self.optimizer), **changes)
        return self.check(after) if self.is_due(after) else after

    def is_due(self, after: _Boundary) -> bool:
        """Whether a greedy check follows this episode."""
        if after.solved_at is None or not self.settings["check_episodes"]:
            return False
        since: int = after.episodes - after.solved_at
        return bool(since % self.settings["check_every"] == 0)

    def play(self, number: int) -> tuple[list[int], list[float]]:
        """Act by the policy's probabilities; the observations are left in ``self.observations``."""
        seed, max_steps = self.settings["seed"], self.settings["max_steps"]
        # Adding Gumbel noise to logits and taking the largest draws from their softmax.
        noise = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, number, _ACTIONS])))
        outputs, step, first_action = self.outputs, self.environment.step, self.interface.first_action
        observations = self.observations
        actions: list[int] = []
        rewards: list[float] = []
        t = 0
        try:
            observation, _ = self.environment.reset(seed=environments.derived_seed(seed, number, _ENVIRONMENT))
            for t in range(max_steps):
                if t == len(observations):
                    observations = self.observations = _grown(observations, max_steps)
                if t % _NOISE_ROWS == 0:
                    gumbel = noise.gumbel(size=(min(_NOISE_ROWS, max_steps - t), self.interface.n_actions))
                    rows = list(gumbel.astype(np.float32))
                current = observations[t]
                if np.shape(observation) != current.shape:  # assigning would repeat it
                    raise ValueError(f"an observation of shape {np.shape(observation)}, not {current.shape}")
                current[:] = observation
                action = int((outputs(current) + rows[t % _NOISE_ROWS]).argmax())
                observation, reward, terminated, truncated, _ = step(action + first_action)
                actions.append(action)
                rewards.append(float(reward))
                if terminated or truncated:
                    break
        except Exception as error:
            where = f"{self.settings['env_id']!r} failed in episode {number + 1}, step {t + 1}"
            raise RuntimeError(f"{where}: {type(error).__name__}: {error}") from error
        if not (math.isfinite(sum(rewards)) and np.isfinite(observations[: len(rewards)]).all()):
            raise FloatingPointError(
                f"{self.settings['env_id']!r} gave a reward or observation that is not finite in episode {number + 1}"
            )
        return actions, rewards

    def learn(self, number: int, actions: Sequence[int], rewards: Sequence[float]) -> None:
        """One Adam step on the episode."""
        device, dtype = self.parameter.device, self.parameter.dtype
        given = torch.from_numpy(self.observations[: len(rewards)]).to(device, dtype)
        weights = standardised_returns(rewards, self.settings["gamma"]).to(device, dtype)
        # The cross entropy with the action taken is -log pi(a | s).
        surprise = nn.functional.cross_entropy(
            self.policy(given), torch.tensor(actions, device=device), reduction="none"
        )
        loss = (surprise * weights).mean()
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"training diverged in episode {number + 1}; a lower learning_rate may help")
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if not all(np.isfinite(p.detach().cpu().numpy()).all() for p in self.policy.parameters()):
            raise FloatingPointError(f"training diverged in episode {number + 1}; a lower learning_rate may help")

    def check(self, after: _Boundary) -> _Boundary:
        """Run greedy episodes and note how they went."""
        settings = self.settings
        returns = greedy_returns(
            settings["env_id"],
            self.interface,
            batch_outputs(self.policy, self.interface.n_in, self.interface.n_actions),
            episodes=settings["check_episodes"],
            max_steps=settings["check_max_steps"],
            seed=environments.derived_seed(settings["seed"], after.episodes, _CHECK),
        )
        mean = float(returns.mean())
        changes: dict[str, Any] = {"greedy_return": mean, "holds": mean >= settings["check_threshold"]}
        if after.solved_at == after.episodes:
            changes["greedy_return_at_solved"] = mean
        if after.best_return is None or mean > after.best_return:
            changes |= {"best": after.policy, "best_return": mean, "best_at": after.episodes}
        return dataclasses.replace(after, **changes)

    # The result

    def result(self, end: _Boundary, max_episodes: int, seconds: float) -> TrainingResult:
        if end.holds is False and end.best:
            self.policy.load_state_dict(end.best)
        returns = self.returns[: end.episodes]
        return TrainingResult(
            policy=self.policy,
            initial_state=end.initial,
            solved_state=end.solved or None,
            returns=returns,
            durations=self.durations[: end.episodes],
            means=_running_means(returns, self.settings["window"]),
            window=self.settings["window"],
            solved_at=end.solved_at,
            greedy_return_at_solved=end.greedy_return_at_solved,
            greedy_return=end.best_return,
            extra_episodes=end.episodes - end.solved_at if end.solved_at is not None else 0,
            holds=end.holds,
            messages=[*self.notes, *self.messages(end, max_episodes)],
            seconds=seconds,
            settings=self.settings,
        )

    def messages(self, end: _Boundary, max_episodes: int) -> list[str]:
        s = self.settings
        if end.solved_at is None:
            required = f"required is {s['threshold']:g} for {s['consecutive']} episodes in a row"
            if end.episodes < s["window"]:
                return [
                    f"not solved in {end.episodes} episodes, too few for a mean over {s['window']} of them: {required}"
                ]
            means = _running_means(self.returns[: end.episodes], s["window"])
            best = max(mean for mean in means if mean is not None)
            return [
                f"not solved in {end.episodes} episodes: the best mean over {s['window']} episodes was {best:.1f}, "
                f"{required}"
            ]
        said = [
            f"solved after {end.solved_at} episodes (mean return of the last {s['window']} at least {s['threshold']:g} "
            f"for {s['consecutive']} episodes in a row)"
        ]
        if end.greedy_return_at_solved is None:
            return [*said, "not checked greedily"]
        needed = (
            f"{s['check_threshold']:g} in {s['check_episodes']} greedy episodes of at most {s['check_max_steps']} steps"
        )
        first = f"mean greedy return {end.greedy_return_at_solved:g}, required {needed}"
        extra = end.episodes - end.solved_at
        if end.holds and extra == 0:
            return [*said, f"{first}: it holds"]
        said.append(f"{first}: it does not hold, so training continued")
        if end.holds:
            return [*said, f"holds after {extra} more episodes: mean greedy return {end.greedy_return:g}"]
        return [
            *said,
            f"still does not hold after {max_episodes} episodes (max_episodes); the policy is the best one checked, of "
            f"episode {end.best_at}: mean greedy return {end.best_return:g}",
        ]

    # The checkpoint

    def write(self, started: float) -> None:
        assert self.path is not None
        boundary = self.boundary
        tensors: dict[str, Any] = {
            f"{group}/{name}": tensor for group in _TENSOR_GROUPS for name, tensor in getattr(boundary, group).items()
        }
        tensors["returns"] = np.array(self.returns[: boundary.episodes], dtype=np.float64)
        tensors["durations"] = np.array(self.durations[: boundary.episodes], dtype=np.int64)
        metadata = {
            "settings": self.settings,
            "numbers": {name: getattr(boundary, name) for name in _NUMBERS},
            "seconds": self.seconds_before + time.monotonic() - started,
            "versions": versions(*_VERSIONS),
        }
        checkpoint.save(self.path, "training", tensors, metadata)

    def restored(
        self, groups: dict[str, Tensors], numbers: dict[str, Any], returns: torch.Tensor, durations: torch.Tensor
    ) -> _Boundary:
        """What a checkpoint holds, after seeing that the run can go on from it. The optimiser and history are set."""
        if set(numbers) != set(_NUMBERS):
            raise ValueError(f"its numbers must be {_NUMBERS}, they are {sorted(numbers)}")
        if not all(type(numbers[name]) is int for name in ("episodes", "streak")):
            raise ValueError("its counters are no integers")
        if not returns.shape == durations.shape == (numbers["episodes"],):
            raise ValueError("its history is not as long as its number of episodes")
        for group in ("policy", "initial", "solved", "best"):
            shapes = {name: list(tensor.shape) for name, tensor in groups[group].items()}
            if shapes != self.settings["policy"] and (shapes or group in ("policy", "initial")):
                raise ValueError(f"its {group} weights are of shapes {shapes}")
        _restore_optimizer(self.optimizer, groups["optimizer"])
        self.returns, self.durations = returns.tolist(), durations.tolist()
        fields: dict[str, Any] = {**groups, **numbers}
        return _Boundary(**fields)

    def resume(self, path: checkpoint.Path) -> None:
        try:
            tensors, metadata = checkpoint.load(path, "training")
        except FileNotFoundError:
            self.notes.append(f"nothing to resume at {os.fspath(path)}: started from the beginning")
            return
        checkpoint.require(
            path, metadata, {"settings": dict, "numbers": dict, "seconds": (int, float), "versions": dict}
        )
        checkpoint.require(path, tensors, {"returns": torch.Tensor, "durations": torch.Tensor}, what="tensor")
        differences = _differences(metadata["settings"], self.settings)
        if differences:
            raise CheckpointError(path, f"was made with other settings: {', '.join(differences)}")
        groups: dict[str, Tensors] = {group: {} for group in _TENSOR_GROUPS}
        for name, tensor in tensors.items():
            group, _, rest = name.partition("/")
            if group in groups:
                groups[group][rest] = tensor
        try:
            boundary = self.restored(groups, metadata["numbers"], tensors["returns"], tensors["durations"])
            self.policy.load_state_dict(boundary.policy)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            self.policy.load_state_dict(self.boundary.policy)
            raise CheckpointError(path, f"does not fit this training run: {error}") from error
        self.boundary = dataclasses.replace(boundary, policy=_copy(self.policy.state_dict()))
        self.seconds_before = float(metadata["seconds"])
        self.notes.append(f"resumed after episode {boundary.episodes}")
        changed = _differences(metadata["versions"], versions(*_VERSIONS))
        if changed:
            self.notes.append(f"other versions than when it began, so not bit for bit the same: {', '.join(changed)}")


def standardised_returns(rewards: Sequence[float], gamma: float) -> torch.Tensor:
    """Discounted returns G_t = r_t + gamma * G_{t+1} of one episode, less their mean, over their sd: (T,) float32.

    The sd is the unbiased one, plus the smallest float32 step at 1, so that equal returns give zeros. So does an
    episode of a single step, whose unbiased sd does not exist.
    """
    returns = np.empty(len(rewards), dtype=np.float64)
    following = 0.0
    for t in range(len(rewards) - 1, -1, -1):
        following = rewards[t] + gamma * following
        returns[t] = following
    values = torch.from_numpy(returns.astype(np.float32))
    if len(values) < 2:
        return torch.zeros_like(values)
    return (values - values.mean()) / (values.std() + torch.finfo(torch.float32).eps)


def _default_check_threshold(env_id: str, check_max_steps: int, threshold: float) -> float:
    for value in (
        environments.best_return(env_id, check_max_steps),
        environments.reward_threshold(env_id, check_max_steps),
    ):
        if value is not None:
            return value
    return threshold


def _check_range(name: str, value: object, minimum: float, maximum: float) -> float:
    number = check_float(name, value)
    if not minimum <= number <= maximum:
        limits = f"at least {minimum:g}" if maximum == math.inf else f"from {minimum:g} to {maximum:g}"
        raise ValueError(f"{name} must be {limits}, got {value!r}")
    return number


def _mean_of_last(values: Sequence[float], window: int) -> float:
    return math.fsum(values[-window:]) / len(values[-window:])


def _running_means(values: Sequence[float], window: int) -> list[float | None]:
    """The mean of the last ``window`` values at each place, None where there are not yet so many.

    Not 0, which would be the best mean of all where returns are negative.
    """
    return [_mean_of_last(values[:i], window) if i >= window else None for i in range(1, len(values) + 1)]


def _memory(rows: int, columns: int) -> FloatArray:
    memory: FloatArray = torch.empty(rows, columns, dtype=torch.float32, device="cpu").numpy()
    return memory


def _grown(observations: FloatArray, limit: int) -> FloatArray:
    larger = _memory(min(limit, 2 * len(observations)), observations.shape[1])
    larger[: len(observations)] = observations
    return larger


def _copy(state: Tensors) -> Tensors:
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    state = optimizer.state_dict()["state"]
    return {f"{i}/{name}": value.detach().cpu().clone() for i, entry in state.items() for name, value in entry.items()}


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, Tensors] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = tensor.clone()
    for i, entry in state.items():
        if not 0 <= i < len(parameters) or set(entry) != {"step", "exp_avg", "exp_avg_sq"}:
            raise ValueError(f"the state of Adam has an odd entry {i}: {sorted(entry)}")
        shape = parameters[i].shape
        if entry["step"].ndim or not entry["exp_avg"].shape == entry["exp_avg_sq"].shape == shape:
            raise ValueError(f"the state of Adam for parameter {i} is not of shape {list(shape)}")
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Each entry that differs, with both values."""
    names = [*now, *(name for name in then if name not in now)]
    return [f"{n} {then.get(n)!r} (now {now.get(n)!r})" for n in names if then.get(n) != now.get(n)]
