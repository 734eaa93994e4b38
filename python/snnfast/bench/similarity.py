# SPDX-License-Identifier: Apache-2.0
"""How often converted policies decide like the original, over several trained policies.

One policy says little: the spread between training seeds is larger than the difference between many methods. So
policies are trained seed after seed until enough of them hold the task greedily (each episode to its last step); then
each is converted, and the spiking network plays while the original is asked about the same states.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from snnfast import checkpoint
from snnfast._version import __version__
from snnfast.bench.machine import provenance
from snnfast.conversion import convert
from snnfast.evaluation import evaluate
from snnfast.learning import load_policy, make_policy, record_replay, save_policy, train_policy_gradient


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is measured. The defaults are those of the 2020 thesis.

    Attributes:
        env_id, sizes: the environment and the policy.
        train_max_steps, max_episodes: limits of an episode and of training.
        episodes, max_steps: evaluation; 100 x 500 gives 50,000 decisions.
        replay_size: states that the activation scales come from.
    """

    env_id: str = "CartPole-v1"
    sizes: tuple[int, ...] = (4, 16, 16, 2)
    train_max_steps: int = 200
    max_episodes: int = 3000
    episodes: int = 100
    max_steps: int = 500
    replay_size: int = 20_000

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


def run(
    preset: str,
    *,
    seeds: int = 10,
    first_seed: int = 1,
    cache: Path | None = None,
    protocol: Protocol | None = None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Train (or read) policies until ``seeds`` of them hold, convert each, and compare.

    Args:
        preset: of the conversion.
        seeds: how many policies that hold are wanted.
        first_seed: seeds are tried from this one on.
        cache: folder for trained policies; :func:`default_cache` by default.
        protocol: what is measured.
        say: prints a line.

    Returns:
        Per seed and over the seeds: similarity, returns of both, spikes; seeds that failed; machine and versions.

    Raises:
        RuntimeError: if fewer than one policy in five holds.
    """
    protocol = protocol or Protocol()
    folder = _cache_folder(default_cache() if cache is None else cache, protocol)
    say(f"{protocol.env_id}, preset {preset}: {seeds} policies, {protocol.episodes} x {protocol.max_steps} steps each")
    say(f"trained policies are kept in {folder}")
    say("")
    say(_HEADER)
    rows: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    seed = first_seed
    while len(rows) < seeds:
        if len(failed) > 4 * max(5, len(rows)):
            raise RuntimeError(
                f"only {len(rows)} of {len(rows) + len(failed)} policies hold: training does not work here"
            )
        policy, training = _trained(protocol, seed, folder)
        row = _measure(protocol, seed, policy, preset, training)
        if row is None:
            failed.append({"seed": seed, **training})
            say(f"{seed:>5}  does not hold {protocol.max_steps} +- 0 greedily ({_reason(training)}): not used")
        else:
            rows.append(row)
            say(_line(row))
        seed += 1
    result = {
        "benchmark": "similarity",
        "preset": preset,
        "protocol": dataclasses.asdict(protocol),
        "seeds": rows,
        "failed_seeds": failed,
        "similarity": _summary([row["similarity"] for row in rows]),
        "relative_return": _summary([row["relative_return"] for row in rows]),
        "spikes_per_decision": _summary([row["spikes_per_decision"] for row in rows]),
        **provenance(),
    }
    say(summary(result))
    return result


_HEADER = (
    f"{'seed':>5} {'similarity':>11} {'return':>8} {'original':>9} {'relative':>9} {'spikes':>8} {'trained for':>14}"
)


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['seed']:>5} {100 * row['similarity']:>9.3f} % {row['mean_return']:>8.1f} {row['original_return']:>9.1f} "
        f"{row['relative_return']:>9.4f} {row['spikes_per_decision']:>8.1f} {row['training']['episodes']:>5} episodes"
    )


def summary(result: dict[str, Any]) -> str:
    """The last lines of the table: mean, smallest and largest over the seeds."""
    lines = []
    for name in ("mean", "min", "max"):
        lines.append(
            f"{name:>5} {100 * result['similarity'][name]:>9.3f} % {'':>8} {'':>9} "
            f"{result['relative_return'][name]:>9.4f} {result['spikes_per_decision'][name]:>8.1f}"
        )
    tried = len(result["seeds"]) + len(result["failed_seeds"])
    lines.append("")
    lines.append(
        f"similarity: share of decisions equal to the original's on the same states; relative: return over the "
        f"original's.\n{len(result['seeds'])} of {tried} trained policies hold and were used."
    )
    return "\n".join(lines)


def _summary(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "min": min(values), "max": max(values)}


def _reason(training: dict[str, Any]) -> str:
    if training["solved_at"] is None:
        return f"not solved in {training['episodes']} episodes"
    return f"mean greedy return {training['greedy_return']:g}"


def _measure(
    protocol: Protocol, seed: int, policy: nn.Sequential, preset: str, training: dict[str, Any]
) -> dict[str, Any] | None:
    """One policy's figures, or ``None`` if it does not hold."""
    # Other start states than the replay's: the network is compared on states that its scales have not seen.
    rules: dict[str, Any] = {"episodes": protocol.episodes, "max_steps": protocol.max_steps, "seed": seed + 10_000}
    original = evaluate(protocol.env_id, policy, **rules)
    if (original.mean_return, original.std_return) != (float(protocol.max_steps), 0.0):
        return None
    replay = record_replay(protocol.env_id, policy, size=protocol.replay_size, max_steps=protocol.max_steps, seed=seed)
    report = evaluate(protocol.env_id, convert(policy, replay, preset=preset), compare_against=policy, **rules)
    assert report.similarity is not None
    return {
        "seed": seed,
        "similarity": report.similarity,
        "similarity_interval": list(report.similarity_interval or ()),
        "decisions": report.decisions,
        "mean_return": report.mean_return,
        "std_return": report.std_return,
        "original_return": original.mean_return,
        "original_std_return": original.std_return,
        "relative_return": report.mean_return / original.mean_return,
        "spikes_per_decision": report.spikes_per_decision,
        "synaptic_operations_per_decision": report.synaptic_operations_per_decision,
        "evaluation_seconds": report.seconds,
        "training": training,
    }


def _cache_folder(cache: Path, protocol: Protocol) -> Path:
    """One folder per way of training, so that policies of another version or setting are never taken for these."""
    settings = json.dumps(protocol.training(), sort_keys=True)
    folder = cache / f"policies-{hashlib.sha256(settings.encode()).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.atomic_write(folder / "settings.json", (settings + "\n").encode())
    return folder


def _trained(protocol: Protocol, seed: int, folder: Path) -> tuple[nn.Sequential, dict[str, Any]]:
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
