# SPDX-License-Identifier: Apache-2.0
"""``snnfast run``: the whole path in a folder, and what happens when it is interrupted."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
import torch

from snnfast import SpikingNetwork
from snnfast.cli import main
from snnfast.cli import run as cli_run
from snnfast.learning import Replay, load_policy, policy_gradient

#: Small enough for seconds: an untrained policy, a short replay, short episodes.
SMALL = ["--max-episodes", "30", "--allow-unsolved", "--replay-size", "400", "--episodes", "4", "--max-steps", "50"]
FAST = [*SMALL, "--no-plots"]
FILES = [
    "initial.safetensors",
    "trained.safetensors",
    "training.csv",
    "replay.safetensors",
    "thesis.safetensors",
    "rate.safetensors",
    "evaluation.json",
]
PICTURES = ["training.png", "evaluation.png", "raster.png"]


def run(root, *arguments):
    return main(["run", "cartpole", "--root", str(root), *arguments])


def contents(folder):
    """Every file that has to be the same however often a run was interrupted; times are taken out."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name == "evaluation.json":
            found[path.name] = without_times(json.loads(path.read_text()))
        elif path.name in FILES + PICTURES:
            found[path.name] = path.read_bytes()
    return found


def without_times(value):
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if "second" not in k and k != "messages"}
    return value


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small finished run, with pictures."""
    root = tmp_path_factory.mktemp("finished")
    assert run(root, *SMALL, "--seed", "3") == 0
    return root / "cartpole"


def test_everything_is_there_and_readable(finished):
    names = {p.name for p in finished.iterdir()}
    assert names == {*FILES, *PICTURES, "config.json", "stages.json", "training.safetensors", ".lock"}
    policy, replay = load_policy(finished / "trained.safetensors"), Replay.load(finished / "replay.safetensors")
    assert len(replay) == 400
    with torch.no_grad():
        assert torch.equal(policy(replay.observations).argmax(1), replay.actions)
    assert (finished / "training.csv").read_text().count("\n") == 31
    for preset in ("thesis", "rate"):
        net = SpikingNetwork.load(finished / f"{preset}.safetensors")
        assert net.conversion["preset"] == preset
        assert net.conversion["replay"]["states"] == 400
    for picture in PICTURES:
        assert (finished / picture).read_bytes().startswith(b"\x89PNG")


def test_the_table_of_a_run_does_not_call_nearly_all_decisions_all(finished):
    results = json.loads((finished / "evaluation.json").read_text())
    for preset, share in (("thesis", 0.99998), ("rate", 1.0)):
        results["presets"][preset]["similarity"] = share
    assert re.search(r"similarity +99\.998 % +100\.00 % ", cli_run.results_table(results))


def test_one_episode_has_no_spread(finished):
    results = json.loads((finished / "evaluation.json").read_text())
    assert "sd of returns" in cli_run.results_table(results)
    results["original"]["episodes"] = 1
    table = cli_run.results_table(results)
    assert "over 1 episode\n" in table
    assert "sd of returns" not in table


def test_evaluation_json(finished):
    def refuse(constant):
        raise AssertionError(f"not strict JSON: {constant}")

    results = json.loads((finished / "evaluation.json").read_text(), parse_constant=refuse)
    assert results["seconds"] > 0
    assert set(results["presets"]) == {"thesis", "rate"}
    for report in results["presets"].values():
        assert 0 <= report["similarity"] <= 1
        assert report["decisions"] == sum(report["episode_decisions"]) > 0
        assert report["mean_return"] == pytest.approx(sum(report["returns"]) / 4)
        assert report["std_return"] >= 0
        assert report["spikes_per_decision"] > 0
        assert report["seed"] == 10_003
    assert results["settings"]["seed"] == 3
    assert results["training"]["episodes"] == 30
    assert results["versions"]["snnfast"]


def test_config_says_how_it_was_made(finished):
    config = json.loads((finished / "config.json").read_text())
    assert config["settings"]["replay_size"] == 400
    assert config["command"].startswith("snnfast run cartpole --root")
    assert "torch" in config["versions"]


def test_the_closing_table(tmp_path, capsys):
    assert run(tmp_path, *FAST) == 0
    out = capsys.readouterr().out
    for words in ("1/4 training", "2/4 recording", "3/4 converting", "4/4 evaluating"):
        assert words in out
    assert re.search(r"original +thesis +rate", out)
    assert re.search(r"similarity +\d+\.\d\d+ % +\d+\.\d\d+ % +share of decisions", out)
    assert f"files in {tmp_path / 'cartpole'}" in out
    assert "training.png" not in out.split("files in")[1].replace("training.png is the picture", "")


def test_the_same_seed_gives_the_same_files(finished, tmp_path):
    assert run(tmp_path, *FAST, "--seed", "3", "--name", "again") == 0
    again, first = contents(tmp_path / "again"), contents(finished)
    assert set(again) == set(FILES)
    assert first["evaluation.json"].pop("settings") != again["evaluation.json"].pop("settings"), "--no-plots"
    assert again == {name: first[name] for name in FILES}


def test_another_seed_gives_others(finished, tmp_path):
    assert run(tmp_path, *FAST, "--seed", "4") == 0
    other = contents(tmp_path / "cartpole")
    assert all(other[name] != contents(finished)[name] for name in FILES)


def test_an_existing_run_is_refused_before_anything_is_computed(finished, capsys, monkeypatch):
    monkeypatch.setattr("snnfast.cli.run.train_policy_gradient", lambda *a, **k: pytest.fail("computing"))
    before = contents(finished)
    assert run(finished.parent, *FAST) == 2
    error = capsys.readouterr().err
    assert error.startswith("snnfast: error: ")
    for option in ("--resume", "--overwrite", "--suffix", "cartpole-2"):
        assert option in error
    assert contents(finished) == before


def test_resume_of_a_finished_run_shows_its_results(finished, capsys, monkeypatch):
    monkeypatch.setattr("snnfast.cli.run.train_policy_gradient", lambda *a, **k: pytest.fail("computing"))
    before = contents(finished)
    stored = json.loads((finished / "evaluation.json").read_text())
    assert run(finished.parent, "--resume", "--json", "-") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == stored
    assert "is finished; these are its results" in captured.err
    assert contents(finished) == before


def test_resume_with_other_settings_is_refused(finished, capsys):
    assert run(finished.parent, "--resume", "--seed", "5", "--episodes", "9") == 2
    error = capsys.readouterr().err
    assert "was started with --seed 3, --episodes 4" in error


def test_resume_of_nothing_says_so_first_and_what_to_call_next_is_quoted(tmp_path, capsys):
    assert run(tmp_path, *FAST, "--name", "x y", "--resume") == 0
    said = capsys.readouterr().out
    assert said.startswith(f"nothing to resume: there was no run in {tmp_path}/x y, so one begins\n")
    following = next(line for line in said.splitlines() if line.startswith("next: "))
    assert shlex.split(following)[-2:] == ["--gif", "x y.gif"]


def test_suffix_and_overwrite(tmp_path, capsys):
    assert run(tmp_path, *FAST) == 0
    assert run(tmp_path, *FAST, "--suffix", "--seed", "2") == 0
    assert (tmp_path / "cartpole-2" / "evaluation.json").exists()
    (tmp_path / "cartpole" / "notes.txt").write_text("mine")
    assert run(tmp_path, *FAST, "--overwrite", "--seed", "2") == 0
    assert contents(tmp_path / "cartpole") == contents(tmp_path / "cartpole-2")
    assert (tmp_path / "cartpole" / "notes.txt").read_text() == "mine"
    assert "run folder" in capsys.readouterr().out


def test_a_folder_of_somebody_else_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "cartpole").mkdir()
    (tmp_path / "cartpole" / "thesis.safetensors").write_text("years of work")
    for option in ([], ["--overwrite"], ["--resume"]):
        assert run(tmp_path, *FAST, *option) == 2
        assert "is not a run of snnfast" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "cartpole").iterdir()] == ["thesis.safetensors"]


@pytest.mark.parametrize(
    "damaged", ["trained.safetensors", "replay.safetensors", "rate.safetensors", "evaluation.json"]
)
def test_a_damaged_file_is_made_again(tmp_path, damaged, capsys):
    assert run(tmp_path, *FAST) == 0
    folder = tmp_path / "cartpole"
    before = contents(folder)
    data = bytearray((folder / damaged).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / damaged).write_bytes(data)
    capsys.readouterr()
    assert run(tmp_path, "--resume") == 0
    assert contents(folder) == before
    reused = {"trained.safetensors": 0, "replay.safetensors": 1, "rate.safetensors": 2, "evaluation.json": 3}[damaged]
    assert capsys.readouterr().out.count("already done") == reused


def test_a_damaged_training_state_is_not_believed(tmp_path, capsys):
    assert run(tmp_path, *FAST[:2], "--no-plots") == 1  # stops after training: the policy is not good enough
    assert "not good enough" in capsys.readouterr().err
    folder = tmp_path / "cartpole"
    (folder / "training.safetensors").write_bytes(b"rubbish")
    assert run(tmp_path, "--resume", "--allow-unsolved") == 0
    assert "training starts from the beginning" in capsys.readouterr().out


def test_a_policy_that_is_not_good_enough_stops_the_run_but_loses_nothing(tmp_path, capsys):
    small = [o for o in FAST if o != "--allow-unsolved"]
    assert run(tmp_path, *small) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--max-episodes above 30" in error
    folder = tmp_path / "cartpole"
    assert not (folder / "trained.safetensors").exists()
    assert (folder / "training.csv").exists()
    assert run(tmp_path, "--resume", "--max-episodes", "45", "--allow-unsolved") == 0
    assert "resumed after episode 30" in capsys.readouterr().out
    assert (folder / "training.csv").read_text().count("\n") == 46
    assert run(tmp_path, *FAST, "--max-episodes", "45", "--name", "straight") == 0
    one, other = contents(folder), contents(tmp_path / "straight")
    assert one == other


#: The command, with the state of training written more often, so that little has to be computed to see one. The last
#: stage may wait to be killed.
SCRIPT = """
import os, sys, time
from snnfast.cli import run
from snnfast.learning import policy_gradient
policy_gradient._SECONDS_BETWEEN_CHECKPOINTS = 0.05
if "WAIT_BEFORE_EVALUATION" in os.environ:
    run.evaluate = lambda *arguments, **options: time.sleep(600)
from snnfast.cli import main
raise SystemExit(main(sys.argv[1:]))
"""


def start(root, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "run", "cartpole", "--root", str(root), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
    )


def wait_for(condition, process, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.005)


@pytest.mark.parametrize("stage", ["training", "a training state", "after recording"])
def test_kill_and_resume_gives_identical_files(tmp_path, stage):
    arguments = [*FAST, "--seed", "3", "--max-episodes", "100"]
    folder = tmp_path / "cartpole"
    waiting = {"WAIT_BEFORE_EVALUATION": "1"} if stage == "after recording" else {}
    with start(tmp_path, *arguments, **waiting) as process:
        stages = folder / "stages.json"
        conditions = {
            "training": (folder / "initial.safetensors").exists,
            "a training state": (folder / "training.safetensors").exists,
            "after recording": lambda: stages.exists() and "record" in stages.read_text(),
        }
        wait_for(conditions[stage], process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "evaluation.json").exists(), "killed too late to show anything"
    assert run(tmp_path, "--resume") == 0
    assert run(tmp_path, *arguments, "--name", "straight") == 0
    straight = contents(tmp_path / "straight")
    assert set(straight) == set(FILES)
    assert contents(folder) == straight


def test_ctrl_c_says_how_to_continue(tmp_path, capsys):
    with start(tmp_path, *FAST, "--max-episodes", "100000") as process:
        wait_for((tmp_path / "cartpole" / "training.safetensors").exists, process)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in out
    assert f"snnfast run cartpole --name cartpole --root {tmp_path} --resume" in out
    assert main(["run", "cartpole", "--root", str(tmp_path), "--resume", "--max-episodes", "1"]) == 0
    assert "resumed after episode" in capsys.readouterr().out


def test_the_hint_after_ctrl_c_can_be_pasted(tmp_path, capsys, monkeypatch):
    def interrupt(*a, **k):
        raise KeyboardInterrupt

    monkeypatch.setattr("snnfast.cli.run.train_policy_gradient", interrupt)
    monkeypatch.setattr("snnfast.cli.run.program", lambda: "path/to/snnfast")
    root = tmp_path / "my runs; and more"
    assert run(root, *FAST) == 130
    hint = capsys.readouterr().out.split("Continue with: ")[1].strip()
    words = ["path/to/snnfast", "run", "cartpole", "--name", "cartpole", "--root", str(root), "--resume"]
    assert shlex.split(hint) == words
    monkeypatch.undo()
    assert main(words[1:]) == 0


def test_the_time_of_all_sessions_counts(tmp_path, monkeypatch):
    """Two interruptions of training and two of later stages, each after 0.3 s that must not be lost."""
    real_episode, real_evaluate = policy_gradient._Run.episode, cli_run.evaluate
    stop: dict[str, int | None] = {}

    def episode(self, before):
        if before.episodes == stop["episode"]:
            time.sleep(0.3)
            raise KeyboardInterrupt
        return real_episode(self, before)

    def interrupt(*a, **k):
        time.sleep(0.3)
        raise KeyboardInterrupt

    monkeypatch.setattr(policy_gradient._Run, "episode", episode)
    wall = 0.0
    for number, option in ((10, []), (20, ["--resume"]), (None, ["--resume"]), (None, ["--resume"])):
        stop["episode"] = number
        monkeypatch.setattr(cli_run, "evaluate", interrupt)
        began = time.perf_counter()
        assert run(tmp_path, *FAST, *option) == 130
        wall += time.perf_counter() - began
    monkeypatch.setattr(cli_run, "evaluate", real_evaluate)
    began = time.perf_counter()
    assert run(tmp_path, *FAST, "--resume") == 0
    wall += time.perf_counter() - began
    folder = tmp_path / "cartpole"
    seconds = json.loads((folder / "evaluation.json").read_text())["seconds"]
    assert 4 * 0.3 <= seconds <= wall
    stages = json.loads((folder / "stages.json").read_text())
    assert stages["stages"]["train"]["seconds"] >= 2 * 0.3
    assert stages["stages"]["evaluate"]["seconds"] >= 2 * 0.3
    assert sum(stage["seconds"] for stage in stages["stages"].values()) <= wall
    assert stages["spent"] == {}


def test_json_into_the_folder_of_the_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("snnfast.cli.run.train_policy_gradient", lambda *a, **k: pytest.fail("computing"))
    (tmp_path / "cartpole").mkdir()
    assert run(tmp_path, *FAST, "--json", str(tmp_path / "cartpole" / "config.json")) == 2
    assert "is in the folder of the run: choose another place" in capsys.readouterr().err


def test_two_processes_in_one_folder(tmp_path, capsys):
    with start(tmp_path, *FAST, "--max-episodes", "100000") as process:
        wait_for((tmp_path / "cartpole" / "initial.safetensors").exists, process)
        for option in ("--resume", "--overwrite"):
            assert run(tmp_path, option) == 2
            assert f"in use by another process (pid {process.pid})" in capsys.readouterr().err
        process.kill()


def test_places_that_cannot_be_written_to(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("snnfast.cli.run.train_policy_gradient", lambda *a, **k: pytest.fail("computing"))
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "file", *FAST) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "cannot make this folder" in error
    assert run(tmp_path, *FAST, "--json", str(tmp_path / "nowhere" / "x.json")) == 1
    assert "there is no such folder" in capsys.readouterr().err
    assert not (tmp_path / "cartpole").exists()


def test_bad_name(tmp_path, capsys):
    assert run(tmp_path, "--name", "../up") == 2
    assert "--name must be a plain name for a folder" in capsys.readouterr().err


def test_without_matplotlib_it_says_so_and_goes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("snnfast.cli.run.plots_available", lambda: False)
    assert run(tmp_path, *SMALL) == 0
    assert 'no pictures: matplotlib is not installed (pip install "snnfast[plot]")' in capsys.readouterr().out
    assert not list((tmp_path / "cartpole").glob("*.png"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": "1"}, "seed is '1'"),
        ({"task": "chess"}, "unknown task 'chess'"),
        (None, "its settings are not those of a run"),
    ],
)
def test_a_damaged_config(finished, tmp_path, capsys, settings, message):
    folder = tmp_path / "cartpole"
    folder.mkdir()
    config = json.loads((finished / "config.json").read_text())
    config["settings"] = None if settings is None else {**config["settings"], **settings}
    (folder / "config.json").write_text(json.dumps(config))
    assert run(tmp_path, "--resume") == 1
    assert message in capsys.readouterr().err


@pytest.mark.long
def test_kills_at_many_moments_of_a_real_run(tmp_path):
    """The default run with seed 2, killed every few seconds until it is through, against an undisturbed one."""
    kills = 0
    for _ in range(60):
        with start(tmp_path, "--seed", "2", "--resume") as process:
            try:
                process.communicate(timeout=3.0 + 0.37 * kills)
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
        if process.returncode == 0:
            break
    assert kills >= 2
    assert run(tmp_path, "--seed", "2", "--name", "straight") == 0
    assert contents(tmp_path / "cartpole") == contents(tmp_path / "straight")
