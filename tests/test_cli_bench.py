# SPDX-License-Identifier: Apache-2.0
"""The benchmarks: they check before they time, count what failed, and write what they print."""

from __future__ import annotations

import json

import pytest
import torch

from snnfast.bench import evaluation, policies, similarity
from snnfast.bench.evaluation import NotebookNetwork
from snnfast.bench.workloads import SHAPES
from snnfast.cli import main
from snnfast.cli.bench import _WORKLOADS
from snnfast.conversion import convert
from snnfast.evaluation import evaluate
from snnfast.learning import make_policy, pretrained_policy, record_replay, save_policy

SMALL = policies.Protocol(episodes=3, max_steps=40, replay_size=300)


def test_the_notebooks_way_computes_the_thesis_preset():
    policy = make_policy([4, 16, 16, 3], seed=3)
    states = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    network = convert(policy, states, preset="thesis")
    notebook = NotebookNetwork(network.weights, network.biases, network.timesteps)
    theirs = torch.cat([notebook(states[i : i + 1]) for i in range(len(states))])
    # The same sums in another order: potentials differ by rounding, except where it moves a spike.
    close = (network(states) - theirs).abs().amax(dim=1) < 1e-3
    assert close.double().mean() > 0.97


def test_bench_evaluation(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluation, "EPISODES", 3)
    monkeypatch.setattr(evaluation, "MAX_STEPS", 50)
    target = tmp_path / "evaluation.json"
    assert main(["bench", "evaluation", "--quick", "--json", str(target)]) == 0
    out = capsys.readouterr().out
    assert "20 decisions of both ways are equal" in out
    assert "ratio" in out
    found = json.loads(target.read_text())
    assert found["decisions"] == 150
    assert found["thesis_way"]["measured_decisions"] == 20
    assert found["thesis_way"]["scaled_seconds"] == pytest.approx(found["thesis_way"]["measured_seconds"] * 7.5)
    assert found["ratio"] == pytest.approx(found["thesis_way"]["scaled_seconds"] / found["seconds"])
    assert found["machine"]["snnfast"]
    assert found["seed"] == 1


def test_bench_evaluation_refuses_to_time_different_decisions(monkeypatch):
    monkeypatch.setattr(NotebookNetwork, "__call__", lambda self, x: torch.tensor([[0.0, 1.0]]))
    with pytest.raises(RuntimeError, match=r"of 200 decisions differ: the times would mean nothing"):
        evaluation.run(say=lambda text: None)


@pytest.fixture
def trained(monkeypatch):
    """Training that is over at once: seeds 1 and 3 give the shipped policy, 2 one that fails. Counts its calls."""
    calls = []

    def train(env_id, policy, *, seed, **rules):
        calls.append(seed)
        good = seed != 2
        if good:
            policy.load_state_dict(pretrained_policy("CartPole-v1").state_dict())
        result = type("Result", (), {})()
        result.episodes, result.solved_at, result.extra_episodes = 500 + seed, 400, 0
        result.greedy_return_at_solved = result.greedy_return = 40.0 if good else 12.5
        return result

    monkeypatch.setattr(policies, "train_policy_gradient", train)
    return calls


def test_similarity_goes_on_until_enough_policies_hold(tmp_path, trained):
    said = []
    result = similarity.run("rate", seeds=2, cache=tmp_path, protocol=SMALL, say=said.append)
    assert [row["seed"] for row in result["seeds"]] == [1, 3]
    assert [row["seed"] for row in result["failed_seeds"]] == [2]
    assert trained == [1, 2, 3]
    for row in result["seeds"]:
        assert row["decisions"] == 120
        assert row["original_return"] == 40.0
        assert row["original_std_return"] == 0.0
        assert row["relative_return"] == row["mean_return"] / 40.0
    values = [row["similarity"] for row in result["seeds"]]
    assert result["similarity"] == {"mean": pytest.approx(sum(values) / 2), "min": min(values), "max": max(values)}
    text = "\n".join(said)
    assert "2  does not hold 40 +- 0 greedily (mean greedy return 12.5): not used" in text
    assert "2 of 3 trained policies hold" in text
    json.dumps(result, allow_nan=False)


def test_the_second_preset_uses_the_policies_of_the_first(tmp_path, trained):
    first = similarity.run("rate", seeds=1, cache=tmp_path, protocol=SMALL, say=lambda text: None)
    second = similarity.run("thesis", seeds=1, cache=tmp_path, protocol=SMALL, say=lambda text: None)
    assert trained == [1]
    assert first["seeds"][0]["training"] == second["seeds"][0]["training"]
    assert first["seeds"][0]["spikes_per_decision"] != second["seeds"][0]["spikes_per_decision"]


def test_policies_of_other_settings_or_damaged_ones_are_not_used(tmp_path, trained):
    similarity.run("rate", seeds=1, cache=tmp_path, protocol=SMALL, say=lambda text: None)
    other = policies.Protocol(episodes=3, max_steps=40, replay_size=300, train_max_steps=100)
    similarity.run("rate", seeds=1, cache=tmp_path, protocol=other, say=lambda text: None)
    assert trained == [1, 1]
    for path in tmp_path.rglob("seed-1.safetensors"):
        path.write_bytes(b"damaged")
    similarity.run("rate", seeds=1, cache=tmp_path, protocol=SMALL, say=lambda text: None)
    assert trained == [1, 1, 1]


def test_similarity_gives_up_where_nothing_holds(tmp_path, monkeypatch, trained):
    monkeypatch.setattr(policies, "_hold", lambda *a: None)
    with pytest.raises(RuntimeError, match=r"only 0 of .* policies hold"):
        similarity.run("rate", seeds=1, cache=tmp_path, protocol=SMALL, say=lambda text: None)


def test_bench_similarity_command(tmp_path, capsys, monkeypatch, trained):
    monkeypatch.setattr(similarity, "Protocol", lambda: SMALL)
    command = ["bench", "similarity", "--preset", "thesis", "--seeds", "1", "--cache", str(tmp_path / "c")]
    assert main([*command, "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["preset"] == "thesis"
    assert "similarity: share of decisions" in captured.err


def test_the_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert policies.default_cache() == tmp_path / "snnfast"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the standard says to ignore it
    monkeypatch.setenv("HOME", "/home/somebody")
    assert str(policies.default_cache()) == "/home/somebody/.cache/snnfast"


def test_bench_network_command(capsys, monkeypatch):
    def run(*, say, **options):
        say("a table")
        return {"options": options}

    monkeypatch.setattr("snnfast.bench.network.run", run)
    assert main(["bench", "network", "--quick", "--no-peers", "--workload", "tiny", "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"options": {"quick": True, "peers": False, "workloads": ["tiny"]}}
    assert captured.err == "a table\n"


def test_the_commands_workloads_are_the_benchmarks():
    assert list(_WORKLOADS) == list(SHAPES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluation", "--plot", "x.png"], "--plot draws the figures of `bench network`, not of `bench evaluation`"),
        (["network", "--plot", "x.jpg"], "must end in .png, .pdf or .svg"),
        (["network", "--plot", "missing/x.png"], "no such folder"),
        (["network", "--plot", "x.png", "--json", "x.png"], "--json and --plot name the same file"),
    ],
)
def test_bench_refuses_a_plot_before_it_measures(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *arguments]) in (1, 2)
    assert message in capsys.readouterr().err


def test_bench_all(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("snnfast.bench.network.run", lambda **options: {"name": "network"})
    monkeypatch.setattr("snnfast.bench.evaluation.run", lambda **options: {"name": "evaluation"})
    monkeypatch.setattr("snnfast.bench.contract.run", lambda **options: {"name": "contract"})
    monkeypatch.setattr("snnfast.bench.choice.run", lambda **options: {"name": "choice"})
    monkeypatch.setattr("snnfast.bench.methods.run", lambda **options: {"name": "methods"})
    monkeypatch.setattr("snnfast.bench.conversion.run", lambda **options: {"name": "conversion"})
    assert main(["bench", "all", "--json", str(tmp_path / "all.json")]) == 0
    found = json.loads((tmp_path / "all.json").read_text())
    names = ("network", "methods", "conversion", "choice", "evaluation", "contract")
    assert {k: v["name"] for k, v in found.items()} == {n: n for n in names}


def test_what_was_measured_is_kept_whatever_comes_after_it(capsys, monkeypatch, tmp_path):
    def fail(**options):
        raise RuntimeError("training does not work here")

    monkeypatch.setattr("snnfast.bench.network.run", lambda **options: {"cases": []})
    monkeypatch.setattr("snnfast.bench.methods.run", lambda **options: {"name": "methods"})
    monkeypatch.setattr("snnfast.bench.conversion.run", fail)
    target = tmp_path / "all.json"
    assert main(["bench", "all", "--json", str(target)]) == 1
    assert "training does not work here" in capsys.readouterr().err
    assert json.loads(target.read_text()) == {"network": {"cases": []}, "methods": {"name": "methods"}}
    # A picture that cannot be drawn, here of no cases, is no reason to lose the figures.
    one = tmp_path / "network.json"
    assert main(["bench", "network", "--json", str(one), "--plot", str(tmp_path / "x.svg")]) == 1
    assert "at least one measured case" in capsys.readouterr().err
    assert json.loads(one.read_text()) == {"cases": []}


def test_nothing_is_measured_before_a_row_that_is_not_there_is_refused(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("snnfast.bench.network.run", None)
    assert main(["bench", "all", "--only", "spikeless", "--json", str(tmp_path / "all.json")]) == 1
    assert "only must name recipes of" in capsys.readouterr().err
    assert not (tmp_path / "all.json").exists()


def test_a_measured_policy_that_falls_is_not_used(tmp_path):
    policy = make_policy([4, 16, 16, 2], seed=1)
    save_policy(policy, tmp_path / "p.safetensors")
    assert policies._hold(SMALL, 1, policy, {}) is None


def test_the_comparison_starts_from_other_states_than_the_replay(monkeypatch):
    seeds = {"replay": [], "evaluation": []}

    def record(*args, seed, **options):
        seeds["replay"].append(seed)
        return record_replay(*args, seed=seed, **options)

    def play(*args, seed, **options):
        seeds["evaluation"].append(seed)
        return evaluate(*args, seed=seed, **options)

    monkeypatch.setattr(policies, "record_replay", record)
    monkeypatch.setattr(policies, "evaluate", play)
    monkeypatch.setattr(similarity, "evaluate", play)
    held = policies._hold(SMALL, 7, pretrained_policy("CartPole-v1"), {})
    assert held is not None
    row = similarity._measure(held, "rate")
    assert row["decisions"] == 120
    assert seeds == {"replay": [7, 20_007], "evaluation": [10_007, 10_007]}
