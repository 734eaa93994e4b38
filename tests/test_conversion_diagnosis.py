# SPDX-License-Identifier: Apache-2.0
"""Diagnosis: networks made with a fault, and what is said about them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import snnfast as sf

N = 1000


def linear_policy(first: list[list[float]], bias: list[float] | None = None) -> torch.nn.Sequential:
    """Hidden neurons ``relu(first @ x + bias)``; output 0 is the first one's activation, output 1 the second's."""
    weight = torch.tensor(first)
    policy = torch.nn.Sequential(
        torch.nn.Linear(weight.shape[1], len(weight)), torch.nn.ReLU(), torch.nn.Linear(len(weight), 2)
    )
    with torch.no_grad():
        policy[0].weight.copy_(weight)
        policy[0].bias.copy_(torch.tensor(bias or [0.0] * len(weight)))
        policy[2].weight.copy_(torch.eye(2, len(weight)))
        policy[2].bias.zero_()
    return policy


def states(low: float = 0.0, high: float = 1.0, seed: int = 0) -> sf.Replay:
    """Two features, uniform but for rows 0 and 1, which are at the ends."""
    x = np.random.default_rng(seed).uniform(low, high, size=(N, 2)).astype(np.float32)
    x[0], x[1] = low, high
    return sf.Replay(torch.from_numpy(x), torch.zeros(N, dtype=torch.int64), torch.zeros(N, 2))


def changed(replay: sf.Replay, rows: slice, feature: int, value: float) -> sf.Replay:
    x = replay.observations.clone()
    x[rows, feature] = value
    return sf.Replay(x, replay.actions, replay.outputs)


@pytest.fixture(scope="module")
def trained() -> tuple[torch.nn.Module, sf.Replay]:
    policy = sf.pretrained_policy("CartPole-v1")
    return policy, sf.record_replay("CartPole-v1", policy, size=10_000, seed=3)


IDENTITY = [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("percentile", [99.9, 100.0])
def test_a_neuron_that_exceeds_its_range(percentile: float) -> None:
    policy, seen = linear_policy(IDENTITY), states()
    network = sf.convert(policy, seen, preset="digits", percentile=percentile)
    beyond = changed(seen, slice(0, 20), 0, 1.3)
    found = sf.diagnose(network, policy, beyond)
    layer = found.layers[0]
    top = float(np.quantile(seen.observations[:, 0].numpy().astype(np.float64), percentile / 100))
    assert layer.excess == pytest.approx(1.3 / top, rel=1e-5)
    above = (beyond.observations[:, 0] > top * (1 + 1e-5)).float().mean()
    if percentile == 100:
        assert (layer.saturated, layer.saturated_states, layer.clipping_share) == (1, 0.02, 0.01)
        sentence = (
            "layer 1: 1 of 2 neurons exceeds its range in 2 % of the states, by a factor of up to 1.3: "
            "raise headroom from 1 to 1.5"
        )
        assert sentence in found.advice
    else:
        assert layer.saturated_states >= float(above)
        assert any("raise percentile from 99.9 to 100, or raise headroom from 1 to 1.5" in a for a in found.advice)
    # The advice works.
    wide = sf.convert(policy, seen, preset="digits", percentile=percentile, headroom=1.5)
    after = sf.diagnose(wide, policy, beyond)
    assert after.layers[0].saturated == 0
    assert not any("exceed" in a for a in after.advice)


def test_decisions_that_a_range_makes_differ() -> None:
    # Twice beyond the range of both neurons: both say 1, and the second's larger activation is lost.
    policy, seen = linear_policy(IDENTITY), states()
    network = sf.convert(policy, seen, preset="digits", percentile=100.0)
    beyond = changed(changed(seen, slice(0, 100), 0, 2.0), slice(0, 100), 1, 3.0)
    found = sf.diagnose(network, policy, beyond)
    assert found.stages[0].name == "ranges"
    assert found.stages[0].differing == pytest.approx(0.1)
    assert found.stages[0].largest_error == pytest.approx(1.0, abs=1e-5)
    assert found.advice[0] == "the neurons' ranges alone make 10 % of the decisions differ; see the layers below"
    within = sf.diagnose(network, policy, seen)
    assert within.stages[0].differing == 0
    assert within.stages[0].error < 1e-6


def test_a_neuron_far_beyond_its_range_is_not_met_with_headroom() -> None:
    policy, seen = linear_policy(IDENTITY), states()
    network = sf.convert(policy, seen, preset="digits", percentile=100.0)
    found = sf.diagnose(network, policy, changed(seen, slice(0, 5), 1, 50.0))
    assert any(a.endswith("convert with a larger replay, which has states like these") for a in found.advice)


def test_a_neuron_below_its_range() -> None:
    policy, seen = linear_policy(IDENTITY), states(low=0.5)
    network = sf.convert(policy, seen, preset="rate", percentile=100.0)
    found = sf.diagnose(network, policy, changed(seen, slice(0, 50), 1, 0.1))
    assert (found.layers[0].below, found.layers[0].below_states, found.layers[0].saturated) == (1, 0.05, 0)
    assert (
        "layer 1: 1 of 2 neurons falls below its range in 5 % of the states: raise percentile, or use shift=False"
    ) in found.advice
    unshifted = sf.convert(policy, seen, preset="rate", percentile=100.0, shift=False)
    assert sf.diagnose(unshifted, policy, changed(seen, slice(0, 50), 1, 0.1)).layers[0].below == 0


def test_dead_neurons() -> None:
    policy = linear_policy([*IDENTITY, [1.0, 1.0]], [0.0, 0.0, -100.0])
    found = sf.diagnose(sf.convert(policy, states(), preset="digits"), policy, states(seed=1))
    assert found.layers[0].dead == 1
    assert "layer 1: 1 of 3 neurons is dead, 0 in every state: a smaller network would do" in found.advice


def test_neurons_that_are_too_small_for_the_steps() -> None:
    policy, seen = linear_policy(IDENTITY), states()
    few = changed(states(seed=1), slice(None), 0, 0.02)  # below half a spike in 16 steps
    network = sf.convert(policy, seen, method="staged", shift=False, ramp=False, timesteps=16, percentile=100.0)
    found = sf.diagnose(network, policy, few)
    assert (found.layers[0].silent, found.layers[0].dead) == (1, 0)
    assert any("layer 1: 1 of 2 neurons never says anything" in a for a in found.advice)
    finer = sf.convert(policy, seen, method="staged", shift=False, ramp=False, timesteps=64, percentile=100.0)
    assert sf.diagnose(finer, policy, few).layers[0].silent == 0


@pytest.mark.parametrize(
    ("options", "change", "words"),
    [
        ({"method": "radix", "timesteps": 4}, {"timesteps": 6}, "raise timesteps from 4 to 6"),
        ({"method": "digits", "timesteps": 3}, {"timesteps": 5}, "raise timesteps from 3 to 5"),
        ({"method": "rate", "readout": "final", "timesteps": 16}, {"readout": "mean"}, "use readout='mean'"),
        ({"method": "rate", "timesteps": 8}, {"timesteps": 16}, "raise timesteps from 8 to 16, or copies from 1 to 4"),
        ({"method": "rate", "timesteps": 8}, {"copies": 4}, "copies from 1 to 4"),
        ({"method": "staged", "ramp": False, "timesteps": 16}, {"ramp": True}, "use ramp=True"),
        ({"method": "digits", "spike_error": 0.02}, {"spike_error": 0.01}, "lower spike_error to 0.01"),
        (
            {"preset": "thesis", "timesteps": 30},
            {"order": "immediate", "initial_potential": 0.5},
            "use order='immediate' and initial_potential=0.5",
        ),
    ],
    ids=str,
)
def test_too_few_steps_and_what_helps(
    options: dict[str, object], change: dict[str, object], words: str, trained: tuple[torch.nn.Module, sf.Replay]
) -> None:
    policy, replay = trained
    seen, other = sf.split_replay(replay)

    def found(**options: object) -> sf.Diagnosis:
        return sf.diagnose(sf.convert(policy, seen, **options), policy, other)  # type: ignore[arg-type]

    before = found(**options)
    advice = [a for a in before.advice if a.startswith("too few steps")]
    assert len(advice) == 1
    assert words in advice[0]
    after = found(**{**options, **change})
    assert after.stages[-1].differing < before.stages[-1].differing
    assert after.stages[-1].error < before.stages[-1].error


def test_a_decision_that_stops_too_early(trained: tuple[torch.nn.Module, sf.Replay]) -> None:
    policy, replay = trained
    network = sf.convert(policy, replay, preset="digits-calibrated", exit_factor=0.1)
    found = sf.diagnose(network, policy, replay)
    assert [stage.name for stage in found.stages] == ["ranges", "spikes", "read-out", "early exit"]
    assert found.advice[0].startswith("stopping early makes")
    assert "raise exit_factor to 0.2" in found.advice[0]
    differing = (network(replay.observations).argmax(1) != policy(replay.observations).argmax(1)).double().mean()
    assert found.stages[-1].differing == pytest.approx(float(differing))
    assert found.stages[-2].differing < 0.001 < found.stages[-1].differing


def test_each_stage_is_the_network_up_to_it() -> None:
    policy = sf.make_policy([2, 12, 12, 2], seed=1)
    seen = states(-1.0)
    final = sf.diagnose(sf.convert(policy, seen, method="rate", readout="final"), policy, seen)
    mean = sf.diagnose(sf.convert(policy, seen, method="rate", readout="mean"), policy, seen)
    by_name = [{stage.name: stage for stage in found.stages} for found in (final, mean)]
    # The same spikes; adding them all up is what "final" does, and "mean" is nearer.
    assert by_name[0]["spikes"] == by_name[1]["spikes"]
    assert by_name[0]["read-out"].error == pytest.approx(by_name[0]["spikes"].error, rel=1e-3)
    assert by_name[1]["read-out"].error < by_name[0]["read-out"].error


def test_nothing_to_change_words_and_json() -> None:
    policy, seen = linear_policy(IDENTITY), states()
    found = sf.diagnose(sf.convert(policy, seen, preset="digits", percentile=100.0), policy, seen)
    assert found.advice == ("nothing to change: every decision is the policy's",)
    text = str(found)
    for words in ("layer  neurons  dead", "decisions differ", "on 1,000 states", "- nothing to change"):
        assert words in text
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["states"] == N


def test_a_network_without_hidden_layers() -> None:
    policy = torch.nn.Sequential(torch.nn.Linear(2, 2))
    found = sf.diagnose(sf.convert(policy, states(), preset="rate"), policy, states())
    assert found.layers == ()
    assert [stage.name for stage in found.stages] == ["ranges", "read-out"]


def test_wrong_arguments() -> None:
    policy, seen = linear_policy(IDENTITY), states()
    network = sf.convert(policy, seen, preset="digits")
    with pytest.raises(ValueError, match="policy must be the network that net was made from"):
        sf.diagnose(network, sf.make_policy([2, 8, 2]), seen)
    with pytest.raises(TypeError, match="replay must be a Replay"):
        sf.diagnose(network, policy, seen.observations)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="replay must hold 2 features per state"):
        sf.diagnose(network, policy, sf.Replay(torch.zeros(3, 4), seen.actions[:3], seen.outputs[:3]))


def test_rounded_weights_are_blamed_and_not_the_ranges(trained: tuple[torch.nn.Module, sf.Replay]) -> None:
    policy, replay = trained
    seen, other = sf.split_replay(replay)
    found = sf.diagnose(sf.convert(policy, seen, preset="digits", weight_grid=4), policy, other)
    assert [stage.name for stage in found.stages] == ["weights", "ranges", "spikes", "read-out"]
    assert found.stages[0].differing > 0.05
    share = f"{100 * found.stages[0].differing:.3g} %"
    assert found.advice[0] == (
        f"weights rounded to 4 bits alone make {share} of the decisions differ: "
        "raise weight_grid from 4 to 6, or leave the grid out"
    )
    assert not any("ranges alone" in sentence for sentence in found.advice)
    # The advice works, and narrow ranges on a grid are blamed for what they add.
    finer = sf.diagnose(sf.convert(policy, seen, preset="digits", weight_grid=6), policy, other)
    assert finer.stages[0].error < found.stages[0].error / 2
    assert finer.stages[0].differing < found.stages[0].differing
    narrow = sf.diagnose(sf.convert(policy, seen, preset="digits", weight_grid=12, percentile=50.0), policy, other)
    added = narrow.stages[1].differing - narrow.stages[0].differing
    assert added > 0.01
    assert any(f"make {100 * added:.3g} % of the decisions differ; see the layers" in a for a in narrow.advice)


@pytest.mark.parametrize("calibrate", ["bias", "qcfs"])
def test_calibration_is_no_fault_of_the_ranges(calibrate: str, trained: tuple[torch.nn.Module, sf.Replay]) -> None:
    policy, replay = trained
    seen, other = sf.split_replay(replay)
    network = sf.convert(policy, seen, method="staged", timesteps=4, calibrate=calibrate)  # type: ignore[arg-type]
    found = sf.diagnose(network, policy, other)
    by_name = {stage.name: stage for stage in found.stages}
    # Without the spikes, calibrated weights are wrong by what they make good; cutting off adds next to nothing.
    assert by_name["weights"].differing > 0.05
    assert by_name["ranges"].differing == pytest.approx(by_name["weights"].differing, abs=0.005)
    assert not any("ranges alone" in sentence or "weights" in sentence for sentence in found.advice)
    assert found.advice[0].startswith("too few steps make ")
    assert f"{100 * by_name['read-out'].differing:.2g}"[:2] in found.advice[0]


def test_what_a_shifted_range_cuts_off_is_no_fault_of_the_weights(trained: tuple[torch.nn.Module, sf.Replay]) -> None:
    policy, replay = trained
    network = sf.convert(policy, replay, preset="rate", percentile=95.0, weight_grid=16)
    by_name = {stage.name: stage for stage in sf.diagnose(network, policy, replay).stages}
    # Sixteen bits are nearly the policy's own weights: the rest is what ranges from a lower percentile on cut off.
    assert by_name["weights"].largest_error < 0.005 < 0.1 < by_name["ranges"].largest_error
