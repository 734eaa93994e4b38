# SPDX-License-Identifier: Apache-2.0
"""``snnfast evaluate``: let an agent play, count, and compare it with another."""

from __future__ import annotations

import argparse
from pathlib import Path

from snnfast import plots
from snnfast.cli.common import (
    Output,
    Subparsers,
    add_command,
    add_imports,
    check_distinct,
    check_plot,
    check_target,
    count,
    count_or_none,
    need_env,
    number,
    read_agent,
    steps_or_none,
)
from snnfast.evaluation import evaluate


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "evaluate",
        _evaluate,
        summary="play episodes: returns, similarity, spikes",
        description=(
            "Let a spiking network or a policy play whole episodes, greedily. With --compare a second agent is asked\n"
            "about every state: the similarity is the share of decisions in which both choose the same action."
        ),
        example="snnfast evaluate net.safetensors --compare cartpole",
    )
    parser.add_argument("agent", help="file of a spiking network or a policy, or the word 'cartpole'")
    parser.add_argument("--env", metavar="ID", help="environment (default: the one that the file names)")
    add_imports(parser)
    parser.add_argument("--compare", metavar="AGENT", help="a second file, or 'cartpole', to compare decisions with")
    parser.add_argument("--episodes", type=count, default=100, metavar="N", help="episodes to play (default: 100)")
    parser.add_argument(
        "--max-steps",
        type=steps_or_none,
        default=500,
        metavar="N",
        help="limit of an episode, in place of the environment's own, which may be shorter or longer; 'none' keeps "
        "that one (default: 500)",
    )
    parser.add_argument(
        "--epsilon", type=number(0, 1), default=0.0, metavar="X", help="share of random actions (default: 0)"
    )
    parser.add_argument(
        "--max-noops", type=count_or_none, default=0, metavar="N", help="random number of first actions without effect"
    )
    parser.add_argument("--frame-skip", type=count, default=1, metavar="N", help="repeat every action N times")
    parser.add_argument(
        "--history", type=count, default=1, metavar="N", help="observations that the agent sees at once"
    )
    parser.add_argument("--num-envs", type=count, metavar="N", help="episodes side by side")
    parser.add_argument("--render", action="store_true", help="show the episodes in a window")
    parser.add_argument("--gif", metavar="FILE", type=Path, help="write a film of one more episode")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="write a picture of returns and running similarity")


def _evaluate(arguments: argparse.Namespace, out: Output) -> int:
    for path in (arguments.gif, arguments.plot):
        if path is not None:
            check_target(path, overwrite=True)
    check_plot(arguments.plot)
    check_distinct(
        {"--gif": arguments.gif, "--plot": arguments.plot, "--json": out.json_path},
        {"the agent": arguments.agent, "--compare": arguments.compare},
    )
    agent, known = read_agent(arguments.agent)
    other = read_agent(arguments.compare)[0] if arguments.compare is not None else None
    report = evaluate(
        need_env(arguments.env, known, arguments.agent),
        agent,
        compare_against=other,
        episodes=arguments.episodes,
        max_steps=arguments.max_steps,
        seed=1 if arguments.seed is None else arguments.seed,
        epsilon=arguments.epsilon,
        render="human" if arguments.render else None,
        gif=arguments.gif,
        history=arguments.history,
        frame_skip=arguments.frame_skip,
        max_noops=arguments.max_noops,
        num_envs=arguments.num_envs,
    )
    out.say(report.table())
    if arguments.plot is not None:
        plots.evaluation_plot({Path(arguments.agent).stem: report}, arguments.plot)
        out.say(f"wrote {arguments.plot}")
    if arguments.gif is not None:
        out.say(f"wrote {arguments.gif}")
    out.write(report.as_dict())
    return 0
