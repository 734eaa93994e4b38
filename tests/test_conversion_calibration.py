# SPDX-License-Identifier: Apache-2.0
"""Calibrated biases and fine-tuned weights: what they promise, and what they are compared with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import snnfast as sf
from snnfast.conversion import calibration
from snnfast.conversion.calibration import told
from snnfast.conversion.hidden import spiking_activations
from snnfast.conversion.reading import read_network
from snnfast.conversion.rebuilding import rebuilt
from snnfast.conversion.scaling import activations


@pytest.fixture(scope="module")
def policy() -> torch.nn.Sequential:
    return sf.pretrained_policy("CartPole-v1")


@pytest.fixture(scope="module")
def replay(policy: torch.nn.Sequential) -> sf.Replay:
    return sf.record_replay("CartPole-v1", policy, size=4_000, max_steps=500, seed=3)


@pytest.fixture(scope="module")
def fresh(policy: torch.nn.Sequential) -> torch.Tensor:
    return sf.record_replay("CartPole-v1", policy, size=4_000, max_steps=500, seed=4).observations


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fine-tuning in a fifth of the steps: enough for what these tests ask."""
    monkeypatch.setattr(calibration, "TUNING_STEPS", 300)


def similarity(network: sf.SpikingNetwork, policy: torch.nn.Module, states: torch.Tensor) -> float:
    with torch.no_grad():
        return float((network(states).argmax(dim=1) == policy(states).argmax(dim=1)).double().mean())


@pytest.mark.parametrize(
    "options",
    [
        {"method": "rate", "timesteps": 8},
        {"method": "rate", "timesteps": 8, "copies": 2, "readout": "final"},
        {"method": "rate", "timesteps": 8, "order": "delayed", "copies": 1},
        {"method": "staged", "timesteps": 4},
        {"method": "radix", "timesteps": 3},
    ],
)
def test_calibrated_biases_take_the_mean_error_of_the_first_layer_away(
    options: dict[str, object], policy: torch.nn.Sequential, replay: sf.Replay
) -> None:
    plain = sf.convert(policy, replay, **options)  # type: ignore[arg-type]
    network = sf.convert(policy, replay, calibrate="bias", **options)  # type: ignore[arg-type]
    assert network.conversion["calibration"] == {"kind": "bias", "states": 4_000}
    states = replay.observations.numpy()
    first = activations(read_network(policy), states)[0]
    low = np.zeros(16) if plain.conversion["shifts"][0] is None else np.array(plain.conversion["shifts"][0])
    wanted = np.clip((first - low) / np.array(plain.conversion["scales"][0]), 0.0, 1.0)
    before, after = (
        np.abs((wanted - spiking_activations(net, states)[0]).mean(axis=0)).mean() for net in (plain, network)
    )
    assert after < before
    for old, new in zip(plain.spec.weights, network.spec.weights, strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(plain.spec.biases[-1], network.spec.biases[-1])


def test_biases_grow_by_what_the_spikes_lack(policy: torch.nn.Sequential, replay: sf.Replay) -> None:
    # The equation, for the first layer: b + mean(clip(r, 0, 1) - rate), both counted on all states.
    plain = sf.convert(policy, replay, method="staged", timesteps=4, shift=False)
    network = sf.convert(policy, replay, method="staged", timesteps=4, shift=False, calibrate="bias")
    states = replay.observations.numpy()
    wanted = np.clip(activations(read_network(policy), states)[0] / np.array(plain.conversion["scales"][0]), 0.0, 1.0)
    missing = (wanted - spiking_activations(plain, states)[0]).mean(axis=0)
    before, after = plain.spec.biases[0], network.spec.biases[0]
    assert before is not None
    assert after is not None
    np.testing.assert_allclose(after - before, missing, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "staged", "timesteps": 4},
        {"method": "staged", "timesteps": 5, "ramp": False, "copies": 3},
        {"method": "rate", "timesteps": 6, "initial_potential": 0.25},
        {"method": "radix", "timesteps": 4},
    ],
)
def test_what_is_trained_is_what_the_spikes_of_the_first_layer_tell(
    options: dict[str, object], policy: torch.nn.Sequential, replay: sf.Replay
) -> None:
    network = sf.convert(policy, replay, **options)  # type: ignore[arg-type]
    states = replay.observations.numpy()[:500]
    spec = network.spec
    current = states @ spec.weights[0].T + spec.biases[0]
    expected = told(torch.from_numpy(current), spec).numpy()
    # Where a sum ends within rounding of a threshold, the two may take different sides of it.
    off = np.abs(expected - spiking_activations(network, states)[0]) > 1e-6
    assert off.mean() < 2e-3


@pytest.mark.parametrize(
    "options",
    [{"method": "staged", "timesteps": 4}, {"method": "rate", "timesteps": 4}, {"method": "radix", "timesteps": 2}],
)
def test_fine_tuning_decides_more_alike_with_very_few_steps(
    options: dict[str, object], policy: torch.nn.Sequential, replay: sf.Replay, fresh: torch.Tensor, short: None
) -> None:
    plain = sf.convert(policy, replay, **options)  # type: ignore[arg-type]
    network = sf.convert(policy, replay, calibrate="qcfs", **options)  # type: ignore[arg-type]
    assert similarity(network, policy, fresh) > similarity(plain, policy, fresh)
    noted = network.conversion["calibration"]
    assert (noted["kind"], noted["seed"]) == ("qcfs", 1)
    assert noted["kept"] % 20 == 0
    assert 0.5 < noted["before"] <= noted["after"] <= 1.0
    # The figure is that of the states kept apart, the last quarter.
    assert similarity(network, policy, replay.observations[-1000:]) == pytest.approx(noted["after"], abs=1e-12)


def test_fine_tuning_is_reproducible_and_leaves_the_policy_alone(
    policy: torch.nn.Sequential, replay: sf.Replay, short: None
) -> None:
    before = [p.clone() for p in policy.parameters()]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, same, other = (
        sf.convert(policy, replay, method="staged", timesteps=4, calibrate="qcfs", seed=seed) for seed in (3, 3, 4)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), before, strict=True))
    assert all(map(np.array_equal, one.spec.weights, same.spec.weights))
    assert not all(map(np.array_equal, one.spec.weights, other.spec.weights))
    assert all(p.grad is None for p in policy.parameters())


def test_nothing_is_kept_that_is_worse(
    policy: torch.nn.Sequential, replay: sf.Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "TUNING_STEPS", 15)
    monkeypatch.setattr(calibration, "_LEARNING_RATE", 10.0)  # ruins everything
    plain = sf.convert(policy, replay, method="radix", timesteps=6)
    network = sf.convert(policy, replay, method="radix", timesteps=6, calibrate="qcfs")
    assert network.conversion["calibration"]["kept"] == 0
    assert all(map(np.array_equal, plain.spec.weights, network.spec.weights))


def test_with_an_exit_with_split_inputs_and_through_a_file(
    policy: torch.nn.Sequential, replay: sf.Replay, fresh: torch.Tensor, tmp_path: Path, short: None
) -> None:
    network = sf.convert(policy, replay, preset="radix-certified", timesteps=4, calibrate="qcfs", split_inputs=True)
    whole = rebuilt(network)
    assert torch.equal(network(fresh).argmax(dim=1), whole(fresh).argmax(dim=1))  # what the exit promises
    json.dumps(network.conversion, allow_nan=False)
    network.save(tmp_path / "net.safetensors")
    assert torch.equal(sf.SpikingNetwork.load(tmp_path / "net.safetensors")(fresh), network(fresh))


def test_a_calibrated_network_has_its_own_steps_and_no_other(policy: torch.nn.Sequential, replay: sf.Replay) -> None:
    network = sf.convert(policy, replay, method="staged", timesteps=8, calibrate="bias")
    with pytest.raises(ValueError, match="biases and weights are made for its own number of steps"):
        rebuilt(network, 4)
    predicted = sf.predict_similarity(network, policy, replay)
    assert predicted.exponent is None


def test_refusals(policy: torch.nn.Sequential, replay: sf.Replay) -> None:
    with pytest.raises(ValueError, match="calibrate='bias' needs method='rate' or 'staged' or 'radix', got"):
        sf.convert(policy, replay, method="digits", calibrate="bias")
    with pytest.raises(ValueError, match="calibrate must be one of"):
        sf.convert(policy, replay, calibrate="weights")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="calibrate='qcfs' needs order='immediate'"):
        sf.convert(policy, replay, preset="thesis", calibrate="qcfs")
    with pytest.raises(ValueError, match="weight_grid must be None with calibrate='qcfs'"):
        sf.convert(policy, replay, timesteps=8, calibrate="qcfs", weight_grid=8)
    with pytest.raises(ValueError, match="calibrate='bias' needs"):
        sf.convert(policy, None, scaling="model", calibrate="bias")
    with pytest.raises(ValueError, match="at least 8 states, got 7"):
        sf.convert(policy, replay.observations[:7], calibrate="qcfs", timesteps=4)
    with pytest.raises(ValueError, match="at least two outputs that differ"):
        sf.convert(torch.nn.Linear(4, 1), replay.observations, calibrate="qcfs", timesteps=4)
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match="seed must be from 0"):
            sf.convert(policy, replay, calibrate="qcfs", timesteps=4, seed=seed)


def test_none_said_aloud_is_none(policy: torch.nn.Sequential, replay: sf.Replay) -> None:
    network = sf.convert(policy, replay, calibrate="none")
    assert network.conversion["settings"]["calibrate"] is None
    assert network.conversion["calibration"] is None


@pytest.mark.parametrize("kind", ["bias", "qcfs"])
def test_a_network_without_biases_gets_them(kind: str, short: None) -> None:
    torch.manual_seed(1)
    policy = torch.nn.Sequential(torch.nn.Linear(3, 5, bias=False), torch.nn.ReLU(), torch.nn.Linear(5, 2, bias=False))
    states = torch.randn(400, 3)
    network = sf.convert(policy, states, method="staged", timesteps=3, calibrate=kind)  # type: ignore[arg-type]
    assert network.spec.biases[0] is not None
    assert network(states).shape == (400, 2)


def test_one_layer_has_nothing_to_calibrate(replay: sf.Replay) -> None:
    policy = torch.nn.Linear(4, 2)
    plain, network = (sf.convert(policy, replay.observations, timesteps=4, calibrate=c) for c in ("none", "bias"))  # type: ignore[arg-type]
    assert torch.equal(plain(replay.observations), network(replay.observations))
