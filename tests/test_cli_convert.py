# SPDX-License-Identifier: Apache-2.0
"""``snnfast convert``: every setting reaches the network, contradictions are told before anything is computed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from snnfast import PRESETS, Replay, SpikingNetwork, convert, pretrained_policy
from snnfast.cli import main
from snnfast.spec import DigitsCode, RateCode, StagedCode


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> str:
    """10,000 states of the shipped policy: what a calibrated exit asks for."""
    path = str(tmp_path_factory.mktemp("replay") / "replay.safetensors")
    assert main(["record", "cartpole", "--out", path, "--size", "10000", "--seed", "5"]) == 0
    return path


def converted(replay: str, folder: Path, options: str) -> SpikingNetwork:
    out = str(folder / "net.safetensors")
    assert main(["convert", "cartpole", "--replay", replay, "--out", out, "--overwrite", *options.split()]) == 0
    return SpikingNetwork.load(out)


@pytest.mark.parametrize(
    ("options", "keywords"),
    [
        ("--method radix --timesteps 6 --headroom 1.5", {"method": "radix", "timesteps": 6, "headroom": 1.5}),
        ("--copies 3 --signed --readout parabolic", {"copies": 3, "signed": True, "readout": "parabolic"}),
        ("--preset staged --no-ramp --no-shift --copies 2", {"preset": "staged", "ramp": False, "shift": False}),
        ("--method staged --ramp --timesteps 8", {"method": "staged", "ramp": True, "timesteps": 8}),
        (
            "--preset digits --tau 0.7 --first-steps 9 --kappa 3.5",
            {"preset": "digits", "tau": 0.7, "first_steps": 9, "kappa": 3.5},
        ),
        ("--method digits --guard --percentile 99", {"method": "digits", "guard": True, "percentile": 99.0}),
        ("--method digits --spike-error 0.003", {"method": "digits", "spike_error": 0.003}),
        (
            "--preset rate-early-exit --timesteps 30 --exit-factor 1.25",
            {"preset": "rate-early-exit", "timesteps": 30, "exit_factor": 1.25},
        ),
        ("--method digits --early-exit certified", {"method": "digits", "early_exit": "certified"}),
        ("--timesteps 4 --calibrate bias", {"timesteps": 4, "calibrate": "bias"}),
        ("--timesteps 4 --calibrate qcfs --seed 7", {"timesteps": 4, "calibrate": "qcfs", "seed": 7}),
        ("--preset radix-certified --early-exit none", {"preset": "radix-certified", "early_exit": "none"}),
        ("--scaling robust --order delayed", {"scaling": "robust", "order": "delayed"}),
    ],
)
def test_options_are_the_arguments_of_convert(
    replay: str, tmp_path: Path, options: str, keywords: dict[str, object]
) -> None:
    if options.startswith("--preset staged"):
        keywords = {**keywords, "copies": 2}
    if "delayed" in options:
        options, keywords = (
            f"{options} --readout final --initial-potential 0",
            {
                **keywords,
                "readout": "final",
                "initial_potential": 0.0,
            },
        )
    made = converted(replay, tmp_path, options)
    expected = convert(pretrained_policy("CartPole-v1"), Replay.load(replay), **keywords)  # type: ignore[arg-type]
    assert made.conversion == expected.conversion
    settings = made.conversion["settings"]
    for name, value in keywords.items():
        if name not in ("preset", "seed"):
            assert settings[name] == (None if value == "none" else value)
    assert made.spec.code == expected.spec.code or isinstance(made.spec.code, DigitsCode)
    states = Replay.load(replay).observations[:200]
    assert made(states).equal(expected(states))


def test_options_reach_the_neurons(replay: str, tmp_path: Path) -> None:
    assert converted(replay, tmp_path, "--copies 3 --signed --timesteps 9").spec.code == RateCode(3, True)
    assert converted(replay, tmp_path, "--preset staged --no-ramp --copies 2").spec.code == StagedCode(False, 2)
    guarded = converted(replay, tmp_path, "--method digits --guard --timesteps 10")
    assert isinstance(guarded.spec.code, DigitsCode)
    assert guarded.spec.code.guards is not None
    assert guarded.timesteps == 10
    leaves = converted(replay, tmp_path, "--preset digits --early-exit calibrated --exit-factor 2")
    assert leaves.spec.early_exit is not None
    assert leaves.spec.early_exit.kind == "calibrated"
    assert converted(replay, tmp_path, "--preset radix-certified --early-exit none").spec.early_exit is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--method staged --signed", "signed=True needs method='rate', got method='staged'"),
        ("--preset radix --method digits", "method='digits' contradicts preset='radix'"),
        ("--method radix --timesteps 50", "timesteps must be from 1 to 20, got 50"),
        ("--method digits --readout mean", "readout must be 'final' with method='digits'"),
        ("--method staged --early-exit certified", "early_exit must be None with method='staged'"),
        ("--early-exit none --exit-factor 2", "exit_factor=2.0 needs early_exit='calibrated', got None"),
        ("--method radix --scaling robust", "method='radix' needs scaling='neuron', got scaling='robust'"),
        ("--method digits --spike-error 0.001 --guard", "guard=True cannot go with spike_error"),
        ("--headroom 0", "headroom must be positive, got 0.0"),
        ("--target-similarity 0.99 --preset rate --copies 2", "leave preset and copies out"),
        ("--budget spikes", "budget needs target_similarity"),
        ("--weight-grid 99", "weight_grid must be from 2 to 16, got 99"),
        ("--weight-grid 1 --target-similarity 0.99", "weight_grid must be from 2 to 16, got 1"),
        ("--target-similarity 1.2", "target_similarity must be above 0 and below 1, got 1.2"),
        ("--target-similarity nan", "target_similarity must be above 0 and below 1, got nan"),
        ("--preset digits --tau 3", "tau must be from 0.5 to 1, got 3.0"),
        ("--preset digits --tau 0.7 --guard", "tau must be 0.5 with guard=True"),
        ("--preset digits --kappa -1", "kappa must be positive, or None for the worst case, got -1.0"),
        ("--preset digits --first-steps 2000", "first_steps must be"),
        ("--preset digits --timesteps 5000", "timesteps must be"),
        ("--method digits --spike-error 0", "spike_error must be positive, got 0.0"),
        ("--initial-potential nan", "initial_potential must be finite"),
    ],
)
def test_contradictions_are_told_in_one_line_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: str, message: str
) -> None:
    monkeypatch.setattr("snnfast.cli.convert.record_replay", lambda *a, **k: pytest.fail("recording"))
    out = tmp_path / "net.safetensors"
    assert main(["convert", "cartpole", "--out", str(out), *options.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("snnfast: error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not out.exists()


def test_what_is_said_of_a_network_is_what_means_something_for_it(
    replay: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    converted(replay, tmp_path, "--preset digits-certified")
    text = capsys.readouterr().out
    line = next(line for line in text.splitlines() if line.startswith("preset "))
    assert line.startswith("preset digits-certified: method digits, scaling neuron, percentile 100.0, shift off")
    assert line.endswith("timesteps 12, tau 0.5, guard off, early_exit certified")
    assert "steps on average, 12 at most, and " in text
    assert "of the decisions are certified" in text
    converted(replay, tmp_path, "--preset thesis --timesteps 20")
    text = capsys.readouterr().out
    assert "order delayed, initial_potential 0.0, readout final, copies 1, signed off\n" in text
    assert "a decision takes 20 steps, and " in text


def test_a_target_is_met_or_what_was_tried_is_shown(
    replay: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = converted(replay, tmp_path, "--target-similarity 0.95 --budget steps")
    assert network.conversion["choice"]["target"] == 0.95
    assert "target 95 % with 95 % certainty, fewest steps" in capsys.readouterr().out
    out, few = tmp_path / "none.safetensors", str(tmp_path / "few.safetensors")
    assert main(["record", "cartpole", "--out", few, "--size", "2500", "--seed", "5"]) == 0
    capsys.readouterr()
    command = ["convert", "cartpole", "--replay", few, "--out", str(out), "--weight-grid", "2"]
    assert main([*command, "--target-similarity", "0.99"]) == 1  # two bits per weight are too few for any method
    told = capsys.readouterr()
    assert "target 99 % with 95 % certainty, fewest steps" in told.out
    assert told.err.startswith("snnfast: error: ")
    assert told.err.count("\n") == 1
    assert not out.exists()


def test_presets_are_described_without_a_policy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "--presets"]) == 0
    text = capsys.readouterr().out
    starts = [line.split(":")[0] for line in text.splitlines() if line and not line.startswith((" ", "`"))]
    assert starts == list(PRESETS)
    assert max(map(len, text.splitlines())) <= 120
    assert main(["convert", "--presets", "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["default"] == "rate"
    assert list(told["presets"]) == list(PRESETS)
    radix = told["presets"]["radix-certified"]
    assert radix["settings"]["early_exit"] == "certified"
    assert radix["steps"] == "at most 12 steps per hidden layer"
    assert set(radix) == {"what", "hardware", "equals", "steps", "settings"}


@pytest.mark.parametrize("missing", [["convert"], ["convert", "cartpole"], ["convert", "--out", "x"]])
def test_without_presets_a_policy_and_a_file_are_needed(missing: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(missing) == 2
    assert "are required: " in capsys.readouterr().err


def test_help_is_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: snnfast convert policy --out FILE [--preset NAME] [other options]\n")
    groups = (
        "states to take activation scales from:",
        "what kind of network:",
        "ranges of activations:",
        "steps and neurons:",
        "schedule of signed digits (digits):",
        "stopping early:",
        "inputs and weights:",
    )
    places = [text.index(f"\n{group}\n") for group in groups]
    assert places == sorted(places)
