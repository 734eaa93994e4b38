# SPDX-License-Identifier: Apache-2.0
"""The benchmark of automatic choice: what it counts as met, and as missed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from snnfast.bench import choice, policies
from snnfast.cli import main
from snnfast.conversion import convert
from snnfast.conversion.choice import Choice, TargetNotReached
from snnfast.learning import pretrained_policy

SMALL = policies.Protocol(episodes=4, max_steps=60, replay_size=4000)


@pytest.fixture(autouse=True)
def trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training that is over at once and gives the shipped policy; one target only."""
    monkeypatch.setattr(
        policies, "trained", lambda protocol, seed, folder: (pretrained_policy("CartPole-v1"), {"episodes": 500})
    )
    monkeypatch.setattr(choice, "Protocol", lambda **_: SMALL)
    monkeypatch.setattr(choice, "TARGETS", (0.99,))


@pytest.mark.filterwarnings("ignore:early_exit=.calibrated. learns")
def test_every_budget_is_chosen_for_and_played(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "choice", "--seeds", "1", "--cache", str(tmp_path), "--json", "-"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert [row["budget"] for row in found["choices"]] == ["steps", "spikes", "latency"]
    assert found["met"] == sum(row["met"] for row in found["choices"])
    for row in found["choices"]:
        assert row["met"] == (row["similarity"] >= 0.99 - row["standard_error"])
        assert row["tried"] >= 1
    steps, spikes, _ = found["choices"]
    assert spikes["spikes_per_decision"] <= steps["spikes_per_decision"]
    assert "target 99 %, budget steps: " in captured.err


@pytest.mark.filterwarnings("ignore:early_exit=.calibrated. learns")
def test_a_broken_promise_and_a_refusal_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = choice.evaluate

    def worse(*arguments: Any, **rules: Any) -> Any:
        report = real(*arguments, **rules)
        agreements = tuple(a - 6 for a in report.episode_agreements or ())
        return dataclasses.replace(report, similarity=0.9, episode_agreements=agreements)

    monkeypatch.setattr(choice, "evaluate", worse)
    said: list[str] = []
    result = choice.run(seeds=1, cache=tmp_path, say=said.append)
    assert result["met"] == 0
    assert not result["all_met"]
    assert "\n".join(said).count("MISSED") == 3

    def refuse(policy: Any, replay: Any, **_: Any) -> Any:
        network = convert(policy, replay, preset="thesis")
        raise TargetNotReached(
            "no network", network, Choice(target=0.99, budget="steps", states=1, episodes=1, tried=(), chosen=None)
        )

    monkeypatch.setattr(choice, "convert", refuse)
    said.clear()
    result = choice.run(seeds=1, cache=tmp_path, say=said.append)
    assert [row["refused"] for row in result["choices"]] == ["no network"] * 3
    assert "target 99 %, budget steps: 0 of 1 met when played" in said[-1]
