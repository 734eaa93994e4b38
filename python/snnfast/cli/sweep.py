# SPDX-License-Identifier: Apache-2.0
"""``snnfast sweep``: many conversions of one policy side by side, as a table, as JSON and as a page."""

from __future__ import annotations

import argparse
from pathlib import Path

from snnfast.cli.common import (
    Output,
    Subparsers,
    add_command,
    add_imports,
    check_distinct,
    count,
    need_env,
    read_policy,
    steps_or_none,
)
from snnfast.cli.pages import check_page, command_line, held_out_states, where
from snnfast.conversion import PRESETS
from snnfast.learning import Replay, record_replay
from snnfast.report import write_sweep_report
from snnfast.sweep import METHODS, TIMESTEPS, sweep


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "sweep",
        _sweep,
        summary="convert with many methods, steps and percentiles, and compare",
        description=(
            "Convert a policy with every method, number of steps and percentile, and count on held-out states how\n"
            "often each network decides like the original. With --out a page with pictures is written."
        ),
        example="snnfast sweep cartpole --methods rate radix --percentiles 99 99.9 --json sweep.json --out sweep",
    )
    parser.add_argument("policy", help="policy file, or the word 'cartpole' for the one that comes with snnfast")
    parser.add_argument(
        "--methods", nargs="+", choices=tuple(PRESETS), metavar="NAME", default=list(METHODS), help=_methods()
    )
    usual = "; ".join(f"{name}: {' '.join(map(str, steps))}" for name, steps in TIMESTEPS.items())
    parser.add_argument(
        "--timesteps",
        nargs="+",
        type=count,
        metavar="T",
        help=f"steps to try (default: by kind of method, {usual}); fewest-spikes takes the steps that it needs",
    )
    parser.add_argument(
        "--percentiles",
        nargs="+",
        type=float,
        metavar="P",
        help="of the activation scales, in percent (default: each method's own)",
    )
    parser.add_argument("--headroom", type=float, metavar="X", help="times as wide ranges as on the replay")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the page and its pictures")
    parser.add_argument("--overwrite", action="store_true", help="replace the page in DIR if there is one")
    parser.add_argument("--evaluate", type=count, metavar="N", help="let every network play N episodes, too")
    parser.add_argument(
        "--max-steps",
        type=steps_or_none,
        default=500,
        metavar="N",
        help="limit of an episode of --evaluate, in place of the environment's own, which may be shorter or longer; "
        "'none' keeps that one (default: 500)",
    )
    parser.add_argument("--progress", action="store_true", help="show progress even where there is no terminal")
    source = parser.add_argument_group("states")
    source.add_argument("--replay", metavar="FILE", help="a replay memory; without it one is recorded now")
    source.add_argument("--held-out", metavar="FILE", help="another one, to compare the decisions on")
    source.add_argument("--env", metavar="ID", help="environment (default: the one that the files name)")
    add_imports(source)
    source.add_argument("--size", type=count, default=20_000, metavar="N", help="states to record (default: 20000)")
    source.add_argument(
        "--held-out-size", type=count, default=10_000, metavar="N", help="held-out states to record (default: 10000)"
    )


def _methods() -> str:
    return f"presets: any of {', '.join(PRESETS)} (default: {' '.join(METHODS)})"


def _sweep(arguments: argparse.Namespace, out: Output) -> int:
    check_distinct(
        {"--json": out.json_path},
        {"the policy": arguments.policy, "--replay": arguments.replay, "--held-out": arguments.held_out},
        ("--out", arguments.out),
    )
    if arguments.out is not None:
        check_page("--out", arguments.out, overwrite=arguments.overwrite)
    seed = 1 if arguments.seed is None else arguments.seed
    policy, known = read_policy(arguments.policy)
    if arguments.replay is not None:
        replay = Replay.load(arguments.replay)
    else:
        replay = record_replay(need_env(arguments.env, known, arguments.policy), policy, size=arguments.size, seed=seed)
    env_id: str | None = arguments.env or known or replay.metadata.get("env_id")
    held_out = held_out_states(policy, env_id, arguments.held_out, arguments.held_out_size, seed)
    out.say(f"{len(replay):,} states to convert from, {len(held_out):,} held out, {where(held_out)}")
    out.say()
    result = sweep(
        policy,
        replay,
        methods=arguments.methods,
        timesteps=arguments.timesteps,
        percentiles=arguments.percentiles,
        held_out=held_out,
        env_id=env_id,
        episodes=arguments.evaluate or 0,
        max_steps=arguments.max_steps,
        seed=seed,
        progress=True if arguments.progress else None,
        **({} if arguments.headroom is None else {"headroom": arguments.headroom}),
    )
    out.say(result.table())
    page = None
    if arguments.out is not None:
        page = write_sweep_report(result, arguments.out, command=command_line(arguments), held_out=where(held_out))
        out.say()
        out.say(f"wrote {page}")
    out.write({**result.as_dict(), "page": None if page is None else str(page)})
    return 0
