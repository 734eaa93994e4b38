# SPDX-License-Identifier: Apache-2.0
"""What all commands share: options, output, and reading the agents that a command line names."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import shlex
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

import safetensors
from torch import nn

from snnfast import checkpoint
from snnfast.learning import Replay, load_policy, pretrained_policy
from snnfast.network import SpikingNetwork
from snnfast.report import PAGE
from snnfast.runs import check_writable, to_json

#: The word that stands for the policy that comes with the package, and the environment that it was trained for.
SHIPPED = {"cartpole": "CartPole-v1"}

Subparsers = Any  # argparse has no public name for what add_subparsers returns


def program() -> str:
    """How to call this program again from here: by name where the shell finds it, else by its path."""
    if shutil.which("snnfast"):
        return "snnfast"
    called = Path(sys.argv[0])
    if called.name == "snnfast":
        return shlex.quote(os.path.relpath(called))
    return f"{shlex.quote(os.path.relpath(sys.executable))} -m snnfast"


class UsageError(Exception):
    """The command line asks for something that cannot be done as it stands: exit code 2."""


class Output:
    """Where a command's words and numbers go.

    Args:
        json_path: file for the machine-readable result, "-" for standard output (words then go to standard error),
            or ``None``.
        keeps: whether the command writes files. If so it goes on, silent, when nobody reads its words any more
            (``| head``, a full disk), so that the files are written. If not, the first word that is not read ends it.

    Attributes:
        failure: why words or numbers were lost, or ``None``.

    Raises:
        UsageError: if ``json_path`` cannot be written to, or is "-" and standard output is closed.
        OSError: if the file's folder is missing or cannot be written to.
    """

    def __init__(self, json_path: str | None, *, keeps: bool = False) -> None:
        self.failure: OSError | None = None
        self.keeps = keeps
        if json_path is not None and json_path != "-":
            if _is_standard_output(json_path):
                json_path = "-"  # /dev/stdout, say: words must not come between
            elif _is_stream(json_path):
                if not os.access(json_path, os.W_OK):
                    raise PermissionError(13, "cannot be written to", json_path)
            else:
                check_target(Path(json_path), overwrite=True)
        if json_path == "-" and not _is_open(sys.stdout):
            raise UsageError("--json - needs a standard output, and this one is closed: name a file")
        self.json_path = json_path

    def say(self, text: str = "") -> None:
        """Print for people.

        Raises:
            OSError: if it cannot be printed, and there are no files to be written all the same.
        """
        self._print(f"{text}\n", sys.stderr if self.json_path == "-" else sys.stdout)

    def _print(self, text: str, stream: TextIO | None) -> None:
        if stream is None:  # closed before this program was called
            return
        try:
            stream.write(text)
            stream.flush()
        except OSError as error:
            silence(stream)
            lost = OSError(error.errno, error.strerror, "standard error" if stream is sys.stderr else "standard output")
            self.failure = self.failure or lost
            if not self.keeps:
                raise self.failure from error

    def write(self, content: Mapping[str, Any]) -> None:
        """Write the result for machines, if it was asked for: strict JSON."""
        if self.json_path is None:
            return
        data = to_json(content)
        if self.json_path == "-":
            self._print(data.decode(), sys.stdout)
        elif _is_stream(self.json_path):  # there is nothing to replace
            with open(self.json_path, "wb") as stream:
                stream.write(data)
        else:
            checkpoint.atomic_write(self.json_path, data)


def silence(stream: TextIO | None) -> None:
    """Lead a stream nowhere from now on: Python would complain again when it flushes what is left in it at exit."""
    with contextlib.suppress(AttributeError, OSError, ValueError):  # closed, or no file at all
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]
        os.close(nowhere)


def _is_open(stream: TextIO | None) -> bool:
    return stream is not None and not stream.closed


def _is_stream(path: str) -> bool:
    """Whether it is a pipe, a terminal or the like: written to as it is, not replaced."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def _is_standard_output(path: str) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(sys.stdout.fileno()))
    except (AttributeError, OSError, ValueError):  # no such file, or a standard output that is closed or no file
        return False


def check_distinct(
    outputs: Mapping[str, str | Path | None],
    inputs: Mapping[str, str | None] | None = None,
    page: tuple[str, Path | None] | None = None,
) -> None:
    """Raise unless every output has a file of its own, which is no input, before anything is computed.

    Args:
        outputs: option to file; ``None`` and "-" are none.
        inputs: what the command line calls it to file. One that does not exist is a word, such as "cartpole".
        page: option and folder of a page, to which ``index.html`` and pictures (.png) in that folder belong. Other
            files may be there.

    Raises:
        UsageError: naming both options.
    """
    files = {name: path for name, path in (inputs or {}).items() if path and not is_shipped(path)}
    seen = {os.path.realpath(path): name for name, path in files.items() if os.path.exists(path)}
    for name, path in outputs.items():
        if path is None or path == "-":
            continue
        if page is not None and page[1] is not None and _is_of_page(os.path.realpath(path), os.path.realpath(page[1])):
            raise UsageError(
                f"the page of {page[0]} and {name} name the same file, {path}: choose another name, or another folder"
            )
        other = seen.setdefault(os.path.realpath(path), name)
        if other != name:
            raise UsageError(f"{other} and {name} name the same file, {path}: choose another name for one of them")


def _is_of_page(path: str, folder: str) -> bool:
    """Whether a file is, or may become, one of those that a page in ``folder`` consists of; or the folder itself."""
    parent, name = os.path.split(path)
    return path == folder or (parent == folder and (name == PAGE or name.endswith(".png")))


def check_target(path: Path, *, overwrite: bool) -> None:
    """Raise unless the file ``path`` can be written, before anything is computed.

    Raises:
        UsageError: if it exists and may not be replaced, or is a pipe or a device.
        OSError: if it is a folder, its name is too long, or its own folder (for a symbolic link, that of the file it
            leads to) is missing or cannot be written to.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.stat(path)  # a name that is too long, a link that leads to itself
    folder = Path(os.path.realpath(path)).parent if path.is_symlink() else path.parent
    if path.is_dir():
        raise IsADirectoryError(21, "this is a folder, a file name is needed", os.fspath(path))
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is a pipe or a device; a file is needed (only --json can be written to such)")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists already; choose another name, or add --overwrite to replace it")
    if not folder.is_dir():
        raise FileNotFoundError(2, f"cannot write {path.name}: there is no such folder", os.fspath(folder))
    check_writable(folder)


def add_command(
    subparsers: Subparsers,
    name: str,
    handler: Callable[[argparse.Namespace, Output], int],
    *,
    summary: str,
    description: str,
    example: str,
) -> argparse.ArgumentParser:
    """A subcommand with the options that every command has."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(handler=handler)
    common = parser.add_argument_group("options of every command")
    common.add_argument("--json", metavar="F", help="write the result as JSON to file F, '-' for standard output")
    common.add_argument("--seed", type=seed, metavar="N", help="seed of everything random (default: 1)")
    common.add_argument("--debug", action="store_true", help="show a traceback with an error")
    return parser


def add_imports(parser: argparse._ActionsContainer) -> None:
    """Add ``--import``, for environments that do not come with Gymnasium."""
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        metavar="MODULE",
        help="first import this Python module, which registers environments (ale_py, for example, or one in the "
        "working directory); repeatable",
    )


def import_modules(names: Iterable[str]) -> None:
    """Import what ``--import`` names: code that is run because the user says so, never because a file does.

    Modules are also found in the working directory, as with ``python -m snnfast``, unless Python was told to leave that
    out (``-P``, ``PYTHONSAFEPATH``).

    Raises:
        UsageError: naming the module and what went wrong.
    """
    names = list(names)
    if names and not getattr(sys.flags, "safe_path", False):  # Python 3.10 has no such flag
        here = os.getcwd()
        if not {"", here} & set(sys.path):
            sys.path.insert(0, here)
    for name in names:
        try:
            import_module(name)
        except Exception as error:  # whatever the module's own code raises
            why = " ".join(f"{type(error).__name__}: {error}".split())
            raise UsageError(f"--import must name a module that Python can import, got {name!r}: {why}") from error


def seed(text: str) -> int:
    """A whole number from 0 to 2**32 - 1: what every library here accepts as a seed."""
    return _whole(text, 0, 2**32 - 1)


def count(text: str) -> int:
    """A whole number of at least 1."""
    return _whole(text, 1, 2**31 - 1)


def count_or_none(text: str) -> int:
    """A whole number of at least 0."""
    return _whole(text, 0, 2**31 - 1)


def steps_or_none(text: str) -> int | None:
    """A whole number of at least 1, or the word "none" for the environment's own limit: ``None``."""
    return None if text == "none" else count(text)


def number(low: float = -math.inf, high: float = math.inf) -> Callable[[str], float]:
    """A reader of finite numbers from ``low`` to ``high``, for ``type=`` of an option."""
    range_ = "" if low == -math.inf else f" of at least {low:g}" if high == math.inf else f" from {low:g} to {high:g}"

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and low <= value <= high):
            raise argparse.ArgumentTypeError(f"must be a finite number{range_}, got {text!r}")
        return value

    return read


def _whole(text: str, low: int, high: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}, got {text!r}")
    return value


def kind_of(path: Path) -> str | None:
    """What a file of ours says that it holds, without checking anything else; ``None`` if it says nothing."""
    try:
        # Opened by ourselves first, because safetensors would wait for ever for the writer of a pipe.
        with checkpoint.open_regular(path), safetensors.safe_open(os.fspath(path), framework="numpy") as file:
            return (file.metadata() or {}).get("kind")
    except (OSError, ValueError, safetensors.SafetensorError):
        return None


def is_shipped(name: str) -> bool:
    """Whether a word means the policy that comes with the package: unless there is a file, not a folder, so named."""
    return name in SHIPPED and not Path(name).is_file()


def in_words(name: str) -> str:
    """An agent as messages name it: a file that could be taken for the shipped policy shows that it is a file."""
    return os.path.join(os.curdir, name) if name in SHIPPED and not is_shipped(name) else name


def read_policy(name: str) -> tuple[nn.Sequential, str | None]:
    """The policy in a file, or the shipped one by its word; and the environment it was trained for, if known."""
    if is_shipped(name):
        return pretrained_policy(SHIPPED[name]), SHIPPED[name]
    name = in_words(name)
    policy = load_policy(name)
    env_id = checkpoint.load(name, "policy")[1].get("env_id")
    return policy, env_id if isinstance(env_id, str) else None


def read_agent(name: str) -> tuple[SpikingNetwork | nn.Sequential, str | None]:
    """A spiking network or a policy, whichever the file holds; and the environment it is for, if known."""
    if is_shipped(name) or kind_of(Path(name)) == "policy":
        return read_policy(name)
    network = SpikingNetwork.load(in_words(name))
    replay = network.conversion.get("replay")
    env_id = replay.get("env_id") if isinstance(replay, dict) else None
    return network, env_id if isinstance(env_id, str) else None


def need_env(given: str | None, known: str | None, about: str) -> str:
    """The environment to use: the one given, else the one that the file names."""
    env_id = given or known
    if env_id is None:
        raise UsageError(
            f"{in_words(about)} does not say which environment it is for: add --env, for example --env CartPole-v1"
        )
    return env_id


def plots_available() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def check_plot(path: Path | None) -> None:
    """Raise unless the picture that was asked for can be drawn, before anything is computed."""
    if path is None:
        return
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise UsageError(f"a picture's file must end in .png, .pdf or .svg, got {path}")
    if not plots_available():
        raise ImportError(f'cannot draw {path}: matplotlib is not installed; pip install "snnfast[plot]"')


def describe_replay(replay: Replay) -> str:
    """A replay memory in a few words."""
    return f"{len(replay.observations):,} states of {replay.metadata.get('env_id', 'an unknown environment')}"
