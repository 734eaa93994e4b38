# SPDX-License-Identifier: Apache-2.0
"""Run folders: never overwritten unasked, continued only with what checks out, used by one process at a time."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from snnfast import runs
from snnfast.runs import CONFIG, LOCK, STAGES, RunFolderError, check_writable, open_run

OWNED = ("a.bin", "b.bin")


def snapshot(path):
    return {p.relative_to(path): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file() and p.name != LOCK}


def make(root, name="one", mode="new", *, seed=1, stages=("a", "b")):
    """A run whose stages write one file each."""
    with open_run(root, name, {"settings": {"seed": seed}}, mode, OWNED) as run:
        for stage in stages:
            (run / f"{stage}.bin").write_bytes(stage.encode() * seed)
            run.finish(stage, [f"{stage}.bin"], 1.5, {"stage": stage})
        return run


def test_a_new_run(tmp_path):
    run = make(tmp_path / "deep" / "runs")
    assert run.path == tmp_path / "deep" / "runs" / "one"
    config = json.loads((run.path / CONFIG).read_text())
    assert config == {"kind": "snnfast-run", "format": 1, "settings": {"seed": 1}}
    assert not run.resumed
    assert sorted(p.name for p in run.path.iterdir()) == [LOCK, "a.bin", "b.bin", CONFIG, STAGES]


def test_an_existing_run_is_refused_and_the_message_offers_the_ways_out(tmp_path):
    run = make(tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(RunFolderError) as error:
        make(tmp_path, seed=2)
    text = str(error.value)
    assert str(run.path) in text
    assert "nothing was computed or changed" in text
    for option in ("--resume", "--overwrite", "--suffix", "one-2"):
        assert option in text
    assert snapshot(tmp_path) == before


def test_suffix_takes_the_first_free_name(tmp_path):
    assert make(tmp_path, mode="suffix").path.name == "one"
    assert make(tmp_path, mode="suffix", seed=2).path.name == "one-2"
    (tmp_path / "one-3").mkdir()  # empty: free
    (tmp_path / "one-4").write_text("mine")
    assert make(tmp_path, mode="suffix").path.name == "one-3"
    assert make(tmp_path, mode="suffix").path.name == "one-5"
    assert (tmp_path / "one" / "a.bin").read_bytes() == b"a"


def test_overwrite_removes_the_files_of_the_run_and_no_others(tmp_path):
    run = make(tmp_path)
    (run.path / "notes.txt").write_text("keep me")
    again = make(tmp_path, mode="overwrite", seed=2, stages=("a",))
    assert sorted(p.name for p in again.path.iterdir()) == [LOCK, "a.bin", CONFIG, "notes.txt", STAGES]
    assert json.loads((run.path / CONFIG).read_text())["settings"] == {"seed": 2}
    assert (run.path / "a.bin").read_bytes() == b"aa"
    with open_run(tmp_path, "one", {}, "resume", OWNED) as resumed:
        assert resumed.completed("b") is None


@pytest.mark.parametrize("mode", ["new", "resume", "overwrite"])
@pytest.mark.parametrize("content", ["a file", "another config", "broken config", "just files"])
def test_a_folder_that_is_not_ours_is_never_touched(tmp_path, mode, content):
    path = tmp_path / "one"
    if content == "a file":
        path.write_text("precious")
    else:
        path.mkdir()
        (path / "a.bin").write_text("precious")
        if content == "another config":
            (path / CONFIG).write_text('{"kind": "something else"}')
        if content == "broken config":
            (path / CONFIG).write_text("{")
    before = snapshot(tmp_path)
    with pytest.raises(RunFolderError, match=r"not a folder|not a run of snnfast"):
        make(tmp_path, mode=mode)
    assert snapshot(tmp_path) == before


def test_another_format_is_refused(tmp_path):
    run = make(tmp_path)
    (run.path / CONFIG).write_text('{"kind": "snnfast-run", "format": 2}')
    with pytest.raises(RunFolderError, match="another version of snnfast"):
        make(tmp_path, mode="overwrite")


def test_resume_reads_what_is_finished(tmp_path):
    make(tmp_path)
    with open_run(tmp_path, "one", {"settings": {"seed": 9}}, "resume", OWNED) as run:
        assert run.resumed
        assert run.config["settings"] == {"seed": 1}, "the stored config counts"
        assert run.completed("a") == {"stage": "a"}
        assert run.completed("b") == {"stage": "b"}
        assert run.completed("c") is None
        assert run.seconds("a") == 1.5


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_file_sends_its_stage_and_the_later_ones_back(tmp_path, damage):
    run = make(tmp_path, stages=("a", "b", "c"))
    if damage == "changed":
        (run.path / "b.bin").write_bytes(b"x")
    else:
        (run.path / "b.bin").unlink()
    with open_run(tmp_path, "one", {}, "resume", OWNED) as resumed:
        assert resumed.completed("a") == {"stage": "a"}
        assert resumed.completed("b") is None
        assert resumed.completed("c") is None, "c was made from b"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stages": 3}', '{"stages": {"a": {"files": {"../x": "y"}}}}'])
def test_damaged_stages_count_as_unfinished(tmp_path, text):
    run = make(tmp_path)
    (run.path / STAGES).write_text(text)
    with open_run(tmp_path, "one", {}, "resume", OWNED) as resumed:
        assert resumed.completed("a") is None


def test_resume_of_nothing_starts(tmp_path):
    run = make(tmp_path, mode="resume")
    assert not run.resumed
    assert (run.path / CONFIG).exists()


def test_a_process_killed_before_its_first_file_leaves_a_free_folder(tmp_path):
    path = tmp_path / "one"
    path.mkdir()
    (path / LOCK).write_text("123\n")
    (path / f".{CONFIG}.tmp-123-abcd").write_text("{")
    (path / ".snnfast-123-abcd").write_text("")
    assert make(tmp_path).path == path


def test_two_writers(tmp_path):
    with open_run(tmp_path, "one", {}, "new", OWNED) as run:
        for mode in ("new", "resume", "overwrite"):
            with pytest.raises(RunFolderError, match=rf"in use by another process \(pid {os.getpid()}\)|already holds"):
                make(tmp_path, mode=mode)
        assert make(tmp_path, mode="suffix").path.name == "one-2"
        assert (run.path / LOCK).read_text() == f"{os.getpid()}\n"
    make(tmp_path, mode="overwrite")


def test_a_lock_of_a_killed_process_holds_nobody_up(tmp_path):
    script = (
        "import os, signal, sys, pathlib\n"
        "from snnfast.runs import open_run\n"
        "with open_run(pathlib.Path(sys.argv[1]), 'one', {}, 'new', ()):\n"
        "    print('locked', flush=True)\n"
        "    signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(RunFolderError, match=rf"in use by another process \(pid {process.pid}\)"):
            make(tmp_path, mode="resume")
        process.kill()
        process.wait()
    assert (tmp_path / "one" / LOCK).read_text() == f"{process.pid}\n", "it did not have time to clean up"
    assert make(tmp_path, mode="resume").resumed


def test_a_folder_can_be_used_again_while_a_child_of_fork_lives(tmp_path):
    with open_run(tmp_path, "one", {}, "new", OWNED):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
    try:
        assert make(tmp_path, mode="resume").resumed
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_child_of_fork_that_ends_leaves_its_parent_the_folder(tmp_path):
    with open_run(tmp_path, "one", {}, "new", OWNED) as run:
        child = os.fork()
        if child == 0:
            run.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        with pytest.raises(RunFolderError, match=rf"in use by another process \(pid {os.getpid()}\)"):
            make(tmp_path, mode="resume")


@pytest.mark.parametrize("finishes", [True, False], ids=["and finishes", "and is at work"])
def test_suffix_where_another_takes_the_name_at_the_same_moment(tmp_path, monkeypatch, finishes):
    make_folder, others = runs._make_folder, contextlib.ExitStack()

    def slow(path):
        monkeypatch.setattr(runs, "_make_folder", make_folder)
        other = others.enter_context(open_run(tmp_path, "one", {"who": "other"}, "suffix", OWNED))
        assert other.path == path
        if finishes:
            (other / OWNED[0]).write_text("the other's")
            other.finish("stage", [OWNED[0]], 1.0, {})
            others.close()
        make_folder(path)

    monkeypatch.setattr(runs, "_make_folder", slow)
    with open_run(tmp_path, "one", {"who": "this"}, "suffix", OWNED) as run:
        assert run.path.name == "one-2"
        assert run.config["who"] == "this"
    assert "other" in (tmp_path / "one" / CONFIG).read_text()
    if finishes:
        assert (tmp_path / "one" / OWNED[0]).read_text() == "the other's"
    others.close()


def test_many_threads_may_try_a_folder_at_once(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: check_writable(tmp_path), range(400)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../up", ".hidden", "-x", "a\nb", "a\\b"])
def test_bad_names(tmp_path, name):
    with pytest.raises(ValueError, match="name must be a plain name"):
        make(tmp_path, name)


def test_unwritable_places(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot make this folder"):
        make(tmp_path / "file")
    with pytest.raises(OSError, match="cannot write to this folder"):
        check_writable(tmp_path / "missing")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="cannot make this folder"):
        make(tmp_path)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_the_system_refuses_to_write_in(tmp_path, monkeypatch, number):
    """For root as well, whom mode bits do not stop."""
    refused = str(tmp_path / "runs")
    os.mkdir(refused)

    def guarded(real):
        def call(path, *args, **kwargs):
            if os.fspath(path).startswith(refused):
                raise OSError(number, os.strerror(number), os.fspath(path))
            return real(path, *args, **kwargs)

        return call

    monkeypatch.setattr(os, "open", guarded(os.open))
    monkeypatch.setattr(pathlib.Path, "mkdir", guarded(pathlib.Path.mkdir))  # 3.10 does not look os.mkdir up
    with pytest.raises(OSError, match="cannot write to this folder") as caught:
        check_writable(tmp_path / "runs")
    assert (caught.value.errno, caught.value.filename) == (number, refused)
    with pytest.raises(OSError, match="cannot make this folder") as caught:
        make(tmp_path / "runs")
    assert caught.value.errno == number
    monkeypatch.undo()
    assert os.listdir(refused) == []


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that nobody may write in")
def test_a_folder_that_nobody_may_write_in():
    with pytest.raises(OSError, match="cannot write to this folder"):
        check_writable(pathlib.Path("/proc"))
    with pytest.raises(OSError, match="cannot make this folder"):
        make(pathlib.Path("/proc"))


def test_time_of_attempts_is_kept_and_damaged_ones_are_not_believed(tmp_path):
    with open_run(tmp_path, "one", {}, "new", OWNED) as run:
        run.spend("a", 1.0)
        run.spend("a", 2.0)
    with open_run(tmp_path, "one", {}, "resume", OWNED) as run:
        assert run.spent("a") == 3.0
        (run / "a.bin").write_bytes(b"a")
        run.finish("a", ["a.bin"], 4.0, {})
        assert run.spent("a") == 0.0
    for text in ('{"spent": 3}', '{"spent": {"a": -1, "b": NaN, "c": "x"}}'):
        (tmp_path / "one" / STAGES).write_text(text)
        with open_run(tmp_path, "one", {}, "resume", OWNED) as run:
            assert [run.spent(stage) for stage in "abc"] == [0.0, 0.0, 0.0]
