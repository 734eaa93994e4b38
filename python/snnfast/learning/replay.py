# SPDX-License-Identifier: Apache-2.0
"""Replay memory: the states a greedy policy meets, with what it decided there. Conversion scales weights by it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from snnfast import checkpoint
from snnfast.checkpoint import CheckpointError
from snnfast.environments import Interface, failed, find, observed, step_limit
from snnfast.info import versions
from snnfast.learning import environments
from snnfast.learning.acting import FloatArray, batch_outputs
from snnfast.module_modes import evaluation_mode
from snnfast.spec import check_count
from snnfast.torch_threads import one_thread

# Environments stepped side by side. Asking the policy for so many at once makes its share of the time small.
_MOST_ENVIRONMENTS = 64


def _is_whole(n: object) -> bool:
    return isinstance(n, (int, np.integer)) and not isinstance(n, bool)


@dataclasses.dataclass(frozen=True, eq=False)
class Replay:
    """Recorded states of whole greedy episodes, one episode after the other.

    Attributes:
        observations: (N, n_in) float32.
        actions: (N,) int64, the index of the largest output (0 for the environment's first action).
        outputs: (N, n_out) float32, what the policy gave.
        metadata: how it was made; ``episode_lengths`` cuts the rows into episodes, and ``last_episode_cut`` says
            whether the last of them ended only because enough had been recorded.

    Raises:
        TypeError, ValueError: if the arrays are not of these kinds and shapes, or the episodes are not all of the rows.
    """

    observations: torch.Tensor
    actions: torch.Tensor
    outputs: torch.Tensor
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        wanted = {"observations": (torch.float32, 2), "actions": (torch.int64, 1), "outputs": (torch.float32, 2)}
        for name, (dtype, dimensions) in wanted.items():
            value: object = getattr(self, name)
            if not isinstance(value, torch.Tensor):
                raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
            if value.dtype != dtype:
                raise TypeError(f"{name} must be {dtype}, got {value.dtype}")
            if value.device.type != "cpu":
                raise ValueError(f"{name} must be on the CPU (.cpu()), where replays are used, got {value.device}")
            if value.ndim != dimensions or value.numel() == 0:
                raise ValueError(f"{name} must have {dimensions} dimensions and not be empty, got {tuple(value.shape)}")
            if len(value) != len(self.observations):
                raise ValueError(f"{name} must have {len(self.observations)} rows like observations, got {len(value)}")
        if int(self.actions.min()) < 0 or int(self.actions.max()) >= self.outputs.shape[1]:
            raise ValueError(f"actions must be from 0 to {self.outputs.shape[1] - 1}, the outputs' columns")
        about: object = self.metadata
        if not isinstance(about, dict):
            raise TypeError(f"metadata must be a dict, got {type(about).__name__}")
        self._check_lengths(about.get("episode_lengths"))

    def _check_lengths(self, lengths: object) -> None:
        """What cuts the rows into episodes must cut all of them, and no more: a part of a replay has its own."""
        if lengths is None:
            return
        several = isinstance(lengths, (list, tuple)) or (isinstance(lengths, np.ndarray) and lengths.ndim == 1)
        whole = [int(n) for n in lengths if _is_whole(n) and n > 0] if several else []  # type: ignore[attr-defined]
        if not several or len(whole) != len(lengths):  # type: ignore[arg-type]
            raise ValueError(f"episode_lengths must be a list of whole numbers of at least 1, got {lengths!r:.80}")
        if sum(whole) != len(self):
            raise ValueError(
                f"episode_lengths do not add up to its {len(self)} states, but to {sum(whole)}: metadata must have "
                "those of these states, or none"
            )
        if not isinstance(lengths, list) or any(type(n) is not int for n in lengths):  # they are stored as JSON
            object.__setattr__(self, "metadata", self.metadata | {"episode_lengths": whole})

    def __len__(self) -> int:
        return len(self.observations)

    def save(self, path: checkpoint.Path) -> None:
        """Store it; see :func:`snnfast.checkpoint.save`."""
        tensors = {name: getattr(self, name) for name in ("observations", "actions", "outputs")}
        checkpoint.save(path, "replay", tensors, self.metadata)

    @classmethod
    def load(cls, path: checkpoint.Path) -> Replay:
        """Read a stored one.

        Raises:
            CheckpointError: if the file is damaged, no replay memory, or of inconsistent shapes.
            FileNotFoundError: if there is no such file.
        """
        tensors, metadata = checkpoint.load(path, "replay")
        names = ("observations", "actions", "outputs")
        checkpoint.require(path, tensors, dict.fromkeys(names, torch.Tensor), what="tensor")
        try:
            return cls(**{name: tensors[name] for name in names}, metadata=metadata)
        except (TypeError, ValueError) as error:
            raise CheckpointError(path, f"is no replay memory: {error}") from error


def record_replay(
    env_id: str,
    policy: nn.Module | Callable[[Any], Any],
    *,
    size: int = 20_000,
    max_steps: int | None = 500,
    seed: int = 1,
) -> Replay:
    """Let ``policy`` act greedily and record the states it decides in, episode after episode, until there are ``size``.

    Episode e is played in a single environment reset with ``seed + e``, as Gymnasium's SyncVectorEnv seeds its
    environments. Several are played side by side, yet recorded as if one had been played after the other: whole
    episodes in order, only the last one cut at ``size``. (The last bits of outputs may depend on ``size``, since
    products of matrices of another size may be summed in another order.) Modules are in evaluation mode meanwhile.

    Args:
        env_id: a Gymnasium environment with observation vectors and discrete actions.
        policy: a module or function from observations (B, n_in) to outputs (B, n_actions). It must give the same
            outputs for the same observation every time.
        size: number of states to record.
        max_steps: the longest an episode may take, in place of the environment's own limit; ``None`` keeps that one.
        seed: of the first episode.

    Raises:
        TypeError, ValueError: if an argument is wrong, or the environment or the policy is not of the kind described.
        RuntimeError: if the environment fails, or gives observations of another shape than it says; naming it, the
            episode and the step.
        FloatingPointError: if an observation or output is not finite.
    """
    check_count("size", size)
    check_count("seed", seed, minimum=0, maximum=2**32)
    limit = step_limit(find(env_id), max_steps)
    environment = environments.make_environment(env_id, limit)
    try:
        interface = environments.interface(env_id, environment)
    finally:
        environment.close()
    with one_thread(), evaluation_mode(*([policy] if isinstance(policy, nn.Module) else [])):
        outputs = batch_outputs(policy, interface.n_in, interface.n_actions)
        episodes = _play_in_step(env_id, interface, outputs, size, limit, seed)
    lengths = [len(actions) for _, actions, _ in episodes]
    surplus = sum(lengths) - size
    if surplus:
        lengths[-1] -= surplus
    observations, actions, answers = (np.concatenate(column)[:size] for column in zip(*episodes, strict=True))
    for name, values in (("observation", observations), ("output", answers)):
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0, 0])
            raise FloatingPointError(f"{env_id!r}: an {name} is not finite, in state {row}")
    return Replay(
        torch.from_numpy(observations),
        torch.from_numpy(actions),
        torch.from_numpy(answers),
        {
            "env_id": env_id,
            "seed": int(seed),
            "max_steps": limit,
            "size": int(size),
            "policy": type(policy).__name__,
            "policy_sha256": checkpoint.content_hash(policy.state_dict()) if isinstance(policy, nn.Module) else None,
            "episode_lengths": lengths,
            "last_episode_cut": surplus > 0,
            "versions": versions("snnfast", "torch", "numpy", "gymnasium"),
        },
    )


_Episode = tuple[FloatArray, npt.NDArray[np.int64], FloatArray]


class _Player:
    """One environment with the episode it is playing."""

    def __init__(self, env_id: str, environment: environments.Environment, interface: Interface) -> None:
        self.env_id, self.environment, self.interface = env_id, environment, interface

    def begin(self, number: int, seed: int) -> None:
        self.number = number
        self.observations: list[FloatArray] = []
        self.actions: list[int] = []
        self.outputs: list[FloatArray] = []
        try:
            observation, _ = self.environment.reset(seed=seed + number)
        except Exception as error:
            raise failed(self.env_id, self._where(), error) from error
        self.observation = observed(observation, (self.interface.n_in,), self.env_id, self._where())

    def step(self, output: FloatArray, action: int) -> bool:
        self.observations.append(self.observation)
        self.actions.append(action)
        self.outputs.append(output)
        try:
            observation, _, terminated, truncated, _ = self.environment.step(action + self.interface.first_action)
        except Exception as error:
            raise failed(self.env_id, self._where(), error) from error
        self.observation = observed(observation, (self.interface.n_in,), self.env_id, self._where())
        return bool(terminated or truncated)

    def _where(self) -> str:
        return f"in episode {self.number + 1}, step {len(self.actions)}"

    def episode(self) -> _Episode:
        return np.stack(self.observations), np.array(self.actions, dtype=np.int64), np.stack(self.outputs)


def _play_in_step(
    env_id: str,
    interface: Interface,
    outputs: Callable[[FloatArray], FloatArray],
    size: int,
    max_steps: int,
    seed: int,
) -> list[_Episode]:
    """The fewest episodes, from the first on, that have ``size`` states together."""
    count = min(_MOST_ENVIRONMENTS, -(-size // max_steps))
    players: list[_Player] = []
    finished: dict[int, _Episode] = {}
    begun = recorded = 0

    def begin(player: _Player) -> bool:
        """Start the next episode, unless those begun will do whatever comes: they have ``size`` states already."""
        nonlocal begun
        if recorded >= size:
            return False
        player.begin(begun, seed)
        begun += 1
        return True

    try:
        for _ in range(count):
            players.append(_Player(env_id, environments.make_environment(env_id, max_steps), interface))
        playing = [player for player in players if begin(player)]
        while playing:
            # A copy: a policy may give the same memory every time.
            answers = outputs(np.stack([player.observation for player in playing])).copy()
            going_on = []
            for player, output, action in zip(playing, answers, answers.argmax(axis=1).tolist(), strict=True):
                ended = player.step(output, action)
                recorded += 1
                if ended:
                    finished[player.number] = player.episode()
                if not ended or begin(player):
                    going_on.append(player)
            playing = going_on
    finally:
        for player in players:
            player.environment.close()
    chosen: list[_Episode] = []
    total = 0
    for number in range(begun):
        if total < size:
            chosen.append(finished[number])
            total += len(finished[number][1])
    return chosen
