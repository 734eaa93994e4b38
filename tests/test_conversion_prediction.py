# SPDX-License-Identifier: Apache-2.0
"""Predicted similarity: what is counted, what theory adds, and where the errors of hidden activations come from."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
import torch

import snnfast as sf
from snnfast import backends
from snnfast.conversion import read_network
from snnfast.conversion.hidden import clipped_activations, original_units, spiking_activations
from snnfast.conversion.rebuilding import rebuilt
from snnfast.conversion.scaling import activations
from snnfast.spec import NetworkSpec

RATES = ({"preset": "rate", "timesteps": 32}, {"preset": "rate", "readout": "final"}, {"preset": "rate-copies"})
#: With one percentile: which is the best depends on the steps.
_EXIT = {"method": "rate", "copies": 4, "readout": "mean", "early_exit": "calibrated", "percentile": 99.9}
OTHERS = ({"preset": "staged"}, {"preset": "radix", "timesteps": 8}, {"preset": "digits", "timesteps": 8})


@pytest.fixture(scope="module")
def policy() -> torch.nn.Sequential:
    return sf.pretrained_policy("CartPole-v1")


@pytest.fixture(scope="module")
def replay(policy: torch.nn.Sequential) -> sf.Replay:
    return sf.record_replay("CartPole-v1", policy, size=10_000, max_steps=500, seed=3)


@pytest.fixture(scope="module")
def fresh(policy: torch.nn.Sequential) -> sf.Replay:
    return sf.record_replay("CartPole-v1", policy, size=10_000, max_steps=500, seed=400)


@pytest.mark.parametrize("options", [*RATES, *OTHERS], ids=str)
def test_hidden_activations_are_what_the_output_is_made_of(
    options: dict[str, object], policy: torch.nn.Sequential, replay: sf.Replay
) -> None:
    network = sf.convert(policy, replay, **{**options, "timesteps": 12, "readout": "final"})  # type: ignore[arg-type]
    states = replay.observations[:300].numpy()
    last = spiking_activations(network, states)[-1]
    bias = network.spec.biases[-1]
    assert bias is not None
    outputs = (last @ network.spec.weights[-1].T + bias) * original_units(network)
    assert np.allclose(outputs, network(states, original_units=True), atol=1e-4)
    # Within a step of what the ranges allow.
    exact = clipped_activations(network.spec, states)[0]
    assert np.abs(spiking_activations(network, states)[0] - exact).max() < 1 / 6


def test_the_clipped_network_is_the_original_within_its_ranges(policy: torch.nn.Sequential, replay: sf.Replay) -> None:
    states = replay.observations.numpy()
    layers = read_network(policy)
    wide = sf.convert(policy, replay, preset="digits", percentile=100.0, split_inputs=True)
    outputs = clipped_activations(wide.spec, states)[-1] * original_units(wide)
    assert np.allclose(outputs, activations(layers, states)[-1], atol=1e-4)


@pytest.mark.parametrize(
    ("options", "other"),
    [
        ({"preset": "rate"}, {"timesteps": 24}),
        (_EXIT, {"timesteps": 24}),
        ({"method": "radix", "early_exit": "certified"}, {"timesteps": 6}),
        ({"preset": "digits"}, {"timesteps": 13}),
        ({"preset": "digits"}, {"timesteps": 8}),
        ({"preset": "digits", "first_steps": 10}, {"timesteps": 9, "first_steps": 7}),
    ],
    ids=str,
)
def test_a_network_of_other_steps_is_the_conversion_with_those(
    options: dict[str, object], other: dict[str, object], policy: torch.nn.Sequential, replay: sf.Replay
) -> None:
    network = rebuilt(sf.convert(policy, replay, **options), other["timesteps"])  # type: ignore[arg-type]
    converted = sf.convert(policy, replay, **{**options, **other, "early_exit": None})  # type: ignore[arg-type]
    states = replay.observations[:500]
    assert torch.allclose(network(states, original_units=True), converted(states, original_units=True), rtol=1e-5)
    assert original_units(network) == pytest.approx(original_units(converted))


def test_a_network_of_other_steps_is_on_the_same_device(
    policy: torch.nn.Sequential, replay: sf.Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[str] = []

    def compile_network(spec: NetworkSpec, backend: str, exact: bool = True) -> backends.Executable:
        wanted.append(backend)
        return backends.CpuExecutable(spec, exact=exact)

    monkeypatch.setattr(backends, "resolve", lambda name: "cuda:0" if name == "cuda" else name)
    monkeypatch.setattr(backends, "compile_network", compile_network)
    network = sf.convert(policy, replay, preset="rate", backend="cuda:1")
    rebuilt(network, 24)
    assert set(wanted) == {"cuda:1"}


@pytest.mark.parametrize("options", [*RATES, *OTHERS], ids=str)
def test_theory_and_count_agree_and_foretell_other_steps(
    options: dict[str, object], policy: torch.nn.Sequential, replay: sf.Replay, fresh: sf.Replay
) -> None:
    network = sf.convert(policy, replay, **options)  # type: ignore[arg-type]
    found = sf.predict_similarity(network, policy, fresh)
    assert found.similarity < 1
    assert found.interval[0] < found.similarity < found.interval[1]
    assert (found.states, found.episodes, found.seen) == (10_000, 20, False)
    assert found.theory == pytest.approx(found.similarity, abs=0.005)
    more = network.timesteps * 2 if found.growth == "power" else network.timesteps + 2
    then = sf.predict_similarity(sf.convert(policy, replay, **{**options, "timesteps": more}), policy, fresh)  # type: ignore[arg-type]
    assert found.extrapolate(more) > found.theory
    assert found.extrapolate(more) == pytest.approx(then.similarity, abs=0.003)
    assert found.extrapolate(network.timesteps) == found.theory
    json.dumps(found.as_dict(), allow_nan=False)


def test_exponents_are_those_of_sigma_delta_and_of_digits(
    policy: torch.nn.Sequential, replay: sf.Replay, fresh: sf.Replay
) -> None:
    def exponent(**options: object) -> float:
        found = sf.predict_similarity(sf.convert(policy, replay, **options), policy, fresh).exponent  # type: ignore[arg-type]
        assert found is not None
        return found

    assert exponent(method="rate", readout="final") == pytest.approx(1.0, abs=0.2)
    assert exponent(method="staged", ramp=True, timesteps=64) == pytest.approx(1.5, abs=0.25)
    assert exponent(method="radix", timesteps=10) == pytest.approx(np.log(2), abs=0.15)
    assert exponent(method="digits", timesteps=9) == pytest.approx(np.log(3), abs=0.25)


def test_an_error_that_does_not_fall_foretells_nothing(
    policy: torch.nn.Sequential, replay: sf.Replay, fresh: sf.Replay
) -> None:
    # From 8 to 32 steps the delayed network's error does not fall yet.
    found = sf.predict_similarity(sf.convert(policy, replay, preset="thesis", timesteps=32), policy, fresh)
    assert found.exponent is None
    assert "expected with T" not in str(found)
    assert found.extrapolate(32) == found.theory
    with pytest.raises(ValueError, match="one that does not fall with the steps"):
        found.extrapolate(64)
    result = sf.sweep(policy, replay, held_out=fresh, methods=["thesis"], timesteps=[16, 32, 64])
    assert [row.predicted for row in result.rows] == [None] * 3
    assert "predicted" not in result.table()


def test_what_ranges_cut_off_stays_however_many_steps(
    policy: torch.nn.Sequential, replay: sf.Replay, fresh: sf.Replay
) -> None:
    narrow = sf.convert(policy, replay, preset="radix", percentile=60.0, timesteps=8)
    found = sf.predict_similarity(narrow, policy, fresh)
    wide = sf.predict_similarity(sf.convert(policy, replay, preset="radix", headroom=2.0), policy, fresh)
    assert found.clipping_error > 100 * wide.clipping_error
    assert found.extrapolate(20) == pytest.approx(1 - found.density * found.clipping_error, abs=1e-4)
    assert found.extrapolate(20) < 0.99 < wide.extrapolate(20)


def test_rounded_weights_are_told_apart_from_the_ranges(
    policy: torch.nn.Sequential, replay: sf.Replay, fresh: sf.Replay
) -> None:
    plain = sf.predict_similarity(sf.convert(policy, replay, preset="digits"), policy, fresh)
    rounded = sf.predict_similarity(sf.convert(policy, replay, preset="digits", weight_grid=4), policy, fresh)
    calibrated = sf.predict_similarity(
        sf.convert(policy, replay, method="staged", timesteps=4, calibrate="bias"), policy, fresh
    )
    assert plain.rounding_error is None
    assert "weights on a grid" not in str(plain)
    assert rounded.rounding_error == pytest.approx(rounded.error, rel=0.02)
    assert f"and weights on a grid {rounded.rounding_error:.3g}" in str(rounded)
    # More steps mend neither.
    assert rounded.extrapolate(20) == pytest.approx(rounded.theory, abs=1e-3)
    assert calibrated.rounding_error is None
    for found in (rounded, calibrated):
        assert found.clipping_error < 0.01 * found.error


def test_errors_are_in_the_policys_units(policy: torch.nn.Sequential, replay: sf.Replay, fresh: sf.Replay) -> None:
    network = sf.convert(policy, replay, preset="rate", timesteps=16)
    found = sf.predict_similarity(network, policy, fresh).outputs
    with torch.no_grad():
        wanted = policy(fresh.observations).double().numpy()
    got = network(fresh.observations, original_units=True).double().numpy()
    shares = (0.5, 0.9, 0.99, 1.0)
    assert np.allclose(np.array(found.outputs).T, np.quantile(np.abs(got - wanted), shares, axis=0), atol=1e-5)
    lead = np.abs((got[:, 0] - got[:, 1]) - (wanted[:, 0] - wanted[:, 1]))
    assert np.allclose(found.lead, np.quantile(lead, shares), atol=1e-5)
    assert found.typical_lead == pytest.approx(np.median(np.abs(wanted[:, 0] - wanted[:, 1])), abs=1e-5)


def test_states_of_the_conversion_are_recognised(policy: torch.nn.Sequential, replay: sf.Replay) -> None:
    first, last = sf.split_replay(replay)
    network = sf.convert(policy, first, preset="digits")
    assert sf.predict_similarity(network, policy, first).seen
    found = sf.predict_similarity(network, policy, last)
    assert not found.seen
    assert "split_replay" not in str(found)
    assert "split_replay" in str(sf.predict_similarity(network, policy, first))


def test_a_coarse_network_is_predicted_on_the_states_that_it_meets_itself(
    policy: torch.nn.Sequential, replay: sf.Replay, fresh: sf.Replay
) -> None:
    network = sf.convert(policy, replay, preset="thesis", timesteps=24)
    found = sf.predict_similarity(network, policy, fresh)
    played = sf.evaluate("CartPole-v1", network, compare_against=policy, episodes=60, seed=9000).similarity
    assert played is not None
    assert found.closed_loop == found.similarity
    assert found.similarity == pytest.approx(played, abs=0.015)
    assert abs(found.similarity - played) < abs(found.counted - played) - 0.01
    assert found.interval[0] <= played <= found.interval[1]


def test_without_transitions_it_is_counted(policy: torch.nn.Sequential, replay: sf.Replay, fresh: sf.Replay) -> None:
    network = sf.convert(policy, replay, preset="rate", timesteps=32)
    order = torch.randperm(len(fresh), generator=torch.Generator().manual_seed(0))
    shuffled = sf.Replay(
        fresh.observations[order], fresh.actions[order], fresh.outputs[order], {"episode_lengths": [500] * 20}
    )
    unknown = sf.Replay(fresh.observations, fresh.actions, fresh.outputs)
    for states in (shuffled, unknown):
        found = sf.predict_similarity(network, policy, states)
        assert found.closed_loop is None
        assert found.similarity == found.counted
        assert "transitions" not in str(found)


def test_words(policy: torch.nn.Sequential, replay: sf.Replay, fresh: sf.Replay) -> None:
    found = sf.predict_similarity(sf.convert(policy, replay, preset="rate", timesteps=32), policy, fresh)
    nearly = dataclasses.replace(found, similarity=0.999996, interval=(0.9, 0.9999999), counted=0.999998)
    assert "similarity 99.9996 %, 95 % interval 90.000 to 99.99999 %" in str(nearly)
    assert "20 episodes: 99.9998 %" in str(nearly)
    text = str(found)
    for words in (
        "counted on 10,000 states of 20 episodes",
        "theory says",
        "expected with T=64",
        "error of",
        "output 1",
    ):
        assert words in text


def test_a_wide_interval_says_how_many_states_would_do(
    policy: torch.nn.Sequential, replay: sf.Replay, fresh: sf.Replay
) -> None:
    wide = sf.predict_similarity(sf.convert(policy, replay, preset="thesis"), policy, fresh)
    narrow = sf.predict_similarity(sf.convert(policy, replay, preset="rate-copies"), policy, fresh)
    (wide_low, wide_high), (narrow_low, narrow_high) = wide.interval, narrow.interval
    assert wide_high - wide_low > 0.01 > narrow_high - narrow_low
    found = re.search(r"hold out about ([\d,]+) states", str(wide))
    assert found
    # An interval is as the square root of what it is counted on.
    wanted = len(fresh) * ((wide_high - wide_low) / 0.01) ** 2
    assert int(found[1].replace(",", "")) == pytest.approx(wanted, rel=0.05)
    assert "hold out" not in str(narrow)


def test_wrong_arguments(policy: torch.nn.Sequential, replay: sf.Replay) -> None:
    network = sf.convert(policy, replay, preset="fewest-spikes")
    plain = sf.SpikingNetwork(network.weights, network.biases)
    with pytest.raises(ValueError, match="net must come from convert"):
        sf.predict_similarity(plain, policy, replay)
    with pytest.raises(TypeError, match="net must be a SpikingNetwork, got Sequential"):
        sf.predict_similarity(policy, policy, replay)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="replay must be a Replay, got Tensor"):
        sf.predict_similarity(network, policy, replay.observations)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="policy must be the network that net was made from"):
        sf.predict_similarity(network, sf.make_policy([4, 8, 2]), replay)
    found = sf.predict_similarity(network, policy, replay)
    with pytest.raises(ValueError, match="made for one number of steps only"):
        found.extrapolate(5)
    with pytest.raises(ValueError, match="timesteps must be"):
        found.extrapolate(0)


def test_one_output_decides_nothing() -> None:
    policy, states = sf.make_policy([2, 8, 1]), torch.randn(100, 2)
    replay = sf.Replay(states, torch.zeros(100, dtype=torch.int64), torch.zeros(100, 1))
    network = sf.convert(policy, replay, preset="rate")
    wanted = "policy must have at least two outputs, between which it decides, got 1"
    with pytest.raises(ValueError, match=wanted):
        sf.predict_similarity(network, policy, replay)
    with pytest.raises(ValueError, match=wanted):
        sf.diagnose(network, policy, replay)
    with pytest.raises(ValueError, match=wanted):
        sf.sweep(policy, replay)
