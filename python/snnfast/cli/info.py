# SPDX-License-Identifier: Apache-2.0
"""``snnfast info``: what was built and what runs here."""

from __future__ import annotations

import argparse

from snnfast.cli.common import Output, Subparsers, add_command
from snnfast.info import format_info, info


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    add_command(
        subparsers,
        "info",
        _info,
        summary="versions, instruction sets, threads, backends",
        description="Say what was built, what runs on this machine, and why something does not. --seed has no effect.",
        example="snnfast info --json -",
    )


def _info(arguments: argparse.Namespace, out: Output) -> int:
    facts = info()
    if out.json_path != "-":
        out.say(format_info(facts))
    out.write(facts)
    return 0
