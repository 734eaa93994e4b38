# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: what is written comes back, damage is always noticed, and no failure costs the old file."""

from __future__ import annotations

import ast
import copy
import errno
import hashlib
import json
import os
import pathlib
import random
import resource
import signal
import stat
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from snnfast import checkpoint
from snnfast.checkpoint import CheckpointError

SOURCE = pathlib.Path(checkpoint.__file__)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "net.safetensors"


def write(path, **changes):
    """A small valid file."""
    arguments = {
        "kind": "policy",
        "tensors": {"weight": torch.arange(6.0).reshape(2, 3), "n": np.array([1, 2], dtype=np.int64)},
        "metadata": {"sizes": [3, 2], "name": "Prüfstück", "rate": 0.1, "nested": {"a": None}},
    }
    checkpoint.save(path, **(arguments | changes))


def rewrite_header(path, change):
    """Change the safetensors ``__metadata__`` of a file, as a malicious or newer writer could."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header["__metadata__"])
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data[8 + length :])


def litter(folder):
    return [name for name in os.listdir(folder) if ".tmp-" in name]


# What comes back


def test_round_trip(file):
    tensors = {
        "float": torch.randn(2, 3),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 4),
        "strided": np.arange(12.0).reshape(3, 4)[::2, ::-1],
        "bigendian": np.array([1.5, -2], dtype=">f4"),
        "flags": np.array([True, False]),
        "transposed": torch.arange(6).reshape(2, 3).T,
    }
    metadata = {"a": [1, 2.5, None, True], "ü": "\n\x00", "big": 2**70}
    checkpoint.save(file, "replay", tensors, metadata)
    loaded, document = checkpoint.load(file, "replay")
    assert document == metadata
    assert loaded.keys() == tensors.keys()
    for name, value in tensors.items():
        wanted = (
            torch.from_numpy(value.astype(value.dtype.newbyteorder("="))) if isinstance(value, np.ndarray) else value
        )
        assert loaded[name].dtype == wanted.dtype
        assert torch.equal(loaded[name], wanted)


@settings(max_examples=40, deadline=None)
@given(
    array=hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int8, np.int64, np.uint8, np.bool_]),
        hnp.array_shapes(min_dims=0, min_side=0),
        elements={"allow_nan": False, "allow_infinity": False},
    ),
    text=st.text(max_size=20),
)
def test_round_trip_of_any_array(tmp_path_factory, array, text):
    path = tmp_path_factory.mktemp("any") / "x"
    checkpoint.save(path, "replay", {"x": array}, {"text": text})
    loaded, metadata = checkpoint.load(path, "replay")
    assert metadata == {"text": text}
    assert loaded["x"].numpy().tobytes() == array.tobytes()
    assert loaded["x"].shape == array.shape


def test_same_content_same_bytes(file, tmp_path):
    write(file)
    for i in range(5):
        write(tmp_path / str(i))
        assert (tmp_path / str(i)).read_bytes() == file.read_bytes()


def test_others_can_read_it(file):
    """It is a plain safetensors file."""
    write(file)
    assert safetensors.torch.load_file(file)["weight"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_inputs_are_not_kept(file):
    weight = torch.zeros(2)
    write(file, tensors={"a": weight, "b": weight})  # shared memory, which safetensors alone refuses
    assert set(checkpoint.load(file, "policy")[0]) == {"a", "b"}


def test_content_hash():
    weight = torch.arange(4.0)
    reference = checkpoint.content_hash({"a": weight})
    assert reference == checkpoint.content_hash({"a": weight.clone()})
    for other in ({"b": weight}, {"a": weight.reshape(2, 2)}, {"a": weight.view(torch.int32)}, {"a": weight + 1}):
        assert checkpoint.content_hash(other) != reference


# Damage


def test_every_truncation_is_noticed(file):
    write(file)
    data = file.read_bytes()
    for length in range(len(data)):
        file.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"net\.safetensors"):
            checkpoint.load(file, "policy")


def test_every_appendix_is_noticed(file):
    write(file)
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(file, "policy")


@pytest.mark.parametrize("seed", range(5))
def test_bit_flips_are_noticed(file, seed):
    write(file)
    data = file.read_bytes()
    rng = random.Random(seed)
    for _ in range(500):
        at = rng.randrange(len(data) * 8)
        damaged = bytearray(data)
        damaged[at // 8] ^= 1 << at % 8
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"net\.safetensors"):
            checkpoint.load(file, "policy")


@pytest.mark.long
def test_every_bit_flip_is_noticed(file):
    write(file)
    data = file.read_bytes()
    for at in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[at // 8] ^= 1 << at % 8
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            checkpoint.load(file, "policy")


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("noise") / "x"
    path.write_bytes(data)
    with pytest.raises(CheckpointError):
        checkpoint.load(path, "policy")


def test_wrong_kind(file):
    write(file)
    with pytest.raises(CheckpointError, match=r"holds a 'policy', but a 'spiking-network' is required"):
        checkpoint.load(file, "spiking-network")


def test_newer_version_names_both(file):
    write(file)
    rewrite_header(file, lambda about: about.update(format_version="7"))
    with pytest.raises(CheckpointError, match=r"version 7, but this snnfast reads versions up to 1"):
        checkpoint.load(file, "policy")


@pytest.mark.parametrize("version", ["0", "-1", "x", "", "1" * 5000])
def test_odd_version(file, version):
    write(file)
    rewrite_header(file, lambda about: about.update(format_version=version))
    with pytest.raises(CheckpointError, match="version"):
        checkpoint.load(file, "policy")


@pytest.mark.parametrize("key", ["kind", "sha256", "metadata", "format_version"])
def test_missing_key(file, key):
    write(file)
    rewrite_header(file, lambda about: about.pop(key))
    with pytest.raises(CheckpointError, match=f"lacks {key}"):
        checkpoint.load(file, "policy")


def test_changed_metadata(file):
    write(file)
    rewrite_header(file, lambda about: about.update(metadata=about["metadata"].replace("3", "4")))
    with pytest.raises(CheckpointError, match="SHA-256"):
        checkpoint.load(file, "policy")


def test_foreign_safetensors(file):
    safetensors.torch.save_file({"a": torch.zeros(1)}, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="not one that snnfast wrote"):
        checkpoint.load(file, "policy")


def forge(path, document, tensors):
    """A file whose checksum is right although its content is not acceptable."""
    about = {"writer": "snnfast", "format_version": "1", "kind": "policy", "metadata": document}
    parts = ["1", "policy", document, checkpoint.content_hash(tensors)]
    about["sha256"] = hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()
    safetensors.torch.save_file(tensors, path, metadata=about)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(file, value):
    forge(file, "{}", {"w": torch.tensor([1.0, value])})
    with pytest.raises(CheckpointError, match="'w' holds NaN or infinity"):
        checkpoint.load(file, "policy")


@pytest.mark.parametrize("document", ["[" * 100_000, "[]", '{"a":NaN}', "{", '{"a":' * 50_000])
def test_bad_metadata_document(file, document):
    forge(file, document, {"w": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="metadata"):
        checkpoint.load(file, "policy")


def test_forged_file_is_otherwise_fine(file):
    """The control of the two tests above."""
    forge(file, '{"a":1}', {"w": torch.zeros(1)})
    assert checkpoint.load(file, "policy")[1] == {"a": 1}


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**40, 17 * 2**20])
def test_giant_header_costs_no_memory(file, length):
    with open(file, "wb") as handle:
        handle.write(length.to_bytes(8, "little"))
        handle.truncate(2**34)  # sparse: 16 GiB of zeros
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="claims"):
        checkpoint.load(file, "policy")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_deep_header(file):
    text = b'{"__metadata__":' + b"[" * 100_000
    file.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(CheckpointError, match="JSON"):
        checkpoint.load(file, "policy")


def test_unknown_data_type(file):
    write(file, tensors={"w": torch.zeros(1)})
    file.write_bytes(file.read_bytes().replace(b'"F32"', b'"F99"'))
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(file, "policy")


def test_not_a_file(tmp_path):
    with pytest.raises(CheckpointError, match="not a file"):
        checkpoint.load(tmp_path, "policy")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="not a file"):
        checkpoint.load(tmp_path / "pipe", "policy")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(tmp_path / "loop", "policy")


def test_missing_file(file):
    with pytest.raises(FileNotFoundError, match=r"net\.safetensors"):
        checkpoint.load(file, "policy")


def test_require(file):
    checkpoint.require(file, {"sizes": [1]}, {"sizes": list})
    with pytest.raises(CheckpointError, match="lacks the tensor 'w'"):
        checkpoint.require(file, {}, {"w": torch.Tensor}, what="tensor")
    with pytest.raises(CheckpointError, match="'sizes' is of the wrong kind: int"):
        checkpoint.require(file, {"sizes": 1}, {"sizes": list})


# What cannot be saved


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"kind": "other"}, ValueError, "kind must be one of"),
        ({"tensors": {"w": np.array([np.nan])}}, ValueError, r"tensors\['w'\] must be finite"),
        ({"tensors": {"w": [1.0]}}, TypeError, r"tensors\['w'\] must be an array or tensor, got list"),
        ({"tensors": {"w": np.array(["a"])}}, TypeError, "must be numeric"),
        ({"tensors": {"w": torch.zeros(1, device="meta")}}, TypeError, "must be dense and hold data"),
        ({"tensors": {1: torch.zeros(1)}}, TypeError, "named by strings"),
        ({"tensors": [torch.zeros(1)]}, TypeError, "tensors must be a mapping, got list"),
        (
            {"tensors": {"w": torch.zeros(1, dtype=torch.complex128)}},
            TypeError,
            r"a file can hold, got torch\.complex128",
        ),
        ({"tensors": {"w": torch.zeros(1).to(torch.float8_e4m3fn)}}, TypeError, r"can hold, got torch\.float8_e4m3fn"),
        # safetensors writes it, and cannot read it
        (
            {"tensors": {"w": torch.zeros(1).to(torch.float8_e8m0fnu)}},
            TypeError,
            r"can hold, got torch\.float8_e8m0fnu",
        ),
        ({"tensors": {"w": np.ma.masked_less(np.zeros(2), 1)}}, TypeError, "a plain array, got one with a mask"),
        ({"tensors": {"__metadata__": torch.zeros(1)}}, ValueError, "printable names"),
        ({"tensors": {"": torch.zeros(1)}}, ValueError, "printable names"),
        ({"tensors": {"a\n": torch.zeros(1)}}, ValueError, "printable names"),
        ({"metadata": {"a": float("nan")}}, ValueError, "JSON"),
        ({"metadata": {"a": np.int64(1)}}, TypeError, "JSON"),
        ({"metadata": [1]}, TypeError, "metadata must be a mapping, got list"),
        ({"metadata": {"a": "x" * (17 * 2**20)}}, ValueError, "must fit"),
    ],
)
def test_refused(file, change, error, message):
    write(file)
    before = file.read_bytes()
    with pytest.raises(error, match=message):
        write(file, **change)
    assert file.read_bytes() == before
    assert not litter(file.parent)


def test_the_error_says_path_and_reason_in_other_processes_too():
    error = CheckpointError(pathlib.Path("a/b"), "is odd")
    assert str(error) == str(copy.copy(error)) == "a/b: is odd"
    assert isinstance(error, ValueError)


@pytest.mark.parametrize("path", [b"x", 0, None, 1.5, True])
def test_a_path_is_text(path):
    message = f"path must be a str or a path of it, got {type(path).__name__}"
    for call in (
        lambda: checkpoint.save(path, "policy", {}, {}),
        lambda: checkpoint.load(path, "policy"),
        lambda: checkpoint.atomic_write(path, b""),
    ):
        with pytest.raises(TypeError, match=message):
            call()


def test_a_path_without_null_characters():
    for call in (lambda: checkpoint.save("a\0b", "policy", {}, {}), lambda: checkpoint.load("a\0b", "policy")):
        with pytest.raises(ValueError, match=r"path must not hold a null character, got 'a\\x00b'"):
            call()


def test_a_forged_file_of_another_data_type(file):
    tensors = {"w": torch.zeros(1).to(torch.float8_e4m3fn)}
    about = {"writer": "snnfast", "format_version": "1", "kind": "policy", "metadata": "{}"}
    about["sha256"] = checkpoint._checksum("policy", "{}", tensors)
    file.write_bytes(safetensors.torch.save(tensors, metadata=about))
    with pytest.raises(
        CheckpointError, match=r"'w' is of a data type that snnfast does not write: torch\.float8_e4m3fn"
    ):
        checkpoint.load(file, "policy")


@pytest.mark.parametrize("metadata", [{1: 2, "x": 3}, {1: 2}, {"a": [{"b": {None: 1}}]}, {"a": ({True: 1},)}])
def test_keys_of_metadata_are_strings(file, metadata):
    """JSON would make strings of others, or fail to sort them."""
    with pytest.raises(TypeError, match=r"metadata must be what JSON can hold, .*: the key (1|None|True) is no string"):
        checkpoint.save(file, "policy", {}, metadata)


def test_unknown_kind_to_load(file):
    with pytest.raises(ValueError, match="kind must be one of"):
        checkpoint.load(file, "other")


# Writing


def test_mode_bits(file):
    umask = os.umask(0o027)
    try:
        checkpoint.atomic_write(file, b"a")
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
        file.chmod(0o604)
        checkpoint.atomic_write(file, b"b")
        assert stat.S_IMODE(file.stat().st_mode) == 0o604
    finally:
        os.umask(umask)


def test_symbolic_link_is_followed(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    checkpoint.atomic_write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.atomic_write("x", b"1")
    assert (tmp_path / "x").read_bytes() == b"1"


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "x" * 101])
def test_any_name_that_the_system_permits(tmp_path, name):
    stale = tmp_path / f".{hashlib.sha256(name.encode()).hexdigest()[:32]}.tmp-1-12345678"
    stale.write_bytes(b"left behind")
    write(tmp_path / name)
    assert checkpoint.load(tmp_path / name, "policy")[1]["sizes"] == [3, 2]
    assert os.listdir(tmp_path) == [name]


def test_stale_files_are_removed_but_not_those_at_work(file):
    (file.parent / f".{file.name}.tmp-123").write_bytes(b"left by a killed writer")
    (file.parent / ".other.tmp-123").write_bytes(b"of another file")
    with checkpoint._temporary(str(file.parent), file.name) as (_, at_work):
        write(file)
        assert set(litter(file.parent)) == {".other.tmp-123", os.path.basename(at_work)}
    assert litter(file.parent) == [".other.tmp-123"]


def test_unwritable_folder_is_named(tmp_path):
    """Also for root, whom mode bits do not stop."""
    with pytest.raises(FileNotFoundError, match="absent/net"):
        write(tmp_path / "absent" / "net")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match="file/net"):
        write(tmp_path / "file" / "net")
    with pytest.raises(OSError, match="/proc/net"):
        write("/proc/net_of_mine")
    with pytest.raises(IsADirectoryError, match=tmp_path.name):
        write(tmp_path)
    with pytest.raises(OSError, match="/dev/null"):
        write("/dev/null")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match="net"):
            write(tmp_path / "net")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_the_system_refuses_to_write_in(file, monkeypatch, number):
    """For root as well: it may read there, but make no file."""
    write(file)
    before, real = file.read_bytes(), os.open

    def refusing(path, flags, *args, **kwargs):
        if flags & os.O_CREAT and os.path.dirname(path) == os.fspath(file.parent):
            raise OSError(number, os.strerror(number), path)
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(checkpoint.os, "open", refusing)
    for target in (file, file.with_name("new")):
        with pytest.raises(OSError, match=target.name) as caught:
            write(target, metadata={})
        assert (caught.value.errno, caught.value.filename) == (number, str(target))
        assert isinstance(caught.value, PermissionError) == (number == errno.EACCES)
    monkeypatch.undo()
    assert os.listdir(file.parent) == [file.name]
    assert file.read_bytes() == before


FAULTS = ["open", "write", "fsync", "replace", "fchmod", "stat", "listdir"]


@pytest.mark.parametrize("call", FAULTS)
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failing_system_call_costs_nothing(file, monkeypatch, call, error):
    write(file)
    before = file.read_bytes()

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(checkpoint.os, call, fail)
    with pytest.raises(type(error), match=r"net\.safetensors" if isinstance(error, OSError) else None) as caught:
        write(file, metadata={})
    monkeypatch.undo()
    assert file.read_bytes() == before
    assert not litter(file.parent)
    if isinstance(error, OSError):
        assert caught.value.errno == 28
        assert caught.value.filename == str(file)


def test_short_writes_are_continued(file, monkeypatch):
    real = os.write
    monkeypatch.setattr(checkpoint.os, "write", lambda descriptor, data: real(descriptor, data[:7]))
    write(file)
    monkeypatch.undo()
    assert checkpoint.load(file, "policy")[1]["sizes"] == [3, 2]


def test_flushed_before_renamed(file, monkeypatch):
    """A kill does not show the order that power loss needs, so the order itself is asserted."""
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(checkpoint.os, name, lambda *a, real=real, name=name: (calls.append(name), real(*a))[1])
    checkpoint.atomic_write(file, b"x")
    assert calls == ["fsync", "replace", "fsync"]


def run(script, *args, **kwargs):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, args)], stdout=subprocess.PIPE, text=True, env=environment, **kwargs
    )


def test_full_disk_keeps_the_old_file(file):
    write(file)
    before = file.read_bytes()
    script = """
import resource, sys
import torch
from snnfast import checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    checkpoint.save(sys.argv[1], "policy", {"w": torch.zeros(10_000)}, {})
except OSError as error:
    print(type(error).__name__, error.filename)
"""
    process = run(script, file)
    assert process.communicate(timeout=60)[0].split() == ["OSError", str(file)]
    assert process.returncode == 0
    assert file.read_bytes() == before
    assert not litter(file.parent)


SAVE_LOOP = """
import os, sys
import torch
from snnfast import checkpoint
torch.set_num_threads(1)

def save_until_killed(n, times):
    for n in range(n + 1, n + 1 + times):
        checkpoint.save(sys.argv[1], "training", {"w": torch.full((250_000,), float(n))}, {"n": n})
        print(n, flush=True)

print("ready", flush=True)
for line in sys.stdin:  # one child per line: importing torch anew for each would take most of the time
    child = os.fork()
    if child == 0:
        save_until_killed(*map(int, line.split()))
        os._exit(0)
    print("child", child, flush=True)
    print("ended with", os.waitpid(child, 0)[1], flush=True)
"""


def kill_saves(file, kills):
    rng = random.Random(1)
    acknowledged = saves = 0
    with run(SAVE_LOOP, file, stdin=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == "ready\n"
        for _ in range(kills):
            parent.stdin.write(f"{acknowledged} 1000000\n")
            parent.stdin.flush()
            early = []
            while (words := parent.stdout.readline().split())[0] != "child":
                early.append(int(words[0]))
            time.sleep(rng.uniform(0.0, 0.15))
            os.kill(int(words[1]), signal.SIGKILL)
            lines = list(iter(parent.stdout.readline, f"ended with {signal.SIGKILL:d}\n"))
            saves += len(lines)
            acknowledged = max([acknowledged, *early, *map(int, lines)])
            if file.exists():
                tensors, metadata = checkpoint.load(file, "training")
                assert metadata["n"] in (acknowledged, acknowledged + 1)  # the last one may not have been said
                assert torch.equal(tensors["w"], torch.full((250_000,), float(metadata["n"])))
                acknowledged = metadata["n"]
            else:
                assert acknowledged == 0
        parent.stdin.close()
    assert saves >= kills // 2
    checkpoint.save(file, "training", {}, {})
    assert os.listdir(file.parent) == [file.name]


def test_kill_during_save(file):
    kill_saves(file, 20)


@pytest.mark.long
def test_kill_during_save_200_times(file):
    kill_saves(file, 200)


def test_two_writers_at_once(file):
    """Neither removes the other's temporary file; the last one wins, whole."""
    processes = [run(SAVE_LOOP, file, stdin=subprocess.PIPE) for _ in range(2)]
    for start, process in zip((0, 1000), processes, strict=True):
        process.stdin.write(f"{start} 30\n")
        process.stdin.flush()
    for process in processes:
        output = process.communicate(timeout=120)[0]
        assert output.endswith("ended with 0\n")
    assert checkpoint.load(file, "training")[1]["n"] in (30, 1030)
    assert os.listdir(file.parent) == [file.name]


def test_no_loader_that_could_run_code():
    """Neither this module nor any other of the package uses pickle or its like."""
    forbidden = {"pickle", "cPickle", "dill", "marshal", "shelve", "yaml", "joblib"}
    checked = 0
    for path in SOURCE.parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = set()
            if isinstance(node, ast.Import):
                names = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").split(".")[0]}
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"torch.load", "torch.save", "eval", "exec", "np.load"}, (path, called)
            assert not names & forbidden, (path, names)
        checked += 1
    assert checked >= 5
