# SPDX-License-Identifier: Apache-2.0
"""The command line: what every command has in common, and train, record, convert, evaluate, info, bench."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys

import gymnasium as gym
import pytest
import torch
from torch import nn

from snnfast import SpikingNetwork, __version__
from snnfast.cli import build_parser, learn, main
from snnfast.learning import Replay, load_policy, pretrained_policy, save_policy

COMMANDS = ("run", "train", "record", "convert", "evaluate", "sweep", "bench", "info")


def strict_json(text):
    def refuse(constant):
        raise AssertionError(f"not strict JSON: {constant}")

    return json.loads(text, parse_constant=refuse)


def error_of(capsys):
    """The one line that a failed command has printed."""
    error = capsys.readouterr().err
    assert error.startswith("snnfast: error: ")
    assert error.endswith("\n")
    assert error.count("\n") == 1, error
    return error


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A replay memory and two converted networks of the shipped policy, made by the commands themselves."""
    folder = tmp_path_factory.mktemp("files")
    replay = str(folder / "replay.safetensors")
    assert main(["record", "cartpole", "--out", replay, "--size", "3000", "--seed", "5"]) == 0
    for preset in ("thesis", "rate"):
        out = str(folder / f"{preset}.safetensors")
        assert main(["convert", "cartpole", "--replay", replay, "--preset", preset, "--out", out]) == 0
    save_policy(pretrained_policy("CartPole-v1"), folder / "policy.safetensors")  # without saying for which environment
    return folder


# All commands


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_and_the_common_options(command, capsys):
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"example:\n  snnfast {command} " in text
    for option in ("--json F", "--seed N", "--debug"):
        assert option in text


@pytest.mark.parametrize("command", COMMANDS)
def test_the_example_of_the_help_is_a_valid_command_line(command, capsys):
    main([command, "--help"])
    example = capsys.readouterr().out.split("example:\n  snnfast ")[1].strip()
    assert build_parser().parse_args(example.split()).command == command


def test_the_top_help_lists_the_commands(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"    {command} " in text for command in COMMANDS)
    assert "snnfast run cartpole" in text


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"snnfast {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["run"],
        ["run", "chess"],
        ["run", "cartpole", "--resume", "--overwrite"],
        ["run", "cartpole", "--seed", "-1"],
        ["run", "cartpole", "--seed", "1.5"],
        ["run", "cartpole", "--episodes", "0"],
        ["train", "CartPole-v1"],
        ["train", "CartPole-v1", "--out", "x", "--hidden", "16,x"],
        ["train", "CartPole-v1", "--out", "x", "--gamma", "2"],
        ["train", "CartPole-v1", "--out", "x", "--learning-rate", "-1"],
        ["train", "CartPole-v1", "--out", "x", "--threshold", "nan"],
        ["train", "CartPole-v1", "--out", "x", "--max-steps", "none"],
        ["evaluate", "cartpole", "--epsilon", "2"],
        ["evaluate", "cartpole", "--epsilon", "nan"],
        ["evaluate", "cartpole", "--max-noops", "-1"],
        ["evaluate", "cartpole", "--max-steps", "0"],
        ["convert", "cartpole"],
        ["convert", "cartpole", "--out", "x", "--preset", "best"],
        ["convert", "cartpole", "--out", "x", "--scaling", "max"],
        ["bench", "everything"],
        ["info", "--js", "x"],  # no guessing of abbreviations
    ],
)
def test_usage_errors(arguments, capsys):
    assert main(arguments) == 2
    assert "usage: snnfast" in capsys.readouterr().err


def test_python_m_snnfast():
    done = subprocess.run([sys.executable, "-m", "snnfast", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"snnfast {__version__}\n"


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(FileNotFoundError):
        main(["evaluate", str(tmp_path / "none"), "--debug"])


def test_an_unexpected_error_is_one_line_with_its_kind(monkeypatch, capsys):
    def fail():
        raise ZeroDivisionError("by\nnothing")

    monkeypatch.setattr("snnfast.cli.info.info", fail)
    assert main(["info"]) == 1
    assert error_of(capsys) == "snnfast: error: ZeroDivisionError: by nothing\n"


def test_a_range_error_says_what_was_required(capsys):
    for option, text, required in (
        ("--epsilon", "2", "must be a finite number from 0 to 1, got '2'"),
        ("--max-noops", "-1", "must be a whole number from 0 to 2147483647, got '-1'"),
    ):
        assert main(["evaluate", "cartpole", option, text]) == 2
        assert f"argument {option}: {required}" in capsys.readouterr().err


def test_what_diverges_is_said_in_our_own_words(monkeypatch, capsys):
    def diverge():
        raise FloatingPointError("training diverged in episode 3")

    monkeypatch.setattr("snnfast.cli.info.info", diverge)
    assert main(["info"]) == 1
    assert error_of(capsys) == "snnfast: error: training diverged in episode 3\n"


def test_ctrl_c(monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr("snnfast.cli.info.info", interrupt)
    assert main(["info"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_reader_that_leaves_early():
    command = f"{sys.executable} -m snnfast info --json - | head -c 5"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout == '{\n  "'
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.fixture
def unread():
    """A standard output that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize(
    ("command", "files"),
    [
        ("evaluate cartpole --episodes 1 --max-steps 9 --json e.json --plot e.png --gif e.gif", "e.gif e.json e.png"),
        (
            "sweep cartpole --methods rate --timesteps 4 --size 60 --held-out-size 60 --out page --json s.json",
            "page page/index.html s.json",
        ),
        ("convert cartpole --size 60 --out n.st --json n.json", "n.json n.st"),
        ("record cartpole --size 60 --out r.st --json -", "r.st"),
        ("train CartPole-v1 --max-episodes 2 --out p.st --csv p.csv", "p.csv p.st p.training.safetensors"),
        ("run cartpole --name one --max-episodes 2", "runs/one/training.csv"),
    ],
    ids=lambda text: text.split()[0],
)
def test_files_are_written_when_nobody_reads_the_words(tmp_path, unread, command, files):
    """As in ``| head -0``, and whatever of it is said first."""
    command = [sys.executable, "-m", "snnfast", *command.split()]
    done = subprocess.run(
        command, stdout=unread, stderr=subprocess.PIPE, text=True, cwd=tmp_path, timeout=120, check=False
    )
    assert done.returncode == 1
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert set(files.split()) <= found
    if command[3] != "run":  # which says as usual that the policy is not good enough
        assert "Error" not in done.stderr
        assert "snnfast: error" not in done.stderr


def test_nothing_goes_on_for_words_that_nobody_reads(tmp_path, unread):
    script = (
        "import sys\n"
        "from snnfast.bench import methods\n"
        "from snnfast.cli import main\n"
        "def run(*, quick, say):\n"
        "    say('one')\n"
        "    raise SystemExit('went on')\n"
        "methods.run = run\n"
        "sys.exit(main(['bench', 'methods']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=unread, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (1, "")


def test_words_that_do_not_fit_are_an_error_after_the_files(tmp_path):
    command = [sys.executable, "-m", "snnfast", "record", "cartpole", "--size", "60", "--out", "r.st"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (1, "snnfast: error: standard output: No space left on device\n")
    assert len(Replay.load(tmp_path / "r.st")) == 60


def test_a_closed_standard_output(tmp_path):
    for option, code in (("-", 2), ("f.json", 0)):
        command = f"{sys.executable} -m snnfast info --json {option} >&-"
        done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False)
        assert done.returncode == code
        assert done.stderr == (
            ""
            if code == 0
            else "snnfast: error: --json - needs a standard output, and this one is closed: name a file\n"
        )
    assert strict_json((tmp_path / "f.json").read_text())["snnfast"] == __version__


# info


def test_info(capsys, tmp_path):
    assert main(["info", "--json", str(tmp_path / "info.json")]) == 0
    assert f"snnfast            {__version__}" in capsys.readouterr().out
    facts = strict_json((tmp_path / "info.json").read_text())
    assert facts["snnfast"] == __version__
    assert main(["info", "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert strict_json(captured.out) == facts


# record


def test_record(files, tmp_path, capsys):
    replay = Replay.load(files / "replay.safetensors")
    assert len(replay) == 3000
    assert replay.metadata["env_id"] == "CartPole-v1"
    assert replay.metadata["seed"] == 5
    out = tmp_path / "r.safetensors"
    assert main(["record", "cartpole", "--out", str(out), "--size", "50", "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert strict_json(captured.out)["states"] == 50
    assert "50 states of CartPole-v1, seed 1" in captured.err


def test_record_from_a_file_needs_to_know_the_environment(files, tmp_path, capsys):
    arguments = ["record", str(files / "policy.safetensors"), "--size", "10", "--out", str(tmp_path / "r.safetensors")]
    assert main(arguments) == 2
    assert "does not say which environment it is for: add --env" in error_of(capsys)
    assert main([*arguments, "--env", "CartPole-v1"]) == 0


# convert


def test_convert(files):
    thesis, rate = (SpikingNetwork.load(files / f"{p}.safetensors") for p in ("thesis", "rate"))
    assert thesis.conversion["preset"] == "thesis"
    assert rate.conversion["preset"] == "rate"
    assert rate.conversion["replay"]["states"] == 3000
    assert (thesis.neuron.order, rate.neuron.order) == ("delayed", "immediate")


def test_convert_records_a_replay_if_it_is_given_none(tmp_path, capsys):
    out = tmp_path / "net.safetensors"
    arguments = ["convert", "cartpole", "--out", str(out), "--size", "500", "--timesteps", "20", "--seed", "4"]
    assert main([*arguments, "--json", str(tmp_path / "x.json")]) == 0
    text = capsys.readouterr().out
    assert "500 states of CartPole-v1, recorded now (seed 4)" in text
    assert "of the replay's decisions are the original's" in text
    told = strict_json((tmp_path / "x.json").read_text())
    network = SpikingNetwork.load(out)
    assert told["conversion"] == network.conversion
    assert network.timesteps == 20


def test_convert_options_reach_the_conversion(files, tmp_path):
    out = tmp_path / "net.safetensors"
    options = "--scaling robust --percentile 98 --order delayed --initial-potential 0.25 --readout final --split-inputs"
    command = ["convert", "cartpole", "--replay", str(files / "replay.safetensors"), "--out", str(out)]
    assert main([*command, *options.split()]) == 0
    network = SpikingNetwork.load(out)
    settings = network.conversion["settings"]
    assert (settings["scaling"], settings["percentile"], settings["order"]) == ("robust", 98.0, "delayed")
    assert network.neuron.initial_potential == 0.25
    assert network.spec.decoding == "potential"
    assert network.spec.split_inputs
    assert main([*command, "--no-shift", "--overwrite"]) == 0
    assert SpikingNetwork.load(out).conversion["settings"]["shift"] is False


def test_model_scaling_needs_no_replay(tmp_path, monkeypatch):
    monkeypatch.setattr("snnfast.cli.convert.record_replay", lambda *a, **k: pytest.fail("recording"))
    assert main(["convert", "cartpole", "--scaling", "model", "--out", str(tmp_path / "net.safetensors")]) == 0


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--percentile", "0"], 2, "percentile must be above 0 and at most 100"),
        (["--scaling", "robust", "--shift"], 2, "shift=True needs scaling='neuron'"),
        (["--env", "CartPole-v1"], 2, "--env and --size are for recording a replay"),
        (["--replay", "nowhere.safetensors"], 1, "nowhere.safetensors: No such file"),
        (["--replay", "{files}/policy.safetensors"], 1, "holds a 'policy', but a 'replay' is required"),
    ],
)
def test_convert_errors(files, tmp_path, capsys, options, code, message):
    options = [option.format(files=files) for option in options]
    if "--replay" not in options:
        options += ["--replay", str(files / "replay.safetensors")]
    out = tmp_path / "net.safetensors"
    assert main(["convert", "cartpole", "--out", str(out), *options]) == code
    assert message in error_of(capsys)
    assert not out.exists()


def test_an_existing_file_is_not_replaced_unasked(files, tmp_path, capsys, monkeypatch):
    out = tmp_path / "net.safetensors"
    out.write_text("precious")
    for command in (["convert", "cartpole", "--scaling", "model"], ["record", "cartpole", "--size", "10"]):
        assert main([*command, "--out", str(out)]) == 2
        assert "exists already; choose another name, or add --overwrite" in error_of(capsys)
    assert main(["train", "CartPole-v1", "--out", str(out)]) == 2
    assert "exists already" in error_of(capsys)
    assert out.read_text() == "precious"
    assert main(["record", "cartpole", "--size", "10", "--out", str(out), "--overwrite"]) == 0


@pytest.mark.parametrize("option", ["--out", "--json"])
@pytest.mark.parametrize(
    ("place", "message"), [("missing/x.json", "there is no such folder"), ("", "this is a folder")]
)
def test_places_that_cannot_be_written_to(tmp_path, capsys, monkeypatch, option, place, message):
    monkeypatch.setattr("snnfast.cli.learn.record_replay", lambda *a, **k: pytest.fail("computing"))
    target = str(tmp_path / place)
    options = ["--out", target] if option == "--out" else ["--out", str(tmp_path / "ok"), "--json", target]
    assert main(["record", "cartpole", *options]) == 1
    assert message in error_of(capsys)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("x" * 256, "File name too long"),
        ("dangling", "there is no such folder"),
        ("loop", "Too many levels of symbolic links"),
    ],
)
def test_places_that_only_look_as_if_they_could(tmp_path, capsys, monkeypatch, place, message):
    (tmp_path / "dangling").symlink_to("missing/x")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.setattr("snnfast.cli.learn.record_replay", lambda *a, **k: pytest.fail("computing"))
    monkeypatch.setattr("snnfast.cli.sweep.record_replay", lambda *a, **k: pytest.fail("computing"))
    assert main(["record", "cartpole", "--out", str(tmp_path / place)]) == 1
    assert message in error_of(capsys)
    assert main(["sweep", "cartpole", "--out", str(tmp_path / place)]) in (1, 2)
    assert message in error_of(capsys)


def test_the_state_of_training_has_the_longer_name(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("snnfast.cli.learn.train_policy_gradient", lambda *a, **k: pytest.fail("computing"))
    assert main(["train", "CartPole-v1", "--out", str(tmp_path / ("x" * 240))]) == 1
    assert ".training.safetensors: File name too long" in error_of(capsys)


def test_a_link_into_another_folder_is_written_through(tmp_path, capsys):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/r.st")
    assert main(["record", "cartpole", "--size", "10", "--out", str(tmp_path / "link")]) == 0
    assert len(Replay.load(tmp_path / "there" / "r.st")) == 10


def test_options_that_name_the_same_file(files, tmp_path, capsys, monkeypatch):
    for place in (
        "learn.record_replay",
        "learn.train_policy_gradient",
        "convert.convert",
        "evaluate.evaluate",
        "sweep.record_replay",
    ):
        monkeypatch.setattr(f"snnfast.cli.{place}", lambda *a, **k: pytest.fail("computing"))
    monkeypatch.chdir(tmp_path)
    policy = (files / "policy.safetensors").read_bytes()
    (tmp_path / "p.st").write_bytes(policy)
    (tmp_path / "r.st").write_bytes((files / "replay.safetensors").read_bytes())
    (tmp_path / "link").symlink_to("p.st")
    (tmp_path / "sub").mkdir()
    commands = {
        "convert p.st --scaling model --out x --json ./x": "--out and --json",
        "convert p.st --scaling model --out link --overwrite": "the policy and --out",
        "convert p.st --replay r.st --out sub/../r.st --overwrite": "--replay and --out",
        "convert p.st --replay r.st --out x --json r.st": "--replay and --json",
        "record cartpole --out x --json x": "--out and --json",
        "record p.st --env CartPole-v1 --out p.st --overwrite": "the policy and --out",
        "train CartPole-v1 --out x --json x": "--out and --json",
        "train CartPole-v1 --out x --csv x": "--out and --csv",
        "train CartPole-v1 --out x.png --plot x.png": "--out and --plot",
        "train CartPole-v1 --out x --csv c.png --plot c.png": "--csv and --plot",
        "train CartPole-v1 --out x.st --csv x.training.safetensors": "the state of training and --csv",
        "evaluate cartpole --plot e.png --json e.png": "--plot and --json",
        "evaluate cartpole --gif e.gif --json e.gif": "--gif and --json",
        "evaluate p.st --env CartPole-v1 --json p.st": "the agent and --json",
        "evaluate cartpole --compare p.st --json p.st": "--compare and --json",
        "convert p.st --scaling model --out sub/raster.png --report sub": "the page of --report and --out",
        "convert p.st --scaling model --out x --report sub --json ./sub/index.html": "the page of --report and --json",
        "convert p.st --scaling model --out w --report w": "the page of --report and --out",
        "sweep p.st --out sub --json sub/index.html": "the page of --out and --json",
        "sweep p.st --out sub --json sub/percentiles.png": "the page of --out and --json",
        "sweep p.st --out w --json w": "the page of --out and --json",
    }
    before = sorted(tmp_path.iterdir())
    for command, names in commands.items():
        assert main(command.split()) == 2, command
        assert f"{names} name the same file" in error_of(capsys), command
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "p.st").read_bytes() == policy


def test_a_pipe_is_no_agent_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "f")
    for arguments in (["evaluate", "f", "--env", "CartPole-v1"], ["convert", "f", "--out", "x"]):
        command = [sys.executable, "-m", "snnfast", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "f: not a file (a folder or a device)" in done.stderr


def test_json_into_a_pipe(tmp_path):
    """As in ``--json >(jq .)``: there is nothing to replace, so the pipe is written to."""
    os.mkfifo(tmp_path / "f")
    command = [sys.executable, "-m", "snnfast", "info", "--json", "f"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        descriptor = os.open(tmp_path / "f", os.O_RDONLY | os.O_NONBLOCK)  # O_NONBLOCK: a failure must not hang
        words, _ = process.communicate(timeout=60)
        found = os.read(descriptor, 1 << 16)  # less than a pipe holds
        os.close(descriptor)
    assert process.returncode == 0
    assert strict_json(found.decode())["snnfast"] == __version__
    assert words.startswith("snnfast "), "words where they always are"
    assert stat.S_ISFIFO(os.stat(tmp_path / "f").st_mode)


@pytest.mark.parametrize("redirected", ["pipe", "file"])
def test_json_to_the_file_of_standard_output(tmp_path, redirected):
    """Words go elsewhere then, as with '-'."""
    command = [sys.executable, "-m", "snnfast", "record", "cartpole", "--size", "10", "--out", "r", "--json"]
    with open(tmp_path / "out", "wb") as file:
        done = subprocess.run(
            [*command, "/dev/stdout"],
            stdout=subprocess.PIPE if redirected == "pipe" else file,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            timeout=60,
            check=True,
        )
    found = done.stdout if redirected == "pipe" else (tmp_path / "out").read_bytes()
    assert strict_json(found.decode())["states"] == 10
    assert b"wrote r" in done.stderr


def test_only_json_goes_to_a_pipe_or_a_device(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("snnfast.cli.learn.train_policy_gradient", lambda *a, **k: pytest.fail("computing"))
    os.mkfifo(tmp_path / "f.png")
    for option in ("--csv", "--plot"):
        assert main(["train", "CartPole-v1", "--out", str(tmp_path / "x"), option, str(tmp_path / "f.png")]) == 2
        assert "f.png is a pipe or a device; a file is needed" in error_of(capsys)
    assert main(["record", "cartpole", "--out", "/dev/null", "--overwrite"]) == 2
    assert "/dev/null is a pipe or a device" in error_of(capsys)
    assert main(["info", "--json", "/dev/null"]) == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


# evaluate


def test_evaluate_compares(files, tmp_path, capsys):
    network = str(files / "rate.safetensors")
    report = tmp_path / "report.json"
    arguments = ["evaluate", network, "--compare", "cartpole", "--episodes", "6", "--max-steps", "60", "--seed", "9"]
    assert main([*arguments, "--json", str(report), "--plot", str(tmp_path / "e.png")]) == 0
    text = capsys.readouterr().out
    assert "similarity" in text
    assert "CartPole-v1: 6 episodes" in text
    found = strict_json(report.read_text())
    assert found["seed"] == 9
    assert found["similarity"] > 0.9
    assert found["decisions"] == sum(found["lengths"])
    assert (tmp_path / "e.png").read_bytes().startswith(b"\x89PNG")
    assert main([*arguments, "--json", "-"]) == 0
    again = strict_json(capsys.readouterr().out)
    times = {k for k in found if "second" in k}
    assert {k: v for k, v in again.items() if k not in times} == {k: v for k, v in found.items() if k not in times}


def test_evaluate_a_policy_and_the_shipped_one(files, capsys):
    small = ["--episodes", "2", "--max-steps", "20"]
    assert main(["evaluate", "cartpole", *small]) == 0
    assert "spikes" not in capsys.readouterr().out
    assert main(["evaluate", str(files / "policy.safetensors"), *small]) == 2
    assert "does not say which environment" in error_of(capsys)
    assert main(["evaluate", str(files / "policy.safetensors"), "--env", "CartPole-v1", *small]) == 0


def test_the_limit_of_the_environment(tmp_path, capsys):
    """MountainCar has 200 steps, which the default of 500 replaces, also upwards."""
    save_policy(nn.Sequential(nn.Linear(2, 3)), tmp_path / "p")
    command = ["evaluate", str(tmp_path / "p"), "--env", "MountainCar-v0", "--episodes", "1", "--json", "-"]
    for options, limit in (([], 500), (["--max-steps", "none"], 200)):
        assert main([*command, *options]) == 0
        assert strict_json(capsys.readouterr().out)["max_steps"] == limit
    command = ["record", str(tmp_path / "p"), "--env", "MountainCar-v0", "--size", "600", "--json", "-"]
    for options, limit in (([], 500), (["--max-steps", "none"], 200)):
        assert main([*command, "--out", str(tmp_path / f"replay{limit}"), *options]) == 0
        metadata = strict_json(capsys.readouterr().out)["metadata"]
        assert metadata["max_steps"] == metadata["episode_lengths"][0] == limit


def test_only_a_file_goes_before_the_word(files, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cartpole").mkdir()
    small = ["--episodes", "2", "--max-steps", "20"]
    assert main(["evaluate", "cartpole", *small]) == 0
    assert main(["record", "cartpole", "--size", "10", "--out", "r.st"]) == 0
    (tmp_path / "cartpole").rmdir()
    capsys.readouterr()
    (tmp_path / "cartpole").write_bytes(b"damaged")
    for command in (["evaluate", "cartpole", *small], ["record", "cartpole", "--out", "s.st"]):
        assert main(command) == 1
        assert error_of(capsys).startswith("snnfast: error: ./cartpole: damaged"), "the file was meant"
    (tmp_path / "cartpole").write_bytes((files / "policy.safetensors").read_bytes())
    assert main(["evaluate", "cartpole", *small]) == 2
    assert "./cartpole does not say which environment" in error_of(capsys)


@pytest.mark.parametrize(
    ("agent", "options", "message"),
    [
        ("nowhere.safetensors", [], "nowhere.safetensors: No such file"),
        ("replay.safetensors", [], "holds a 'replay', but a 'spiking-network' is required"),
        ("damaged.safetensors", [], "damaged"),
        ("rate.safetensors", ["--compare", "replay.safetensors"], "No such file|required"),
        ("rate.safetensors", ["--env", "Nothing-v0"], "env_id must be a registered"),
        ("rate.safetensors", ["--env", "Pendulum-v1"], "discrete actions"),
        ("rate.safetensors", ["--env", "Acrobot-v1"], "takes observations of 4 numbers, got 6"),
        ("cartpole", ["--env", "Acrobot-v1"], "takes observations of 4 numbers, got 6 from 'Acrobot-v1'"),
        ("rate.safetensors", ["--gif", "missing/film.gif"], "there is no such folder"),
    ],
)
def test_evaluate_errors(files, capsys, monkeypatch, agent, options, message):
    data = bytearray((files / "rate.safetensors").read_bytes())
    data[-3] ^= 1
    (files / "damaged.safetensors").write_bytes(data)
    monkeypatch.chdir(files)
    assert main(["evaluate", agent, *options]) == 1
    error = error_of(capsys)
    assert any(part in error for part in message.split("|"))


def test_a_plot_that_cannot_be_drawn_is_refused_first(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("snnfast.cli.evaluate.evaluate", lambda *a, **k: pytest.fail("computing"))
    network = str(files / "rate.safetensors")
    assert main(["evaluate", network, "--plot", str(tmp_path / "x.bmp")]) == 2
    assert "must end in .png, .pdf or .svg" in error_of(capsys)
    monkeypatch.setattr("snnfast.cli.common.plots_available", lambda: False)
    assert main(["evaluate", network, "--plot", str(tmp_path / "x.png")]) == 1
    assert 'pip install "snnfast[plot]"' in error_of(capsys)


# train

SHORT = ["--max-episodes", "25", "--hidden", "8"]


def test_train_gives_up_and_continues(tmp_path, capsys):
    out, csv = tmp_path / "policy.safetensors", tmp_path / "t.csv"
    command = ["train", "CartPole-v1", "--out", str(out)]
    assert main([*command, *SHORT, "--csv", str(csv), "--plot", str(tmp_path / "t.png")]) == 1
    text = capsys.readouterr().out
    assert "not solved in 25 episodes" in text
    assert "continue with --resume and a larger --max-episodes" in text
    assert csv.read_text().count("\n") == 26
    assert (tmp_path / "t.png").exists()
    assert [layer.out_features for layer in load_policy(out) if hasattr(layer, "out_features")] == [8, 2]
    assert main([*command, *SHORT]) == 2
    assert "exists already" in error_of(capsys)
    assert main([*command, *SHORT, "--resume", "--max-episodes", "40", "--csv", str(csv)]) == 1
    assert csv.read_text().count("\n") == 41
    straight = tmp_path / "straight.safetensors"
    assert main(["train", "cartpole", "--out", str(straight), *SHORT, "--max-episodes", "40"]) == 1
    for a, b in zip(load_policy(out).parameters(), load_policy(straight).parameters(), strict=True):
        assert torch.equal(a, b)


def test_train_until_solved(tmp_path, capsys):
    """An easy standard: a mean return of 9 is what nearly any policy reaches."""
    out = tmp_path / "policy.safetensors"
    command = ["train", "CartPole-v1", "--out", str(out), "--threshold", "9", "--max-episodes", "250", "--seed", "2"]
    code = main([*command, "--json", "-"])
    found = strict_json(capsys.readouterr().out)
    assert found["solved_at"] == 199, "100 episodes for the mean, then 100 in a row"
    assert code == (0 if found["holds"] else 1)
    assert (tmp_path / "policy.training.safetensors").exists() == (code == 1)


def test_train_state_without_a_policy_is_kept(tmp_path, capsys):
    (tmp_path / "policy.training.safetensors").write_bytes(b"state")
    assert main(["train", "CartPole-v1", "--out", str(tmp_path / "policy.safetensors")]) == 2
    assert "holds a training run that was stopped: add --resume" in error_of(capsys)


@pytest.mark.parametrize("begun", [False, True])
def test_ctrl_c_speaks_of_a_state_of_training_only_where_there_is_one(tmp_path, capsys, monkeypatch, begun):
    state = tmp_path / "policy.training.safetensors"

    def interrupt(*_, **__):
        if begun:
            state.write_bytes(b"state")
        raise KeyboardInterrupt

    monkeypatch.setattr("snnfast.cli.learn.train_policy_gradient", interrupt)
    assert main(["train", "CartPole-v1", "--out", str(tmp_path / "policy.safetensors")]) == 130
    said = capsys.readouterr().out
    if begun:
        assert said == f"stopped; the state of training is in {state}: continue with --resume\n"
    else:
        assert said == "stopped before training began\n"


EXTRA = """
import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv
gym.register("SnnfastExtra/Pole-v0", entry_point=CartPoleEnv, max_episode_steps=30)
"""


def test_environments_of_other_packages(files, tmp_path, capsys, monkeypatch):
    (tmp_path / "snnfast_extra_envs.py").write_text(EXTRA)
    (tmp_path / "snnfast_broken_envs.py").write_text("raise OSError('no\\ngame')")
    monkeypatch.syspath_prepend(tmp_path)
    out = str(tmp_path / "replay.safetensors")
    record = ["record", "cartpole", "--out", out, "--size", "40"]
    # A name does not import: names come from files, too. The message says what does.
    assert main([*record, "--env", "snnfast_extra_envs:SnnfastExtra/Pole-v0"]) == 1
    assert "on the command line: --import snnfast_extra_envs" in error_of(capsys)
    assert "snnfast_extra_envs" not in sys.modules
    try:
        for command in (
            [*record, "--env", "SnnfastExtra/Pole-v0"],
            ["train", "SnnfastExtra/Pole-v0", "--out", str(tmp_path / "p"), "--max-episodes", "1", "--threshold", "9"],
            ["convert", "cartpole", "--env", "SnnfastExtra/Pole-v0", "--size", "40", "--out", str(tmp_path / "n")],
            ["evaluate", "cartpole", "--env", "SnnfastExtra/Pole-v0", "--episodes", "1"],
        ):
            code = main([*command, "--import", "snnfast_extra_envs"])
            assert code == (1 if command[0] == "train" else 0), capsys.readouterr().err  # one episode is not enough
            sys.modules.pop("snnfast_extra_envs")
            gym.registry.pop("SnnfastExtra/Pole-v0")
    finally:
        gym.registry.pop("SnnfastExtra/Pole-v0", None)
    assert Replay.load(out).metadata["env_id"] == "SnnfastExtra/Pole-v0"
    capsys.readouterr()
    for name, why in (
        ("no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("snnfast_broken_envs", "OSError: no game"),
    ):
        assert main(["evaluate", "cartpole", "--import", name]) == 2
        assert f"--import must name a module that Python can import, got '{name}': {why}" in error_of(capsys)


def test_import_finds_modules_in_the_working_directory(tmp_path):
    """Also with the script that is installed, whose own folder is what Python begins with."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "snnfast").write_text("import sys\nfrom snnfast.cli import main\nsys.exit(main())\n")
    (tmp_path / "my_envs.py").write_text("print('imported')\n")
    command = ["bin/snnfast", "evaluate", "cartpole", "--episodes", "1", "--max-steps", "5", "--import", "my_envs"]
    for flags, code in [([], 0), (["-P"], 2)][: 1 + (sys.version_info >= (3, 11))]:
        done = subprocess.run(
            [sys.executable, *flags, *command], capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False
        )
        assert done.returncode == code, done.stderr
        assert done.stdout.startswith("imported\n") == (code == 0)


def test_nothing_to_resume(files, capsys):
    assert main(["train", "CartPole-v1", "--out", str(files / "policy.safetensors"), "--resume"]) == 2
    assert "is finished: there is nothing to resume" in error_of(capsys)


def test_nothing_to_resume_is_said_before_training(tmp_path, capsys, monkeypatch):
    real = learn.train_policy_gradient

    def train(*arguments, **options):
        said = capsys.readouterr().out
        assert (
            said == f"nothing to resume at {tmp_path}/typo.training.safetensors: training starts from the beginning\n"
        )
        return real(*arguments, **options)

    monkeypatch.setattr(learn, "train_policy_gradient", train)
    report = tmp_path / "report.json"
    command = ["train", "CartPole-v1", "--out", str(tmp_path / "typo"), "--resume", "--max-episodes", "1"]
    assert main([*command, "--json", str(report)]) == 1  # one episode is not enough
    assert "nothing to resume" not in capsys.readouterr().out, "once is enough"
    assert strict_json(report.read_text())["messages"][0].startswith("nothing to resume at ")


@pytest.mark.parametrize(
    ("env", "options", "message"),
    [
        ("Nothing-v0", [], "env_id must be a registered Gymnasium environment"),
        ("Pendulum-v1", [], "discrete actions"),
        ("CartPole-v1", ["--learning-rate", "1e39"], "learning_rate must be finite and within the range of float32"),
        ("CartPole-v1", ["--max-steps", "50"], "threshold must be given"),
    ],
)
def test_train_errors(tmp_path, capsys, env, options, message):
    assert main(["train", env, "--out", str(tmp_path / "p.safetensors"), *options]) == 1
    assert message in error_of(capsys)
    assert list(tmp_path.iterdir()) == []
