# SPDX-License-Identifier: Apache-2.0
"""Trained policies to measure conversions on: trained seed after seed, kept, and used if they hold the task greedily.

One policy says little: the spread between training seeds is larger than the difference between many methods. A policy
that does not hold (each episode to its last step) is not used: its own falls would be counted as the conversion's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import nn

from snnfast import checkpoint
from snnfast._version import __version__
from snnfast.evaluation import EvaluationReport, evaluate
from snnfast.learning import Replay, load_policy, make_policy, record_replay, save_policy, train_policy_gradient


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is measured. The defaults are those of the 2020 thesis.

    Attributes:
        env_id, sizes: the environment and the policy.
        train_max_steps, max_episodes: limits of an episode and of training.
        episodes, max_steps: evaluation; 100 x 500 gives 50,000 decisions.
        replay_size: states that the activation scales come from.
        held_out_size: states that predictions are counted on; as many as ``replay_size`` if it is None.
    """

    env_id: str = "CartPole-v1"
    sizes: tuple[int, ...] = (4, 16, 16, 2)
    train_max_steps: int = 200
    max_episodes: int = 3000
    episodes: int = 100
    max_steps: int = 500
    replay_size: int = 20_000
    held_out_size: int | None = None

    def training(self) -> dict[str, Any]:
        """The part of it that determines a trained policy."""
        return {
            "env_id": self.env_id,
            "sizes": list(self.sizes),
            "max_steps": self.train_max_steps,
            "max_episodes": self.max_episodes,
            "check_max_steps": self.max_steps,
            "version": __version__,
        }


def default_cache() -> Path:
    """Where trained policies are kept: below ``$XDG_CACHE_HOME``, or ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base and os.path.isabs(base) else Path.home() / ".cache") / "snnfast"


@dataclasses.dataclass(frozen=True)
class Holding:
    """A policy that holds, and what its conversions are made from and measured with.

    Attributes:
        seed: it was trained with.
        policy, training: the policy, and how its training went.
        replay: states that it met, recorded from starts that the evaluation does not have.
        held_out: others, from yet other starts, which no conversion has seen: for predictions.
        original: its own evaluation.
        rules: arguments of :func:`snnfast.evaluate`; the same for its conversions.
    """

    seed: int
    policy: nn.Sequential
    training: dict[str, Any]
    replay: Replay
    held_out: Replay
    original: EvaluationReport
    rules: dict[str, Any]


def holding(
    protocol: Protocol,
    *,
    seeds: int,
    first_seed: int,
    cache: Path | None,
    failed: list[dict[str, Any]],
    say: Callable[[str], None],
) -> Iterator[Holding]:
    """Train (or read) policies, seed after seed, until ``seeds`` of them hold.

    Args:
        protocol: how they are trained and evaluated.
        seeds: how many policies that hold are wanted.
        first_seed: seeds are tried from this one on.
        cache: folder for trained policies; :func:`default_cache` by default.
        failed: is told of those that do not hold.
        say: prints a line.

    Raises:
        RuntimeError: if fewer than one policy in five holds.
    """
    folder = cache_folder(default_cache() if cache is None else cache, protocol)
    held, seed = 0, first_seed
    while held < seeds:
        if len(failed) > 4 * max(5, held):
            raise RuntimeError(f"only {held} of {held + len(failed)} policies hold: training does not work here")
        policy, training = trained(protocol, seed, folder)
        found = _hold(protocol, seed, policy, training)
        if found is None:
            failed.append({"seed": seed, **training})
            say(f"{seed:>5}  does not hold {protocol.max_steps} +- 0 greedily ({_reason(training)}): not used")
        else:
            held += 1
            yield found
        seed += 1


def _hold(protocol: Protocol, seed: int, policy: nn.Sequential, training: dict[str, Any]) -> Holding | None:
    """The policy with everything that is needed to measure conversions of it, or ``None`` if it does not hold."""
    # Other start states than the replay's: a network is compared on states that its scales have not seen.
    rules: dict[str, Any] = {"episodes": protocol.episodes, "max_steps": protocol.max_steps, "seed": seed + 10_000}
    original = evaluate(protocol.env_id, policy, **rules)
    if (original.mean_return, original.std_return) != (float(protocol.max_steps), 0.0):
        return None
    sizes = {seed: protocol.replay_size, seed + 20_000: protocol.held_out_size or protocol.replay_size}
    replay, held_out = (
        record_replay(protocol.env_id, policy, size=size, max_steps=protocol.max_steps, seed=number)
        for number, size in sizes.items()
    )
    return Holding(seed, policy, training, replay, held_out, original, rules)


def _reason(training: dict[str, Any]) -> str:
    if training["solved_at"] is None:
        return f"not solved in {training['episodes']} episodes"
    return f"mean greedy return {training['greedy_return']:g}"


def cache_folder(cache: Path, protocol: Protocol) -> Path:
    """One folder per way of training, so that policies of another version or setting are never taken for these."""
    settings = json.dumps(protocol.training(), sort_keys=True)
    folder = cache / f"policies-{hashlib.sha256(settings.encode()).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.atomic_write(folder / "settings.json", (settings + "\n").encode())
    return folder


def trained(protocol: Protocol, seed: int, folder: Path) -> tuple[nn.Sequential, dict[str, Any]]:
    """The policy of a seed, from the cache or trained now, and how its training went."""
    path = folder / f"seed-{seed}.safetensors"
    try:
        _, metadata = checkpoint.load(path, "policy")
        return load_policy(path), metadata["training"]
    except (FileNotFoundError, checkpoint.CheckpointError, KeyError):
        pass  # not there, or not usable: train
    policy = make_policy(protocol.sizes, seed=seed)
    began = time.perf_counter()
    result = train_policy_gradient(
        protocol.env_id,
        policy,
        seed=seed,
        max_steps=protocol.train_max_steps,
        max_episodes=protocol.max_episodes,
        check_max_steps=protocol.max_steps,
    )
    training = {
        "episodes": result.episodes,
        "solved_at": result.solved_at,
        "extra_episodes": result.extra_episodes,
        "greedy_return_at_solved": result.greedy_return_at_solved,
        "greedy_return": result.greedy_return,
        "seconds": time.perf_counter() - began,
    }
    save_policy(policy, path, {"env_id": protocol.env_id, "seed": seed, "training": training})
    return policy, training
