# SPDX-License-Identifier: Apache-2.0
"""``snnfast convert``: a trained policy becomes a spiking network."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

import torch

from snnfast.cli.common import (
    Output,
    Subparsers,
    UsageError,
    add_command,
    check_distinct,
    check_target,
    count,
    count_or_none,
    describe_replay,
    need_env,
    read_policy,
)
from snnfast.cli.pages import check_page, write_conversion_page
from snnfast.conversion import DEFAULT_PRESET, PRESETS, Readout, ScalingMethod, convert
from snnfast.learning import Replay, record_replay
from snnfast.spec import Order


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "convert",
        _convert,
        summary="turn a trained policy into a spiking network",
        description=(
            "Turn a trained policy (Linear and ReLU layers) into a network of integrate-and-fire neurons.\n"
            "Settings come from the preset; options given beside it override them."
        ),
        example="snnfast convert cartpole --preset rate --out net.safetensors",
    )
    parser.add_argument("policy", help="policy file, or the word 'cartpole' for the one that comes with snnfast")
    parser.add_argument("--out", required=True, metavar="FILE", type=Path, help="file for the spiking network")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE, and the page in DIR, if they exist")
    parser.add_argument("--report", metavar="DIR", type=Path, help="folder for a page about the network, with pictures")
    parser.add_argument(
        "--report-episodes",
        type=count_or_none,
        default=100,
        metavar="N",
        help="episodes to play for it (default: 100; 0: none)",
    )
    source = parser.add_argument_group("states to take activation scales from")
    source.add_argument("--replay", metavar="FILE", help="a replay memory; without it one is recorded now")
    source.add_argument("--env", metavar="ID", help="environment to record in (default: the one in the policy file)")
    source.add_argument("--size", type=count, metavar="N", help="states to record (default: 20000)")
    settings = parser.add_argument_group("conversion")
    settings.add_argument("--preset", choices=tuple(PRESETS), help=f"named settings (default: {DEFAULT_PRESET})")
    settings.add_argument("--scaling", choices=get_args(ScalingMethod), help="where activation scales come from")
    settings.add_argument("--percentile", type=float, metavar="P", help="of robust and neuron scaling, in percent")
    settings.add_argument(
        "--shift",
        action=argparse.BooleanOptionalAction,
        help="begin each neuron's range at its lower percentile (neuron scaling)",
    )
    settings.add_argument("--timesteps", type=count, metavar="T", help="time steps per decision")
    settings.add_argument("--order", choices=get_args(Order), help="order of the neuron's update")
    settings.add_argument("--initial-potential", type=float, metavar="X", help="of hidden neurons, in thresholds")
    settings.add_argument("--readout", choices=get_args(Readout), help="membrane potential to read")
    settings.add_argument("--split-inputs", action="store_true", help="feed positive and negative inputs separately")
    settings.add_argument(
        "--weight-grid",
        type=int,
        metavar="BITS",
        help="round weights to 2 to 16 bits per neuron, so that the quickest methods are exact (default: leave them)",
    )


def _convert(arguments: argparse.Namespace, out: Output) -> int:
    check_target(arguments.out, overwrite=arguments.overwrite)
    if arguments.report is not None:
        check_page("--report", arguments.report, overwrite=arguments.overwrite)
    check_distinct(
        {"--out": arguments.out, "--json": out.json_path},
        {"the policy": arguments.policy, "--replay": arguments.replay},
    )
    if arguments.replay is not None and (arguments.env is not None or arguments.size is not None):
        raise UsageError("--env and --size are for recording a replay, which --replay makes unnecessary")
    policy, known = read_policy(arguments.policy)
    replay: Replay | None = None
    if arguments.replay is not None:
        replay = Replay.load(arguments.replay)
        out.say(f"replay: {describe_replay(replay)} from {arguments.replay}")
    elif arguments.scaling != "model":
        env_id = need_env(arguments.env, known, arguments.policy)
        seed = 1 if arguments.seed is None else arguments.seed
        replay = record_replay(env_id, policy, size=arguments.size or 20_000, seed=seed)
        out.say(f"replay: {describe_replay(replay)}, recorded now (seed {seed})")
    given: dict[str, Any] = {
        name: getattr(arguments, name)
        for name in (
            "preset",
            "scaling",
            "percentile",
            "shift",
            "timesteps",
            "order",
            "initial_potential",
            "readout",
            "split_inputs",
            "weight_grid",
        )
    }
    network = convert(policy, replay, **given)
    network.save(arguments.out)
    settings = network.conversion["settings"]
    out.say(f"preset {network.conversion['preset']}: " + ", ".join(f"{k} {_word(v)}" for k, v in settings.items()))
    for number, scale in enumerate(network.conversion["scales"], start=1):
        values = scale if isinstance(scale, list) else [scale]
        span = f"{values[0]:.4g}" if len(values) == 1 else f"{min(values):.4g} to {max(values):.4g}, one per neuron"
        out.say(f"  layer {number}: {network.sizes[number]} neurons, activation scale {span}")
    grid = network.conversion["weight_grid"]
    if grid is not None:
        out.say(f"  weights on a grid of {grid['bits']} bits: moved by {max(grid['largest_change']):.2g} at most")
    if replay is not None:
        same = _same_decisions(network, replay)
        out.say(f"  {same:.2%} of the replay's decisions are the original's; `snnfast evaluate` plays and compares")
    out.say(f"wrote {arguments.out}")
    if arguments.report is not None:
        plays_in = arguments.env or known or (None if replay is None else replay.metadata.get("env_id"))
        out.say(f"wrote {write_conversion_page(network, policy, replay, plays_in, arguments, out)}")
    out.write({"network": str(arguments.out), "sizes": list(network.sizes), "conversion": network.conversion})
    return 0


def _same_decisions(network: Any, replay: Any) -> float:
    outputs = network(torch.as_tensor(replay.observations))
    return float((outputs.argmax(1) == torch.as_tensor(replay.outputs).argmax(1)).double().mean())


def _word(value: object) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
