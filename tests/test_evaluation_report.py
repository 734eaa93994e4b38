# SPDX-License-Identifier: Apache-2.0
"""The report of an evaluation: JSON there and back, and the table."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from snnfast import SpikingNetwork, convert, make_policy, record_replay
from snnfast.evaluation import EvaluationReport, evaluate


@pytest.fixture(scope="module")
def spiking() -> EvaluationReport:
    rng = np.random.default_rng(0)
    net = SpikingNetwork([rng.normal(size=(6, 4)), rng.normal(size=(2, 6))], None, timesteps=5, backend="reference")
    return evaluate("CartPole-v1", net, compare_against=lambda x: x[:, :2], episodes=6, epsilon=0.1, max_steps=50)


@pytest.fixture(scope="module")
def plain() -> EvaluationReport:
    return evaluate("CartPole-v1", lambda x: x[:, :2], episodes=1, max_steps=20)


@pytest.mark.parametrize("name", ["spiking", "plain"])
def test_json_there_and_back(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    report: EvaluationReport = request.getfixturevalue(name)
    path = tmp_path / "report.json"
    report.to_json(path)
    read = json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no strict JSON"))
    assert read == report.as_dict()
    again = EvaluationReport.from_dict(read)
    assert again == report
    assert again.seconds == report.seconds
    assert isinstance(again.returns, tuple)
    assert list(tmp_path.iterdir()) == [path], "nothing else is left behind"


def test_whole_numbers_are_read_as_what_they_stand_for(plain: EvaluationReport) -> None:
    read = EvaluationReport.from_dict(plain.as_dict() | {"mean_return": 20, "returns": [20]})
    assert isinstance(read.mean_return, float)
    assert isinstance(read.returns[0], float)


def test_a_report_cannot_be_changed(plain: EvaluationReport) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        plain.mean_return = 1.0  # type: ignore[misc]


def test_an_unwritable_folder_is_an_error(plain: EvaluationReport, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"report\.json"):
        plain.to_json(tmp_path / "missing" / "report.json")


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"extra": 1}, ValueError, "missing: none; unknown: 'extra'"),
        ({"seed": None}, TypeError, "seed must not be None"),
        ({"seed": 1.5}, TypeError, "seed must be int, got 1.5"),
        ({"seed": True}, TypeError, "seed must be int, got True"),
        ({"env_id": 3}, TypeError, "env_id must be str"),
        ({"mean_return": "500"}, TypeError, "mean_return must be float"),
        ({"mean_return": float("nan")}, ValueError, "mean_return must be finite"),
        ({"returns": [1.0, float("inf")]}, ValueError, r"returns\[1\] must be finite"),
        ({"returns": 3}, TypeError, "returns must be a list"),
        ({"lengths": [1.5]}, TypeError, r"lengths\[0\] must be int"),
        ({"return_interval": [1.0]}, TypeError, "return_interval must be a list of 2"),
    ],
)
def test_from_dict_refuses(plain: EvaluationReport, change: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        EvaluationReport.from_dict(plain.as_dict() | change)


def test_from_dict_refuses_what_is_incomplete_or_no_mapping(plain: EvaluationReport) -> None:
    with pytest.raises(ValueError, match="missing: decisions, returns; unknown: none"):
        EvaluationReport.from_dict({k: v for k, v in plain.as_dict().items() if k not in ("decisions", "returns")})
    with pytest.raises(TypeError, match="values must be a mapping, got list"):
        EvaluationReport.from_dict([1])  # type: ignore[arg-type]


def test_the_table_is_aligned_and_says_units(spiking: EvaluationReport) -> None:
    text = str(spiking)
    assert text == spiking.table()
    head, body = text.split("\n\n")
    assert head.splitlines()[0] == "CartPole-v1: 6 episodes of at most 50 steps, seed 1, epsilon 0.1"
    rows = body.splitlines()
    labels = ("mean return", "returns", "similarity", "decisions", "steps", "spikes", "synaptic operations",
              "input current", "time", "speed")  # fmt: skip
    assert [row[2:21].strip() for row in rows] == list(labels)
    values = [
        row[22:].split("  ")[0] if not row[22:].startswith(" ") else row[22:].lstrip().split("  ")[0] for row in rows
    ]
    ends = {row.index(value, 22) + len(value) for row, value in zip(rows, values, strict=True)}
    assert len(ends) == 1, "the numbers end in one column"
    assert f"{spiking.mean_return:.1f}  sd {spiking.std_return:.1f}, 95 % interval" in body
    assert f"{100 * spiking.similarity:.2f} %" in body  # type: ignore[operator]
    assert f"{spiking.decisions:,}" in body
    assert f"and {spiking.random_decisions:,} random ones" in body
    assert max(map(len, text.splitlines())) <= 120


def test_the_table_of_a_plain_agent_leaves_out_what_there_is_not(plain: EvaluationReport) -> None:
    text = str(plain)
    assert "1 episode of at most" in text
    for word in ("spikes", "similarity", "compared", "sd ", "interval", "epsilon", "None", "nan"):
        assert word not in text


def test_one_decision_of_many_that_differs_is_seen(spiking: EvaluationReport) -> None:
    nearly = dataclasses.replace(
        spiking, similarity=0.99998, similarity_interval=(0.9, 0.999999), certified_share=0.999999, saturated_share=1e-6
    )
    text = nearly.table()
    assert "99.998 %  equal decisions, 95 % interval 90.00 % to 99.9999 %" in text
    assert "99.9999 %  of the decisions" in text
    assert "0.0001 %  of the decisions, never certified" in text
    assert "100.00 %" not in text
    assert "100.00 %" in dataclasses.replace(spiking, similarity=1.0).table()


# Steps, exits and certificates ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def replayed() -> tuple[Any, Any]:
    policy = make_policy([4, 8, 8, 2], seed=3)
    return policy, record_replay("CartPole-v1", policy, size=500, max_steps=50, seed=2)


@pytest.mark.parametrize(("method", "steps"), [("rate", 6), ("staged", 12), ("radix", 12), ("digits", 6)])
def test_mean_steps_are_those_of_all_layers_turns(replayed: tuple[Any, Any], method: str, steps: int) -> None:
    policy, replay = replayed
    net = convert(policy, replay, method=method, timesteps=6)
    report = evaluate("CartPole-v1", net, episodes=5, max_steps=30)
    assert (report.timesteps, report.mean_steps) == (6, steps)
    assert report.certified_share is None
    assert report.certified_differing is None
    assert (report.saturated_share is None) == (method != "digits")
    assert f"{steps}  per decision, all layers' turns together" in report.table()


def test_what_an_exit_saves_and_certifies_is_counted_decision_by_decision(replayed: tuple[Any, Any]) -> None:
    policy, replay = replayed
    net = convert(policy, replay, preset="digits-certified")
    asked: list[Any] = []

    def original(states: Any) -> Any:
        asked.append(states.copy())
        return -policy(torch.from_numpy(states)).detach().numpy()  # the opposite of what it decides

    report = evaluate("CartPole-v1", net, compare_against=original, episodes=7, max_steps=30)
    simulation = net.simulate(torch.from_numpy(np.concatenate(asked)))
    assert simulation.steps is not None
    assert simulation.certified is not None
    assert simulation.saturated is not None
    assert report.mean_steps == pytest.approx(simulation.steps.double().mean().item(), rel=1e-12)
    assert report.mean_steps < net.spec.total_steps
    assert report.certified_share == pytest.approx(simulation.certified.double().mean().item(), rel=1e-12)
    assert report.certified_share > 0.5
    assert report.saturated_share == pytest.approx(simulation.saturated.double().mean().item(), rel=1e-12)
    assert report.certified_differing == int(simulation.certified.sum()), "the other one always decides otherwise"
    assert f"{report.certified_differing:,} of them differ" in report.table()
    agreeing = evaluate("CartPole-v1", net, compare_against=policy, episodes=7, max_steps=30)
    assert agreeing.certified_differing == 0
    assert "none of them differs" in agreeing.table()
    assert EvaluationReport.from_dict(agreeing.as_dict()) == agreeing


def test_reports_from_before_there_were_exits_are_read(plain: EvaluationReport) -> None:
    values = plain.as_dict()
    for name in ("mean_steps", "certified_share", "certified_differing", "saturated_share"):
        del values[name]
    assert EvaluationReport.from_dict(values) == plain
