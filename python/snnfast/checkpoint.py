# SPDX-License-Identifier: Apache-2.0
"""Files that survive: atomic, checksummed, and never able to run code.

Everything snnfast stores (spiking networks, policies, replay memories, training states) is a safetensors file. Its
``__metadata__`` carries our format version, the kind of content, one JSON document, and a SHA-256 over all of it;
safetensors itself has no checksum and reads many damaged files without complaint.

A file is written beside its target, flushed to disk, and renamed over it. So a reader sees the old file or the new
one, whole, whatever happens to the writer.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Literal, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch

from snnfast.spec import check_choice, is_masked

Kind = Literal["spiking-network", "policy", "replay", "training"]
Path: TypeAlias = "str | os.PathLike[str]"

#: Raised by one whenever an older snnfast could misread the files of a newer one.
FORMAT_VERSION = 1

# What the file says before its tensors; large enough for any metadata of ours, small enough to read unseen.
_MAX_HEADER_BYTES = 16 * 2**20
_WRITER = "snnfast"

# What comes back as it was: of the others, safetensors writes some that it cannot read.
_DTYPES = {
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint16, torch.uint32, torch.uint64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.float8_e5m2),
}


class CheckpointError(ValueError):
    """A file exists but cannot be trusted or used: the message is its path and the reason."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(os.fspath(path), reason)  # both, so that it can be pickled between processes

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.args[1]}"


def save(
    path: Path, kind: str, tensors: Mapping[str, npt.NDArray[Any] | torch.Tensor], metadata: Mapping[str, Any]
) -> None:
    """Write tensors and metadata to ``path``, replacing what was there only once the new file is safely on disk.

    Args:
        path: the file to write. Its folder must exist.
        kind: what it is: ``"spiking-network"``, ``"policy"``, ``"replay"`` or ``"training"``.
        tensors: name to array or tensor of any shape. Floating point values must be finite. Copied, moved to the CPU.
        metadata: anything JSON can hold, without NaN or infinity, and with strings for keys. Tuples come back as lists.

    Raises:
        TypeError, ValueError: if an argument could not be read back; nothing is written.
        OSError: if the file cannot be written (folder missing or read-only, disk full); an existing file is untouched.
    """
    check_choice("kind", kind, Kind)
    _checked_path(path)
    if not isinstance(tensors, Mapping):
        raise TypeError(f"tensors must be a mapping, got {type(tensors).__name__}")
    copies = {_checked_name(name): _as_tensor(name, value) for name, value in tensors.items()}
    for name, tensor in copies.items():
        if tensor.dtype not in _DTYPES:
            raise TypeError(f"tensors[{name!r}] must be of a data type that a file can hold, got {tensor.dtype}")
        if not _is_finite(tensor):
            raise ValueError(f"tensors[{name!r}] must be finite, got NaN or infinity")
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a mapping, got {type(metadata).__name__}")
    try:
        _check_keys(metadata)
        document = json.dumps(dict(metadata), allow_nan=False, sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        kind_of_error = TypeError if isinstance(error, TypeError) else ValueError
        raise kind_of_error(f"metadata must be what JSON can hold, got a value it cannot: {error}") from error
    header = {
        "writer": _WRITER,
        "format_version": str(FORMAT_VERSION),
        "kind": kind,
        "metadata": document,
        "sha256": _checksum(kind, document, copies),
    }
    data = _reproducible(safetensors.torch.save(copies, metadata=header))
    if int.from_bytes(data[:8], "little") > _MAX_HEADER_BYTES:
        raise ValueError(f"metadata and tensor names must fit into {_MAX_HEADER_BYTES} bytes, got more")
    atomic_write(path, data)


def load(path: Path, kind: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a file of :func:`save` and return its tensors and metadata, after checking every byte of it.

    Raises:
        CheckpointError: if the file is damaged, of another kind, written by a newer format, or no snnfast file.
        FileNotFoundError, PermissionError: if it is not there or may not be read.
    """
    check_choice("kind", kind, Kind)
    header_bytes, body = _read(path)
    header = _parse_json(path, header_bytes, "its header")
    about = header.get("__metadata__")
    if not isinstance(about, dict) or about.get("writer") != _WRITER:
        raise CheckpointError(path, "a safetensors file, but not one that snnfast wrote (or a damaged one)")
    missing = [key for key in ("format_version", "kind", "metadata", "sha256") if not isinstance(about.get(key), str)]
    if missing:
        raise CheckpointError(path, f"damaged: its header lacks {', '.join(missing)}")
    _check_version(path, about["format_version"])
    if about["kind"] != kind:
        raise CheckpointError(path, f"holds a {about['kind']!r}, but a {kind!r} is required")
    try:
        tensors = safetensors.torch.load(len(header_bytes).to_bytes(8, "little") + header_bytes + body)
    except Exception as error:  # the reader has its own error type, and KeyError for a data type it does not know
        raise CheckpointError(path, f"damaged: {error}") from error
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise CheckpointError(
                path, f"tensor {name!r} is of a data type that snnfast does not write: {tensor.dtype}"
            )
    if _checksum(kind, about["metadata"], tensors) != about["sha256"]:
        raise CheckpointError(path, "damaged: its content does not match its SHA-256")
    for name, tensor in tensors.items():
        if not _is_finite(tensor):
            raise CheckpointError(path, f"tensor {name!r} holds NaN or infinity")
    return tensors, _parse_json(path, about["metadata"].encode(), "its metadata")


def require(
    path: Path, content: Mapping[str, Any], names: Mapping[str, type | tuple[type, ...]], *, what: str = "metadata"
) -> None:
    """Raise a :class:`CheckpointError` unless ``content`` has every name, each of the given type.

    For readers of a kind: ``require(path, metadata, {"sizes": list})``.
    """
    for name, kind in names.items():
        if name not in content:
            raise CheckpointError(path, f"lacks the {what} {name!r}")
        if not isinstance(content[name], kind):
            raise CheckpointError(path, f"{what} {name!r} is of the wrong kind: {type(content[name]).__name__}")


def content_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 (hexadecimal) of named tensors: names, data types, shapes and bytes. The same weights, the same hash."""
    digest = hashlib.sha256()
    names = sorted(tensors)
    listing = [[name, str(tensors[name].dtype), list(tensors[name].shape)] for name in names]
    digest.update(json.dumps(listing, separators=(",", ":")).encode())
    for name in names:
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        if flat.numel():  # an empty tensor has no bytes to look at, and no stride to look with
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def atomic_write(path: Path, data: bytes) -> None:
    """Replace the file ``path`` by ``data``, all or nothing, also if the process is killed or the disk is full.

    Mode bits of an existing file are kept (a new one gets 0644 less the umask) and a symbolic link is followed. What a
    killed writer of the same file left behind is removed.

    Raises:
        TypeError: if ``path`` is no text and no path of it.
        OSError: naming ``path``, if it could not be written. The old file is then still there.
    """
    target = os.path.realpath(_checked_path(path))
    folder, name = os.path.split(target)
    try:
        mode = None
        with contextlib.suppress(FileNotFoundError):
            mode = os.stat(target).st_mode
        if mode is not None and not stat.S_ISREG(mode):
            raise IsADirectoryError(21, "Is a directory") if stat.S_ISDIR(mode) else OSError(22, "Not a regular file")
        _remove_stale(folder, name)
        with _temporary(folder, name) as (descriptor, temporary):
            if mode is not None:
                os.fchmod(descriptor, stat.S_IMODE(mode))
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
            os.replace(temporary, target)
        _sync_folder(folder)
    except OSError as error:
        # The system names the temporary file, or nothing; the caller knows only the target.
        raise OSError(error.errno, error.strerror or str(error), os.fspath(path)) from error


@contextlib.contextmanager
def _temporary(folder: str, name: str) -> Iterator[tuple[int, str]]:
    """A new, locked file beside the target. The lock tells a writer at work from one that was killed."""
    while True:
        path = os.path.join(folder, f"{_prefix(name)}{os.getpid()}-{secrets.token_hex(4)}")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            with contextlib.suppress(OSError):  # a file system without locks: then nobody removes stale files there
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink == 0:
                continue  # another writer took it for stale in the instant before the lock
            yield descriptor, path
            return
        finally:
            with contextlib.suppress(FileNotFoundError):  # renamed: the usual case
                os.unlink(path)
            os.close(descriptor)


def _prefix(name: str) -> str:
    """How the temporary files of a target begin. A long name is shortened to leave room for the rest.

    File systems permit 255 bytes, some that encrypt names 143.
    """
    encoded = os.fsencode(name)
    return f".{name if len(encoded) <= 100 else hashlib.sha256(encoded).hexdigest()[:32]}.tmp-"


def _remove_stale(folder: str, name: str) -> None:
    prefix = _prefix(name)
    for entry in os.listdir(folder):
        if not entry.startswith(prefix):
            continue
        path = os.path.join(folder, entry)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue  # gone by now, or not ours to judge
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
        except OSError:
            pass  # its writer is at work
        finally:
            os.close(descriptor)


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checked_path(path: object) -> str:
    """The path as text: bytes and descriptors, which the system would take, have no name that messages could give."""
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise TypeError(f"path must be a str or a path of it, got {type(path).__name__}")
    if "\0" in text:
        raise ValueError(f"path must not hold a null character, got {text!r}")
    return text


def _checked_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"tensors must be named by strings, got {name!r}")
    if not name or not name.isprintable() or name == "__metadata__":
        raise ValueError(f"tensors must have printable names other than '__metadata__', got {name!r}")
    return name


def _reproducible(data: bytes) -> bytes:
    """The same file with its header in sorted order: safetensors writes its metadata in a random one."""
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    encoded = header.encode()
    encoded += b" " * (-len(encoded) % 8)  # the tensors stay aligned
    return len(encoded).to_bytes(8, "little") + encoded + data[8 + length :]


def _as_tensor(name: str, value: object) -> torch.Tensor:
    """A private, dense CPU tensor with the bytes of ``value``."""
    if is_masked(value):
        raise TypeError(f"tensors[{name!r}] must be a plain array, got one with a mask")
    if isinstance(value, np.ndarray):
        native = value.astype(value.dtype.newbyteorder("="), order="C", copy=True)
        try:
            return torch.from_numpy(native)
        except TypeError as error:
            raise TypeError(f"tensors[{name!r}] must be numeric, got {value.dtype}") from error
    if isinstance(value, torch.Tensor):
        if value.device.type == "meta" or value.layout != torch.strided or value.is_nested:
            kind = "nested" if value.is_nested else value.layout
            raise TypeError(f"tensors[{name!r}] must be dense and hold data, got {kind} on {value.device}")
        return value.detach().cpu().clone(memory_format=torch.contiguous_format).resolve_conj().resolve_neg()
    raise TypeError(f"tensors[{name!r}] must be an array or tensor, got {type(value).__name__}")


def _check_keys(value: object) -> None:
    """Raise a ``TypeError`` for a mapping with other keys than strings: JSON would make strings of them."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is no string")
            _check_keys(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            _check_keys(entry)


def _is_finite(tensor: torch.Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex()) or bool(torch.isfinite(tensor).all())


def _checksum(kind: str, document: str, tensors: Mapping[str, torch.Tensor]) -> str:
    parts = [str(FORMAT_VERSION), kind, document, content_hash(tensors)]
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()


def _read(path: Path) -> tuple[bytes, bytes]:
    """The header and the body of a safetensors file; both bounded by the file's size, checked before reading."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        if len(prefix) < 8:
            raise CheckpointError(path, f"damaged or no safetensors file: it has only {size} bytes")
        length = int.from_bytes(prefix, "little")
        if length > min(size - 8, _MAX_HEADER_BYTES):
            raise CheckpointError(path, f"damaged or no safetensors file: its header claims {length} bytes")
        header, body = file.read(length), file.read()
    if len(header) != length:
        raise CheckpointError(path, "damaged: it ends within its header")
    return header, body


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read its bytes; anything else, such as a pipe, is refused at once.

    Raises:
        TypeError: if ``path`` is no text and no path of it.
        CheckpointError: if it is no regular file, or cannot be read.
        FileNotFoundError, PermissionError: if it is not there or may not be read.
    """
    _checked_path(path)
    # O_NONBLOCK: opening a pipe must not wait for a writer that never comes.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise CheckpointError(path, f"cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CheckpointError(path, "not a file (a folder or a device)")
    return os.fdopen(descriptor, "rb")


def _check_version(path: Path, text: str) -> None:
    version = int(text) if text.isdecimal() and len(text) < 10 else 0
    if version > FORMAT_VERSION:
        raise CheckpointError(
            path,
            f"has format version {version}, but this snnfast reads versions up to {FORMAT_VERSION}; upgrade snnfast",
        )
    if version < 1:
        raise CheckpointError(path, f"damaged: its format version is {text!r}")


def _parse_json(path: Path, data: bytes, what: str) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not allowed")

    try:
        parsed = json.loads(data.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, f"damaged or no safetensors file: {what} is no valid JSON ({error})") from error
    if not isinstance(parsed, dict):
        raise CheckpointError(path, f"damaged or no safetensors file: {what} is no JSON object")
    return parsed
