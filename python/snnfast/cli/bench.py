# SPDX-License-Identifier: Apache-2.0
"""``snnfast bench``: measured figures, each checked before it is timed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from snnfast.cli.common import (
    Output,
    Subparsers,
    UsageError,
    add_command,
    check_distinct,
    check_plot,
    check_target,
    count,
)
from snnfast.conversion import DEFAULT_PRESET, PRESETS

_WHAT = ("network", "methods", "conversion", "choice", "similarity", "evaluation", "contract", "all")
_WORKLOADS = ("tiny", "medium", "large")


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "bench",
        _bench,
        summary="measure speed and similarity",
        description=(
            "network     the compiled network against torch, the original ReLU network and other libraries\n"
            "methods     speed of every method of conversion, beside plain neurons\n"
            "conversion  every method over several trained policies: similarity, steps, spikes, against targets\n"
            "choice      whether networks chosen for a target similarity keep their word when they play\n"
            "similarity  decisions of converted policies against the originals', over several trained policies\n"
            "evaluation  a whole evaluation against the one-decision-at-a-time way of the 2020 thesis\n"
            "contract    is every difference between the fast and the exact contract explained by rounding?\n"
            "all         all but similarity\n\n"
            "network and methods time the same networks whatever --seed says. Ended before its time, all writes what\n"
            "it has measured."
        ),
        example="snnfast bench similarity --preset rate --seeds 10 --json similarity.json",
    )
    parser.add_argument("what", choices=_WHAT, help="what to measure")
    parser.add_argument(
        "--preset", choices=tuple(PRESETS), default=DEFAULT_PRESET, help=f"of similarity (default: {DEFAULT_PRESET})"
    )
    parser.add_argument(
        "--seeds",
        type=count,
        default=10,
        metavar="N",
        help="of conversion, choice and similarity: policies that hold (default: 10)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="of conversion, choice and similarity: folder for trained policies (default: the user's cache)",
    )
    parser.add_argument(
        "--only", metavar="NAME", action="append", default=[], help="of conversion: only this row (may be repeated)"
    )
    parser.add_argument(
        "--decisions", type=count, default=50_000, metavar="N", help="of contract: per network (default: 50000)"
    )
    parser.add_argument(
        "--method",
        choices=("auto", "slices", "prefix_sums"),
        default="auto",
        help="of contract: judge a method wherever it is possible, not only where it is quicker",
    )
    parser.add_argument(
        "--workload",
        choices=tuple(_WORKLOADS),
        action="append",
        help="of network: only this one (may be repeated; with --quick, tiny only)",
    )
    parser.add_argument(
        "--peers",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="of network: also the other libraries for spiking networks that are installed (default: yes)",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="of network: draw the figures to a .png, .pdf or .svg"
    )
    parser.add_argument("--quick", action="store_true", help="see that it works; no figures to quote")


def _bench(arguments: argparse.Namespace, out: Output) -> int:
    everything = tuple(name for name in _WHAT if name not in ("similarity", "all"))
    what = everything if arguments.what == "all" else (arguments.what,)
    if arguments.plot is not None:
        if "network" not in what:
            raise UsageError(f"--plot draws the figures of `bench network`, not of `bench {arguments.what}`")
        check_plot(arguments.plot)
        check_target(arguments.plot, overwrite=True)
        check_distinct({"--json": arguments.json, "--plot": arguments.plot})
    if "conversion" in what:
        from snnfast.bench import conversion

        conversion.recipes_of(arguments.only)  # refuses what there is not, before anything is measured
    results: dict[str, Any] = {}
    try:
        for name in what:
            if len(what) > 1:
                out.say(f"\n== {name}")
            results[name] = _one(name, arguments, out)
            if name == "network" and arguments.plot is not None:
                from snnfast import plots

                plots.benchmark_plot(results[name]["cases"], arguments.plot)
                out.say(f"wrote {arguments.plot}")
    finally:  # what was measured is worth keeping, whatever came after it
        if results:
            out.write(results if len(what) > 1 else results[what[0]])
    return int(any(result.get("unexplained", 0) > 0 for result in results.values()))


def _one(name: str, arguments: argparse.Namespace, out: Output) -> dict[str, Any]:
    seed = 1 if arguments.seed is None else arguments.seed
    if name == "network":
        from snnfast.bench import network

        return network.run(quick=arguments.quick, peers=arguments.peers, workloads=arguments.workload, say=out.say)
    if name == "methods":
        from snnfast.bench import methods

        return methods.run(quick=arguments.quick, say=out.say)
    if name == "evaluation":
        from snnfast.bench import evaluation

        smaller: dict[str, Any] = {"repeats": 1, "slice_size": 20} if arguments.quick else {}
        return evaluation.run(seed=seed, say=out.say, **smaller)
    if name == "contract":
        from snnfast.bench import contract

        return contract.run(
            decisions=arguments.decisions, method=arguments.method, quick=arguments.quick, seed=seed, say=out.say
        )
    if name == "conversion":
        from snnfast.bench import conversion

        return conversion.run(
            seeds=1 if arguments.quick else arguments.seeds,
            first_seed=seed,
            only=tuple(arguments.only),
            cache=arguments.cache,
            say=out.say,
        )
    if name == "choice":
        from snnfast.bench import choice

        return choice.run(
            seeds=1 if arguments.quick else arguments.seeds, first_seed=seed, cache=arguments.cache, say=out.say
        )
    from snnfast.bench import similarity

    return similarity.run(
        arguments.preset,
        seeds=1 if arguments.quick else arguments.seeds,
        first_seed=seed,
        cache=arguments.cache,
        say=out.say,
    )
