# SPDX-License-Identifier: Apache-2.0
"""Run folders: one folder per run, never overwritten by accident, continued after a crash, used by one process.

A folder is a run of ours if its ``config.json`` says so; nothing else is ever replaced. ``stages.json`` lists what is
finished, with a SHA-256 of every file, so that a continued run reuses a stage only if its files are what they were.
``.lock`` is locked as long as a process works in the folder; the system releases it when the process and its children
of fork end, however they end, so a lock left behind by a killed process holds nobody up.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from snnfast.checkpoint import atomic_write

Mode = Literal["new", "resume", "overwrite", "suffix"]

CONFIG, STAGES, LOCK = "config.json", "stages.json", ".lock"
_KIND, _FORMAT = "snnfast-run", 1
_PROBE = ".snnfast-"


class RunFolderError(Exception):
    """The folder cannot be used in the way that was asked for; nothing in it was changed."""


class _InUse(RunFolderError):
    """By another process."""


class RunFolder:
    """A run's folder, locked for this process until :meth:`close`. Made by :func:`open_run`.

    Attributes:
        path: the folder.
        config: what its ``config.json`` says: settings, versions, command.
        resumed: whether it was there before.
    """

    def __init__(self, path: Path, config: dict[str, Any], resumed: bool, lock: int) -> None:
        self.path, self.config, self.resumed = path, config, resumed
        self._lock, self._process = lock, os.getpid()
        self._stages: dict[str, dict[str, Any]] = {}
        self._spent: dict[str, float] = {}
        if resumed:
            stages = _read_json(path / STAGES)
            recorded = stages.get("stages") if stages else None
            if isinstance(recorded, dict):
                self._stages = {name: s for name, s in recorded.items() if _is_stage(s)}
            spent = stages.get("spent") if stages else None
            if isinstance(spent, dict):
                self._spent = {name: float(s) for name, s in spent.items() if _is_time(s)}

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def completed(self, stage: str) -> dict[str, Any] | None:
        """The stored result of a stage, or ``None`` if it is not finished or a file of it is not what it was.

        In the latter case this stage and all that were finished after it are forgotten: they have to be done again.
        """
        record = self._stages.get(stage)
        if record is None:
            return None
        if any(_sha256(self.path / name) != digest for name, digest in record["files"].items()):
            names = list(self._stages)
            self._stages = {name: self._stages[name] for name in names[: names.index(stage)]}
            return None
        result: dict[str, Any] = record["result"]
        return result

    def finish(self, stage: str, files: Sequence[str], seconds: float, result: Mapping[str, Any]) -> None:
        """Write down that a stage is finished, with its files, the time it took and a result that JSON can hold.

        The time is that of all attempts: what :meth:`spent` says included.
        """
        digests = {name: _sha256(self.path / name) for name in files}
        self._stages[stage] = {"files": digests, "seconds": seconds, "result": dict(result)}
        self._spent.pop(stage, None)
        self._write()

    def spend(self, stage: str, seconds: float) -> None:
        """Write down the time of an attempt at a stage that did not finish it."""
        self._spent[stage] = self.spent(stage) + seconds
        self._write()

    def spent(self, stage: str) -> float:
        """Time of the earlier attempts at a stage that is not finished."""
        return self._spent.get(stage, 0.0)

    def _write(self) -> None:
        atomic_write(self.path / STAGES, to_json({"stages": self._stages, "spent": self._spent}))

    def seconds(self, stage: str) -> float:
        """Time that a finished stage took."""
        return float(self._stages[stage]["seconds"])

    def close(self) -> None:
        """Let other processes use the folder."""
        # Parent and child of a fork share the lock, which would else last as long as either of them.
        with contextlib.suppress(OSError):
            if os.getpid() == self._process:
                os.ftruncate(self._lock, 0)
                fcntl.flock(self._lock, fcntl.LOCK_UN)
        os.close(self._lock)


@contextlib.contextmanager
def open_run(root: Path, name: str, config: Mapping[str, Any], mode: Mode, owned: Sequence[str]) -> Iterator[RunFolder]:
    """Make, continue or replace the folder ``root/name`` and hold it for this process.

    Args:
        root: folder of all runs; made if it is not there.
        name: name of the run, a plain file name.
        config: settings, versions and the like, kept in ``config.json`` of a new run.
        mode: what to do if the folder exists: "new" refuses, "resume" continues it with its own config, "overwrite"
            removes the files of the run (and no others) and begins anew, "suffix" takes the name with -2, -3, ...
        owned: names of the files that a run writes, for "overwrite".

    Raises:
        ValueError: if ``name`` is no plain file name.
        RunFolderError: if the folder exists and the mode does not permit its use, or another process uses it.
        OSError: if the folder cannot be made or written to.
    """
    check_name(name)
    path = root / name
    if mode == "suffix":
        path, lock = _lock_first_free(path)
    else:
        _permit(path, mode)
        _make_folder(path)
        lock = _acquire(path)
    try:
        _permit(path, mode)  # another process may have been faster
        found = None if _is_free(path) else _read_config(path)
        resumed = found is not None and mode == "resume"
        if found is not None and not resumed:
            for file in (STAGES, *owned):  # the list of finished stages first: without it no file is trusted
                (path / file).unlink(missing_ok=True)
        if found is None or not resumed:
            found = {"kind": _KIND, "format": _FORMAT, **config}
            atomic_write(path / CONFIG, to_json(found))
        run = RunFolder(path, found, resumed, lock)
    except BaseException:
        os.close(lock)
        raise
    try:
        yield run
    finally:
        run.close()


def check_name(name: str) -> None:
    """Raise a ``ValueError`` unless ``name`` can be the name of a run's folder."""
    if not name or name.startswith((".", "-")) or "/" in name or "\\" in name or not name.isprintable():
        raise ValueError(f"name must be a plain name for a folder, got {name!r}")


def check_writable(folder: Path) -> None:
    """Raise an ``OSError`` unless files can be made in ``folder``. Trying is the only test that is always right."""
    probe = folder / f"{_PROBE}{os.getpid()}-{secrets.token_hex(8)}"  # in containers, two processes may have one number
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise OSError(error.errno, f"cannot write to this folder: {error.strerror}", os.fspath(folder)) from error
    os.close(descriptor)
    os.unlink(probe)


def to_json(content: object) -> bytes:
    """Strict, readable JSON, with a newline at the end."""
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def _permit(path: Path, mode: Mode) -> None:
    if _is_free(path):
        return
    if not path.is_dir():
        raise RunFolderError(f"{path} exists and is not a folder: choose another --name or --root")
    config = _read_config(path)
    if config is None:
        raise RunFolderError(
            f"{path} exists and is not a run of snnfast (no {CONFIG} of ours in it): choose another --name or --root"
        )
    if config.get("format") != _FORMAT:
        raise RunFolderError(f"{path} was made by another version of snnfast: choose another --name or --root")
    if mode == "new":
        raise RunFolderError(
            f"{path} already holds a run; nothing was computed or changed. Say what to do:\n"
            "  --resume      continue it where it stopped (or show its results if it is finished)\n"
            "  --overwrite   delete its files and start anew\n"
            f"  --suffix      keep it and use a new folder: {_first_free(path).name}"
        )


def _is_free(path: Path) -> bool:
    """Whether there is nothing there, or nothing but what a process leaves that is killed before its first file."""
    try:
        entries = os.listdir(path)
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return not path.exists()  # below a file there is nothing either; making the folder will say so
    return all(entry == LOCK or entry.startswith((f".{CONFIG}.tmp-", _PROBE)) for entry in entries)


def _first_free(path: Path, not_these: Collection[Path] = ()) -> Path:
    candidate, number = path, 1
    while not _is_free(candidate) or candidate in not_these:
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def _lock_first_free(path: Path) -> tuple[Path, int]:
    """The first folder of that name, with or without a number, that is free and stays so: it is locked."""
    in_use: set[Path] = set()
    while True:
        candidate = _first_free(path, in_use)
        _permit(candidate, "suffix")
        _make_folder(candidate)
        try:
            lock = _acquire(candidate)
        except _InUse:  # by a process that has written nothing yet
            in_use.add(candidate)
            continue
        if _is_free(candidate):
            return candidate, lock
        os.close(lock)  # another process was faster, and perhaps it has even finished


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"cannot make this folder: {error.strerror}", os.fspath(path)) from error
    check_writable(path)


def _acquire(path: Path) -> int:
    """Lock the folder for this process and return the lock's descriptor."""
    descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(descriptor)
            raise _InUse(
                f"{path} is in use by another process{f' (pid {owner})' if owner else ''}: "
                "wait for it or stop it, or choose another --name"
            ) from None
        except OSError:  # a file system without locks: the pid in the file has to do
            owner = _owner(descriptor)
            if owner and owner != os.getpid() and _is_alive(owner):
                raise _InUse(f"{path} is in use by another process (pid {owner})") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _owner(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdecimal() else None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _read_config(path: Path) -> dict[str, Any] | None:
    config = _read_json(path / CONFIG)
    return config if config is not None and config.get("kind") == _KIND else None


def _read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, or ``None`` if there is none."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _is_stage(record: object) -> bool:
    return (
        isinstance(record, dict)
        and isinstance(record.get("files"), dict)
        and all(isinstance(name, str) and "/" not in name for name in record["files"])
        and _is_time(record.get("seconds"))
        and isinstance(record.get("result"), dict)
    )


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value >= 0


def _sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal; "" if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()
