# SPDX-License-Identifier: Apache-2.0
"""Pages: whole, in need of nothing else, with the figures that were measured, and text that stays text."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snnfast import (
    EarlyExit,
    Replay,
    SpikingNetwork,
    convert,
    evaluate,
    pretrained_policy,
    record_replay,
    sweep,
    write_report,
    write_sweep_report,
)
from snnfast.cli import main
from snnfast.conversion.comparison import HeldOut
from snnfast.conversion.diagnosis import diagnose
from snnfast.conversion.prediction import predict_similarity
from snnfast.report.page import percent
from snnfast.sweep import Skipped, SweepResult

pytest.importorskip("matplotlib")
POLICY = pretrained_policy("CartPole-v1")
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """A page as its elements, checked for being well formed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title"):
            self.text.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data

    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def check(path: Path) -> Page:
    """The page of a folder: it loads and runs nothing, and shows every picture of the folder."""
    page = Page(path)
    tags = [tag for tag, _ in page.elements]
    assert not {"script", "link", "iframe", "object", "form", "a"} & set(tags)
    attributes = {(tag, name): value for tag, attrs in page.elements for name, value in attrs.items()}
    assert not [name for _, name in attributes if name.startswith("on")]
    shown = [attrs for tag, attrs in page.elements if tag == "img"]
    assert all(attrs["alt"] for attrs in shown)
    pictures = set()
    for attrs in shown:
        kind, data = str(attrs["src"]).split(",")
        assert kind == "data:image/png;base64"
        pictures.add(base64.b64decode(data))
    assert pictures == {file.read_bytes() for file in path.parent.glob("*.png")}
    source = path.read_text(encoding="utf-8")
    assert "http:" not in source
    assert "https:" not in source
    assert "url(" not in source
    assert "prefers-color-scheme: dark" in source
    assert 'name="viewport"' in source
    return page


@pytest.fixture(scope="module")
def states() -> tuple[Replay, Replay]:
    return tuple(record_replay("CartPole-v1", POLICY, size=1500, seed=s) for s in (1, 1000))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def result(states: tuple[Replay, Replay]) -> SweepResult:
    return sweep(
        POLICY,
        states[0],
        held_out=states[1],
        methods=["rate", "radix"],
        timesteps=[4, 8, 40],
        percentiles=[99, 100],
        episodes=1,
        max_steps=20,
    )


def test_the_page_of_a_sweep(result: SweepResult, tmp_path: Path) -> None:
    path = write_sweep_report(result, tmp_path / "new" / "folder", command="snnfast sweep x --out y")
    page = check(path)
    names = {file.name for file in path.parent.iterdir()}
    assert names == {"index.html", "similarity-steps.png", "similarity-spikes.png", "percentiles.png"}
    (rows,) = (table for table in page.tables if table[0][:3] == ["method", "T", "percentile"])
    assert len(rows) == 1 + len(result.rows)
    for cells, row in zip(rows[1:], result.rows, strict=True):
        assert cells[:4] == [row.method, str(row.timesteps), f"{row.percentile:g}", f"{100 * row.similarity:.3f}"]
        assert f"{row.spikes_per_decision:.1f}" in cells
        assert row.on_policy is not None
        assert cells[-1] == f"{row.on_policy.mean_return:.1f}"
    (targets,) = (table for table in page.tables if table[0][0] == "similarity of at least")
    quick, sparing = result.cheapest(0.99), result.cheapest(0.99, "spikes")
    assert quick is not None
    assert sparing is not None
    assert targets[1][1] == f"{quick.mean_steps:.2f}"
    assert targets[1][3] == f"{sparing.spikes_per_decision:.1f}"
    assert "2 combinations do not exist" in page.words()
    assert "timesteps must be from 1 to 20, got 40" in page.words()
    assert "snnfast sweep x --out y" in page.words()


def test_a_sweep_that_reaches_nothing_says_so(states: tuple[Replay, Replay], tmp_path: Path) -> None:
    poor = sweep(POLICY, states[0], methods=["thesis"], timesteps=[3], held_out=states[1])
    page = check(write_sweep_report(poor, tmp_path))
    (targets,) = (table for table in page.tables if table[0][0] == "similarity of at least")
    assert all(line[2] == line[4] == "none of these" for line in targets[1:])
    assert not (tmp_path / "percentiles.png").exists(), "there is one percentile"


@pytest.mark.parametrize("preset", ["radix-certified", "rate-copies"])
def test_the_page_of_a_conversion(preset: str, states: tuple[Replay, Replay], tmp_path: Path) -> None:
    network = convert(POLICY, states[0], preset=preset)
    page = check(write_report(network, POLICY, states[1], tmp_path, actions=["left", "right"]))
    counted = HeldOut(POLICY, states[1]).ask(network).comparison()
    words = page.words()
    differ = round((1 - counted.similarity) * counted.states)
    said = "None of 1,500 decisions" if differ == 0 else f"{differ} of 1,500 decisions"
    assert preset == "rate-copies" or "the largest one decides" in words
    assert said in words
    assert f"{counted.spikes_per_decision:,.1f}" in words
    assert (tmp_path / "steps.png").exists() == (preset == "radix-certified")
    if preset == "radix-certified":
        assert f"{counted.mean_steps:.2f} on average; at most" in words
        assert "whatever bits come, it cannot change" in words
    else:
        assert "100 for every decision" in words
    assert ("the lowest of its 4 copies" in words) == (preset == "rate-copies")
    (errors,) = (table for table in page.tables if table[0][0] == "output")
    assert [line[0] for line in errors[1:]] == ["left", "right"]
    settings = dict(next(table for table in page.tables if table[0] == ["setting", "value"])[1:])  # type: ignore[arg-type]
    assert settings["percentile"] == "99.9"
    assert ("copies" in settings) == preset.startswith("rate"), "options of other methods are left out"
    assert "exit factor" not in settings
    assert ("readout" in settings) == ("order" in settings) == preset.startswith("rate")


def test_everything_that_is_known_is_on_the_page(
    result: SweepResult, states: tuple[Replay, Replay], tmp_path: Path
) -> None:
    network = convert(POLICY, states[0], preset="rate")
    played = evaluate("CartPole-v1", network, compare_against=POLICY, episodes=2, max_steps=30)
    original = evaluate("CartPole-v1", POLICY, episodes=2, max_steps=30)

    prediction = predict_similarity(network, POLICY, states[1])
    diagnosis = diagnose(network, POLICY, states[1])
    page = check(
        write_report(
            network,
            POLICY,
            states[1],
            tmp_path,
            evaluation=played,
            original=original,
            sweep=result,
            prediction=prediction,
            diagnosis=diagnosis,
        )
    )
    words = page.words()
    assert f"over {played.decisions:,} decisions while it plays" in words
    assert f"over 2 episodes of at most 30 steps; the original {original.mean_return:.1f}" in words
    assert "the largest on average over the steps decides" in words  # as "rate" reads out
    assert f"{percent(prediction.similarity)} while it plays, before it has played" in words
    assert "points from the predicted one" in words
    for thing in (prediction, diagnosis):
        assert " ".join(str(thing).split()) in " ".join(words.split())
    assert {"similarity-steps.png", "similarity-spikes.png", "raster.png", "potentials.png", "errors.png"} <= {
        file.name for file in tmp_path.iterdir()
    }


@pytest.mark.parametrize(
    ("timesteps", "words"), [(None, "As quantisation: "), (8, "As quantisation at its usual T=12: ")]
)
def test_what_is_said_of_levels_is_of_the_usual_steps(
    states: tuple[Replay, Replay], tmp_path: Path, timesteps: int | None, words: str
) -> None:
    network = convert(POLICY, states[0], preset="radix", timesteps=timesteps)
    page = check(write_report(network, POLICY, states[1], tmp_path))
    assert f"{words}exactly a ReLU network whose activations have 12 bits" in page.words()


@pytest.mark.parametrize("preset", ["digits-certified", "fewest-spikes-exit"])
def test_what_is_certified_on_a_grid_is_the_rounded_networks(
    preset: str, states: tuple[Replay, Replay], tmp_path: Path
) -> None:
    plain = convert(POLICY, states[0], preset=preset)
    rounded = convert(POLICY, states[0], preset=preset, weight_grid=6, split_inputs=True)
    for folder, network, whose in ((tmp_path / "a", plain, "original"), (tmp_path / "b", rounded, "rounded")):
        page = check(write_report(network, POLICY, states[1], folder))
        words = page.words()
        assert f"A certified decision is the {whose} network's" in words
        assert f"stops once the {whose} network's decision is certain" in words
        assert f"what is certified is the {whose} network's decision" in words
        settings = dict(next(table for table in page.tables if table[0] == ["setting", "value"])[1:])  # type: ignore[arg-type]
        assert settings.get("weight grid", "none").split(";")[0] == ("none" if whose == "original" else "6 bits")
        assert settings.get("split inputs") == (None if whose == "original" else "on")
    assert "the original network's" not in words


def test_the_page_of_a_sweep_on_a_grid_says_whose_decisions_are_certified(
    states: tuple[Replay, Replay], tmp_path: Path
) -> None:
    for bits, whose in ((None, "original"), (6, "rounded")):
        result = sweep(
            POLICY, states[0], methods=["digits-certified"], timesteps=[8], held_out=states[1], weight_grid=bits
        )
        assert result.as_dict()["weight_grid"] == bits
        words = check(write_sweep_report(result, tmp_path / whose)).words()
        assert f"what is certified is the {whose} network's decision" in words
        assert ("were rounded to 6 bits first" in words) == (bits == 6)
    assert "the original network's" not in words


def test_text_stays_text(result: SweepResult, states: tuple[Replay, Replay], tmp_path: Path) -> None:
    evil = '<script>alert("1")</script><img src=x onerror=alert(1)>'
    skipped = Skipped(method=evil, timesteps=1, percentile=1.0, reason=evil)
    bad = dataclasses.replace(result, env_id=evil, skipped=(skipped,))
    page = check(write_sweep_report(bad, tmp_path / "a", command=evil, held_out=evil))
    assert page.words().count(evil) == 5  # title, method and reason of what was skipped, states, command
    network = convert(POLICY, states[0], preset="rate")
    network.conversion["preset"] = network.conversion["settings"]["scaling"] = evil
    held_out = Replay(states[1].observations, states[1].actions, states[1].outputs, {"env_id": evil, "seed": evil})
    page = check(write_report(network, POLICY, held_out, tmp_path / "b", command=evil))
    assert page.words().count(evil) >= 4


def test_a_network_of_another_kind_has_a_page_too(states: tuple[Replay, Replay], tmp_path: Path) -> None:
    plain = convert(POLICY, states[0], preset="rate")
    network = SpikingNetwork(plain.weights, plain.biases, plain.neuron, 50, output_scale=plain.output_scale / 50)
    page = check(write_report(network, POLICY, states[1], tmp_path))
    assert "by the method “a conversion”" in page.words()


def test_nearly_all_steps_are_not_all_of_them(states: tuple[Replay, Replay], tmp_path: Path) -> None:
    # A bound of 0 after every step: each decision stops at once, and the one shown is chosen by its lead.
    plain = convert(POLICY, states[0], preset="rate-copies", timesteps=256)
    network = SpikingNetwork(
        plain.weights,
        plain.biases,
        plain.neuron,
        256,
        decoding=plain.spec.decoding,
        code=plain.spec.code,
        early_exit=EarlyExit("calibrated", np.zeros(256, np.float32)),
    )
    answers = HeldOut(POLICY, states[1]).ask(network)
    page = check(write_report(network, POLICY, states[1], tmp_path))
    assert answers.steps.mean() < 2
    assert re.search(r"Stopping early saves 99\.\d % of the 256 steps", page.words())
    found = re.search(r"Held-out state ([\d,]+), a fairly close call", page.words())
    assert found
    outputs = np.sort(answers.held_out.outputs, axis=1)
    leads = outputs[:, -1] - outputs[:, -2]
    assert leads[int(found[1].replace(",", "")) - 1] < np.median(leads)


def test_held_out_states_are_a_replay(states: tuple[Replay, Replay], tmp_path: Path) -> None:
    network = convert(POLICY, states[0], preset="radix")
    with pytest.raises(TypeError, match="held_out must be a Replay, got Tensor"):
        write_report(network, POLICY, states[1].observations, tmp_path / "page")  # type: ignore[arg-type]
    assert not (tmp_path / "page").exists()


# The commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(states: tuple[Replay, Replay], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name, replay in zip(("replay", "held"), states, strict=True):
        replay.save(folder / f"{name}.safetensors")
    return folder


def test_sweep_command(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sweep", "cartpole", "--replay", str(files / "replay.safetensors"), "--methods", "rate", "radix"]
    command += ["--held-out", str(files / "held.safetensors"), "--timesteps", "4", "8", "--headroom", "1.5"]
    command += ["--json", str(tmp_path / "s.json"), "--out", str(tmp_path / "page"), "--seed", "3"]
    assert main(command) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert f"wrote {tmp_path / 'page' / 'index.html'}" in said.out
    kept = json.loads((tmp_path / "s.json").read_text())
    assert [(row["method"], row["timesteps"]) for row in kept["rows"]] == [
        ("rate", 4), ("rate", 8), ("radix", 4), ("radix", 8)
    ]  # fmt: skip
    wanted = sweep(
        POLICY,
        Replay.load(files / "replay.safetensors"),
        held_out=Replay.load(files / "held.safetensors"),
        methods=["rate", "radix"],
        timesteps=[4, 8],
        headroom=1.5,
        seed=3,
    )
    assert [row["similarity"] for row in kept["rows"]] == [row.similarity for row in wanted.rows]
    page = check(tmp_path / "page" / "index.html")
    assert "snnfast sweep cartpole --replay" in page.words()

    before = (tmp_path / "page" / "index.html").read_bytes()
    assert main(command) == 2
    assert "exists already; choose another folder, or add --overwrite" in capsys.readouterr().err
    assert (tmp_path / "page" / "index.html").read_bytes() == before
    assert main([*command, "--overwrite"]) == 0


def test_convert_command(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snnfast.cli.pages.METHODS", ("thesis", "radix"))
    monkeypatch.setattr("snnfast.cli.pages.HELD_OUT_SIZE", 1000)
    command = ["convert", "cartpole", "--replay", str(files / "replay.safetensors"), "--preset", "radix"]
    command += ["--timesteps", "9", "--out", str(tmp_path / "n.safetensors")]
    command += ["--report", str(tmp_path / "page"), "--report-episodes", "0"]
    assert main(command) == 0
    assert f"wrote {tmp_path / 'page' / 'index.html'}" in capsys.readouterr().out
    page = check(tmp_path / "page" / "index.html")
    assert "on 1,000 held-out states" in page.words()
    assert main(command) == 2, "neither the network nor the page is replaced without being asked"


@pytest.mark.parametrize(
    ("options", "preset", "rows"),
    [("--scaling data --timesteps 9", "rate", 6), ("--preset fewest-spikes", "fewest-spikes", 1)],
)
def test_convert_command_shows_other_steps_where_there_are_any(
    options: str, preset: str, rows: int, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snnfast.cli.pages.METHODS", ("radix",))
    monkeypatch.setattr("snnfast.cli.pages.HELD_OUT_SIZE", 1000)
    drawn: list[SweepResult] = []

    def keep(page: object, result: SweepResult, main: str, *, here: object) -> None:
        drawn.append(result)

    monkeypatch.setattr("snnfast.report.conversions.sweep_pictures", keep)
    command = ["convert", "cartpole", "--replay", str(files / "replay.safetensors"), *options.split()]
    command += ["--out", str(tmp_path / "n.safetensors"), "--report", str(tmp_path / "page"), "--report-episodes", "0"]
    assert main(command) == 0
    check(tmp_path / "page" / "index.html")
    ours = [r for r in drawn[0].rows if r.method == preset]
    steps = SpikingNetwork.load(tmp_path / "n.safetensors").timesteps
    assert len(ours) == rows, "the usual numbers of steps and its own, or its own alone"
    assert steps in {r.timesteps for r in ours}
    assert {r.percentile for r in ours} == {100.0}


@pytest.mark.parametrize(
    "command", [["sweep", "cartpole", "--out"], ["convert", "cartpole", "--out", "n.s", "--report"]]
)
def test_a_folder_that_is_a_file_is_refused_at_once(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page").write_text("mine")
    assert main([*command, "page"]) == 2
    assert "page is a file; a folder is needed" in capsys.readouterr().err
    assert (tmp_path / "page").read_text() == "mine"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["page"]


def test_sweep_command_refuses(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*arguments: Any) -> str:
        assert main(["sweep", "cartpole", *map(str, arguments)]) == 2
        return capsys.readouterr().err

    assert "invalid choice: 'rat'" in fails("--methods", "rat")
    assert "must be a whole number" in fails("--timesteps", "0")
    replay = files / "replay.safetensors"
    assert "name the same file" in fails("--replay", replay, "--json", replay)
