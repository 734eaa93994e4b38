# SPDX-License-Identifier: Apache-2.0
"""What the commands that write a page share: held-out states, the folder of the page, and the page of a conversion."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import shlex
from pathlib import Path

from torch import nn

from snnfast.cli.common import Output, UsageError, plots_available
from snnfast.conversion import PRESETS
from snnfast.conversion.diagnosis import diagnose
from snnfast.conversion.prediction import predict_similarity
from snnfast.evaluation import evaluate
from snnfast.learning import Replay, record_replay
from snnfast.network import SpikingNetwork
from snnfast.report import PAGE, write_report
from snnfast.runs import check_writable
from snnfast.sweep import METHODS, TIMESTEPS, SweepResult, sweep

#: Seeds of held-out episodes are that far from those of the replay, which has one seed per episode.
_APART = 1_000_000_007
#: Held-out states for the page of a conversion.
HELD_OUT_SIZE = 10_000


def held_out_states(policy: nn.Module, env_id: str | None, file: str | None, size: int, seed: int) -> Replay:
    """States that no conversion sees: those in ``file``, or new ones, from episodes with seeds of their own.

    Raises:
        UsageError: if there is neither a file nor a known environment.
    """
    if file is not None:
        return Replay.load(file)
    if env_id is None:
        raise UsageError("it is not known where to find held-out states: add --env, for example --env CartPole-v1")
    return record_replay(env_id, policy, size=size, seed=(seed + _APART) % 2**32)


def where(replay: Replay) -> str:
    """Where states come from, in words."""
    return (
        f"from {replay.metadata.get('env_id', 'an unknown environment')}, seed {replay.metadata.get('seed', 'unknown')}"
    )


def command_line(arguments: argparse.Namespace) -> str:
    """The command as it was called."""
    return shlex.join(["snnfast", *arguments.argv])


def check_page(option: str, folder: Path, *, overwrite: bool) -> None:
    """Raise unless a page can be written into ``folder``, before anything is computed.

    Raises:
        UsageError: if there is a page already, or a file of the folder's name.
        ImportError: if matplotlib is not installed.
        OSError: if the folder can neither be written to nor made.
    """
    if not plots_available():
        raise ImportError(f'{option} needs matplotlib for its pictures: pip install "snnfast[plot]"')
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{option} {folder} is a file; a folder is needed")
    if (folder / PAGE).exists() and not overwrite:
        raise UsageError(f"{folder / PAGE} exists already; choose another folder, or add --overwrite to replace it")
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.stat(folder)  # a name that is too long, a link that leads to itself
    if folder.is_symlink() and not folder.exists():
        raise FileNotFoundError(2, f"{option} cannot be made: there is no such folder", os.path.realpath(folder))
    existing = folder
    while not existing.exists():
        existing = existing.parent
    check_writable(existing)


def write_conversion_page(
    network: SpikingNetwork,
    policy: nn.Module,
    replay: Replay | None,
    env_id: str | None,
    arguments: argparse.Namespace,
    out: Output,
) -> Path:
    """Measure what the page of a conversion shows, and write it.

    Args:
        network: the converted network.
        policy: what it was converted from.
        replay: the states that it was made from; without them other methods are not shown beside it.
        env_id: where to find held-out states, and where to play.
        arguments: of the command line: the folder ``report``, ``report_episodes`` to play, and the seed.
        out: where to say what is going on.

    Raises:
        UsageError: if it is not known where to find held-out states.
    """
    seed = 1 if arguments.seed is None else arguments.seed
    held_out = held_out_states(policy, env_id, None, HELD_OUT_SIZE, seed)
    out.say(f"  comparing on {len(held_out):,} held-out states, {where(held_out)}")
    episodes, played, original = arguments.report_episodes, None, None
    if episodes and env_id is not None:
        played = evaluate(env_id, network, compare_against=policy, episodes=episodes, seed=seed)
        original = evaluate(env_id, policy, episodes=episodes, seed=seed)
    return write_report(
        network,
        policy,
        held_out,
        arguments.report,
        prediction=predict_similarity(network, policy, held_out, seed=seed),
        diagnosis=diagnose(network, policy, held_out),
        evaluation=played,
        original=original,
        sweep=None if replay is None else _beside(network, policy, replay, held_out, seed),
        command=command_line(arguments),
        seed=seed,
    )


def _beside(network: SpikingNetwork, policy: nn.Module, replay: Replay, held_out: Replay, seed: int) -> SweepResult:
    """The network's own settings with other numbers of steps, and the usual methods."""
    preset, settings = network.conversion["preset"], network.conversion["settings"]
    usual = dataclasses.asdict(PRESETS[preset])
    own = {
        name: value
        for name, value in settings.items()
        if value != usual.get(name) and name not in ("timesteps", "percentile")
    }
    if "early_exit" in own and own["early_exit"] is None:
        own["early_exit"] = "none"
    grid = network.conversion.get("weight_grid")
    if grid is not None:
        own["weight_grid"] = grid["bits"]
    ours = sweep(
        policy,
        replay,
        methods=[preset],
        timesteps=sorted({*TIMESTEPS[settings["method"]], settings["timesteps"]}),
        percentiles=None if settings["scaling"] in ("model", "data") else [settings["percentile"]],
        held_out=held_out,
        seed=seed,
        progress=None,
        split_inputs=network.spec.split_inputs,
        **own,
    )
    others = sweep(
        policy, replay, methods=[m for m in METHODS if m != preset], held_out=held_out, seed=seed, progress=None
    )
    return dataclasses.replace(ours, rows=(*ours.rows, *others.rows), skipped=(*ours.skipped, *others.skipped))
