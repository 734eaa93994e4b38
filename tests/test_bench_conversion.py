# SPDX-License-Identifier: Apache-2.0
"""The benchmark of conversions: what it counts, and that a missed target is a missed target."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from snnfast.bench import conversion, policies
from snnfast.bench.conversion import RECIPES, Recipe
from snnfast.cli import main
from snnfast.conversion import PRESETS, convert
from snnfast.evaluation import evaluate
from snnfast.learning import pretrained_policy

SMALL = policies.Protocol(episodes=2, max_steps=40, replay_size=600)


@pytest.fixture(autouse=True)
def trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training that is over at once and gives the shipped policy."""
    monkeypatch.setattr(
        policies, "trained", lambda protocol, seed, folder: (pretrained_policy("CartPole-v1"), {"episodes": 500})
    )


def run(tmp_path: Path, protocol: policies.Protocol = SMALL, **options: Any) -> tuple[dict[str, Any], str]:
    said: list[str] = []
    result = conversion.run(cache=tmp_path, protocol=protocol, say=said.append, **options)
    json.dumps(result, allow_nan=False)
    return result, "\n".join(said)


@pytest.mark.filterwarnings("ignore:early_exit=.calibrated. learns")
def test_every_preset_has_a_row_and_every_row_its_figures(tmp_path: Path) -> None:
    assert {recipe.settings["preset"] for recipe in RECIPES} == set(PRESETS)
    result, text = run(tmp_path, seeds=1)
    assert list(result["recipes"]) == [recipe.name for recipe in RECIPES]
    for name, found in result["recipes"].items():
        (row,) = found["seeds"]
        assert row["decisions"] == 80
        assert row["original_return"] == 40.0
        assert found["similarity"]["mean"] == row["similarity"]
        assert name in text
    radix = result["recipes"]["radix-certified"]
    assert radix["seeds"][0]["differing_without_exit"] == 0
    assert [t["what"] for t in radix["targets"][-3:-1]] == [
        "largest error of the prediction",
        "the same over more episodes, where they are unsure",  # 80 decisions without a difference are
    ]
    digits = result["recipes"]["digits-certified"]
    assert digits["seeds"][0]["certified_share"] > 0.9
    assert "certified decisions that differ from the original" in [t["what"] for t in digits["targets"]]


def test_figures_are_those_of_the_evaluation(tmp_path: Path) -> None:
    result, _ = run(tmp_path, seeds=2, first_seed=5, only=("radix",))
    rows = result["recipes"]["radix"]["seeds"]
    assert [row["seed"] for row in rows] == [5, 6]
    policy = pretrained_policy("CartPole-v1")
    for row in rows:
        (held,) = policies.holding(
            SMALL, seeds=1, first_seed=row["seed"], cache=tmp_path, failed=[], say=lambda text: None
        )
        report = evaluate(
            "CartPole-v1", convert(policy, held.replay, preset="radix"), compare_against=policy, episodes=2,
            max_steps=40, seed=row["seed"] + 10_000,
        )  # fmt: skip
        assert row["similarity"] == report.similarity
        assert row["mean_steps"] == report.mean_steps == 24
        assert row["spikes_per_decision"] == report.spikes_per_decision


def test_more_states_may_be_held_out_than_a_conversion_is_made_from(tmp_path: Path) -> None:
    protocol = dataclasses.replace(SMALL, held_out_size=900)
    (held,) = policies.holding(protocol, seeds=1, first_seed=1, cache=tmp_path, failed=[], say=lambda text: None)
    assert (len(held.replay), len(held.held_out)) == (600, 900)
    (same,) = policies.holding(SMALL, seeds=1, first_seed=1, cache=tmp_path, failed=[], say=lambda text: None)
    assert (len(same.replay), len(same.held_out)) == (600, 600)


def test_a_share_that_few_episodes_leave_unsure_is_measured_on_more_as_well(tmp_path: Path) -> None:
    protocol = dataclasses.replace(SMALL, episodes=3, max_steps=150)
    result, text = run(tmp_path, protocol, seeds=1, only=("thesis",))
    (unsure,) = result["recipes"]["thesis"]["seeds"]
    low, high = unsure["similarity_interval"]
    assert high - low > 2 * conversion.SURE
    (held,) = policies.holding(protocol, seeds=1, first_seed=1, cache=tmp_path, failed=[], say=lambda text: None)
    policy = pretrained_policy("CartPole-v1")
    net = convert(policy, held.replay, preset="thesis")
    longer = evaluate(
        "CartPole-v1", net, compare_against=policy, episodes=30, max_steps=150, seed=held.rules["seed"] + 1_000_000
    )
    assert unsure["longer"] == {
        "episodes": 30,
        "similarity": longer.similarity,
        "interval": list(longer.similarity_interval or ()),
    }
    assert longer.similarity is not None
    short_off, long_off = (unsure["predicted"] - s for s in (unsure["similarity"], longer.similarity))
    assert result["recipes"]["thesis"]["prediction_error"]["mean"] == short_off
    # The share over more episodes does not stand in for the other: both are targets.
    assert [t["reached"] for t in result["recipes"]["thesis"]["targets"]] == [abs(short_off), abs(long_off)]
    assert "thesis, seed 1: " in text
    enough = dataclasses.replace(protocol, episodes=12)  # 1,800 decisions without a difference
    result, text = run(tmp_path, enough, seeds=1, only=("digits",))
    (sure,) = result["recipes"]["digits"]["seeds"]
    assert sure["similarity_interval"][1] - sure["similarity_interval"][0] <= 2 * conversion.SURE
    assert sure["longer"] is None
    assert "digits, seed 1: " not in text


def test_a_missed_target_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hard = Recipe(name="hard", settings={"preset": "thesis"}, mean=1.1, least=0.0, steps=99.0, spikes=1e6)
    monkeypatch.setattr(conversion, "RECIPES", (hard,))
    result, text = run(tmp_path, seeds=1)
    assert not result["all_met"]
    verdicts = {t["what"]: t["met"] for t in result["recipes"]["hard"]["targets"]}
    assert verdicts["mean similarity"] is False
    assert verdicts["least similarity"] is True
    assert verdicts["mean steps"] is False
    assert verdicts["spikes"] is True
    assert "missed: hard: mean steps: 100, wanted 99" in text


def test_certified_decisions_that_differ_are_counted_and_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = conversion.evaluate

    def differing(*arguments: Any, **rules: Any) -> Any:
        return dataclasses.replace(real(*arguments, **rules), certified_differing=3)

    monkeypatch.setattr(conversion, "evaluate", differing)
    result, text = run(tmp_path, seeds=1, only=("digits-certified",))
    assert not result["all_met"]
    assert "certified decisions that differ from the original: 3, wanted 0" in text


def test_unknown_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"only must name recipes of \['thesis', .*got \['spikeless'\]"):
        run(tmp_path, only=("spikeless",))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "Protocol", lambda **_: SMALL)
    command = ["bench", "conversion", "--seeds", "1", "--seed", "3", "--only", "radix", "--cache", str(tmp_path)]
    assert main([*command, "--json", "-"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert list(found["recipes"]) == ["radix"]
    assert found["recipes"]["radix"]["seeds"][0]["seed"] == 3
    assert "over 1 policy" in captured.err
    assert main(["bench", "conversion", "--only", "spikeless", "--cache", str(tmp_path)]) == 1
    assert "only must name recipes" in capsys.readouterr().err
