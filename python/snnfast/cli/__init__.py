# SPDX-License-Identifier: Apache-2.0
"""The command line: ``snnfast run | train | record | convert | evaluate | sweep | bench | info``.

Exit codes: 0 done, 1 an error (one line on standard error, ``--debug`` for the traceback) or a reader of the words that
left early (``| head``; files are written all the same), 2 a wrong command line, 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from snnfast._version import __version__
from snnfast.cli import bench, convert, evaluate, info, learn, run, sweep
from snnfast.cli.common import Output, UsageError, import_modules, silence
from snnfast.runs import RunFolderError

_DESCRIPTION = """\
Trained ReLU policies as spiking networks that decide the same way, run at the machine's limit.

Start with `snnfast run cartpole`: it trains a policy, converts it, and compares the two over 50,000 decisions."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="snnfast",
        description=_DESCRIPTION,
        epilog="`snnfast COMMAND --help` explains a command and gives an example.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"snnfast {__version__}")
    subparsers = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for module in (run, learn, convert, evaluate, sweep, bench, info):
        module.add(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: the arguments after the program's name; those of the process by default.
    """
    try:
        arguments = build_parser().parse_args(argv)
    except SystemExit as exit_:  # argparse has printed its message, or the help that was asked for
        return exit_.code if isinstance(exit_.code, int) else 2
    arguments.argv = list(sys.argv[1:] if argv is None else argv)
    out = None
    try:
        import_modules(getattr(arguments, "imports", None) or ())
        out = Output(arguments.json, keeps=_keeps(arguments))
        code = int(arguments.handler(arguments, out))
        if out.failure is not None:
            raise out.failure
        return code
    except KeyboardInterrupt:
        if arguments.debug:
            raise
        # Whatever was on the line (a progress bar, say) stays readable.
        _complain("\nsnnfast: interrupted")
        return 130
    except BrokenPipeError as error:
        silence(sys.stdout)
        if out is None or error is not out.failure:  # not the reader of the words, but of a pipe of --json
            _complain(f"snnfast: error: {_one_line(error)}")
        return 1
    except (UsageError, RunFolderError) as error:
        if arguments.debug:
            raise
        _complain(f"snnfast: error: {error}")
        return 2
    except Exception as error:
        if arguments.debug:
            raise
        _complain(f"snnfast: error: {_one_line(error)}")
        return 1


def _keeps(arguments: argparse.Namespace) -> bool:
    """Whether a command writes files: worth going on for when nobody reads its words any more."""
    files = (getattr(arguments, name, None) for name in ("json", "out", "csv", "plot", "gif", "report"))
    return arguments.command == "run" or any(file is not None for file in files)


def _complain(text: str) -> None:
    """Print to standard error, if there is anybody to read it."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


def _one_line(error: Exception) -> str:
    """An error's message for a user, on one line."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fspath(error.filename)}: {error.strerror}"
    text = " ".join(str(error).split())
    # Errors that our own checks raise speak for themselves; of any other the kind may be the better half.
    known = (ValueError, TypeError, NotImplementedError, RuntimeError, ImportError, OSError, FloatingPointError)
    return text if text and isinstance(error, known) else f"{type(error).__name__}: {text}".rstrip(": ")
