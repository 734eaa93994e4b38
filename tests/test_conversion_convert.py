# SPDX-License-Identifier: Apache-2.0
"""From a ReLU network to a spiking one."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from snnfast.conversion import PRESETS, convert, output_gain
from snnfast.network import SpikingNetwork
from snnfast.spec import NeuronSpec


def make(sizes=(4, 16, 16, 3), seed=0):
    torch.manual_seed(seed)
    layers = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


POLICY = make()
STATES = torch.randn(3000, 4, generator=torch.Generator().manual_seed(1))


def original(policy, x):
    with torch.no_grad():
        return policy(x)


NEUTRAL = {
    "method": "rate",
    "headroom": 1.0,
    "copies": 1,
    "signed": False,
    "ramp": False,
    "tau": 0.5,
    "first_steps": None,
    "kappa": None,
    "guard": False,
    "spike_error": None,
    "calibrate": None,
    "early_exit": None,
    "exit_factor": 1.5,
}


def test_presets_are_those_of_the_documentation():
    assert dataclasses.asdict(PRESETS["thesis"]) == NEUTRAL | {
        "scaling": "robust",
        "percentile": 99.0,
        "shift": False,
        "timesteps": 100,
        "order": "delayed",
        "initial_potential": 0.0,
        "readout": "final",
    }
    assert dataclasses.asdict(PRESETS["rate"]) == NEUTRAL | {
        "scaling": "neuron",
        "percentile": 99.9,
        "shift": True,
        "timesteps": 100,
        "order": "immediate",
        "initial_potential": 0.5,
        "readout": "mean",
    }


def test_the_network_has_the_settings_of_its_preset():
    thesis, rate = convert(POLICY, STATES, preset="thesis"), convert(POLICY, STATES, preset="rate")
    assert (thesis.neuron.order, thesis.neuron.initial_potential, thesis.spec.decoding) == ("delayed", 0.0, "potential")
    assert (rate.neuron.order, rate.neuron.initial_potential, rate.spec.decoding) == (
        "immediate",
        0.5,
        "mean_potential",
    )
    assert thesis.timesteps == rate.timesteps == 100
    for net in (thesis, rate):
        assert (net.neuron.alpha, net.neuron.beta, net.neuron.threshold, net.neuron.reset) == (0, 1, 1, "subtraction")
        assert net.sizes == (4, 16, 16, 3)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.weights + a.biases, b.weights + b.biases, strict=True)) and (
        a.output_scale == b.output_scale
    )


def test_without_a_preset_it_is_rate():
    assert same(convert(POLICY, STATES), convert(POLICY, STATES, preset="rate"))


def test_an_argument_overrides_the_preset():
    net = convert(POLICY, STATES, preset="thesis", timesteps=20, percentile=90.0, order="immediate", readout="mean")
    assert (net.timesteps, net.neuron.order, net.spec.decoding) == (20, "immediate", "mean_potential")
    assert net.conversion["settings"]["percentile"] == 90.0
    assert net.conversion["settings"]["scaling"] == "robust"
    net = convert(POLICY, STATES, preset="thesis", initial_potential=0.5, scaling="neuron", shift=True)
    assert net.neuron.initial_potential == 0.5
    assert net.conversion["settings"]["shift"] is True
    assert convert(POLICY, STATES, shift=False).conversion["settings"]["shift"] is False


def test_another_scaling_beside_rate_switches_its_shift_off():
    settings = convert(POLICY, STATES, scaling="robust").conversion["settings"]
    assert settings["shift"] is False
    assert settings["percentile"] == 99.9
    assert convert(POLICY, STATES, scaling="data").conversion["settings"]["percentile"] == 100.0


def test_data_is_robust_at_100_percent():
    data = convert(POLICY, STATES, preset="thesis", scaling="data")
    assert same(data, convert(POLICY, STATES, preset="thesis", percentile=100))


def test_model_scaling_needs_no_replay():
    net = convert(POLICY, None, preset="thesis", scaling="model")
    assert net.conversion["replay"] is None
    assert same(net, convert(POLICY, STATES, preset="thesis", scaling="model"))


@pytest.mark.parametrize("preset", ["thesis", "rate"])
def test_outputs_approach_the_original_ones_as_steps_grow(preset):
    # percentile 100 and states of the replay: no activation is clipped, so only the number of steps limits precision.
    x = STATES[:400]
    want = original(POLICY, x)
    spread = float(want.std())
    errors = []
    for timesteps in (50, 200, 800, 3200):
        net = convert(POLICY, STATES, preset=preset, percentile=100.0, timesteps=timesteps)
        errors.append(float((net(x, original_units=True) - want).abs().mean()) / spread)
    assert all(b < 0.6 * a for a, b in itertools.pairwise(errors)), errors
    assert errors[-1] < 0.01, errors


def test_rate_is_far_closer_than_thesis():
    want = original(POLICY, STATES)
    errors = {
        name: float((convert(POLICY, STATES, preset=name)(STATES, original_units=True) - want).abs().mean())
        for name in ("thesis", "rate")
    }
    assert errors["rate"] < errors["thesis"] / 4, errors
    similarity = (convert(POLICY, STATES)(STATES).argmax(1) == want.argmax(1)).float().mean()
    assert similarity > 0.99


@pytest.mark.parametrize(("scaling", "factor"), [("neuron", 1.0), ("data", 2.0)])
def test_original_units_of_a_network_that_computes_exactly(scaling, factor):
    """One layer has nothing to approximate: the outputs in the original's units are the original's."""
    policy = nn.Sequential(nn.Linear(3, 2))
    x = torch.randn(20, 3)
    for order in ("immediate", "delayed"):
        for readout in ("final", "mean"):
            net = convert(policy, x * factor, scaling=scaling, order=order, readout=readout, timesteps=7)
            torch.testing.assert_close(net(x, original_units=True), original(policy, x), rtol=1e-5, atol=1e-5)


def test_gain():
    assert output_gain(NeuronSpec(), 100, "potential") == 100.0
    assert output_gain(NeuronSpec(order="delayed"), 100, "potential") == 99.0
    assert output_gain(NeuronSpec(), 100, "mean_potential") == 50.5
    assert output_gain(NeuronSpec(order="delayed"), 100, "mean_potential") == 49.5
    # Leaky: 1 + 0.5 + 0.25; with a synapse that keeps half: currents 1, 1.5, 1.75.
    assert output_gain(NeuronSpec(beta=0.5), 3, "potential") == 1.75
    assert output_gain(NeuronSpec(alpha=0.5), 3, "potential") == 4.25
    # The initial potential is not the output neuron's.
    assert output_gain(NeuronSpec(initial_potential=0.5), 2, "potential") == 2.0
    with pytest.raises(ValueError, match="timesteps must be at least 2 in 'delayed' order"):
        output_gain(NeuronSpec(order="delayed"), 1, "potential")
    with pytest.raises(ValueError, match="timesteps must be at least 2"):
        convert(POLICY, STATES, preset="thesis", timesteps=1)
    assert convert(POLICY, STATES, preset="rate", timesteps=1).timesteps == 1


def test_split_inputs_give_the_same_decisions():
    plain, split = (convert(POLICY, STATES, preset="thesis", split_inputs=s) for s in (False, True))
    assert split.spec.split_inputs
    assert split.n_in == 4
    # The input current is the same number up to the order of summation.
    agree = (plain(STATES).argmax(1) == split(STATES).argmax(1)).float().mean()
    assert agree > 0.999


REPLAY = SimpleNamespace(
    observations=STATES.numpy(),
    metadata={"env_id": "Nothing-v0", "seed": 4, "size": 3000, "path": SimpleNamespace()},
)


def test_a_replay_an_array_and_a_tensor_are_the_same():
    nets = [convert(POLICY, r) for r in (REPLAY, STATES, STATES.numpy(), STATES.double(), STATES.numpy().tolist())]
    assert all(same(nets[0], net) for net in nets[1:])


def test_provenance():
    net = convert(POLICY, REPLAY, preset="rate", timesteps=30)
    told = json.loads(json.dumps(net.conversion))
    assert told["preset"] == "rate"
    assert told["settings"]["timesteps"] == 30
    assert told["settings"]["scaling"] == "neuron"
    assert [np.size(s) for s in told["scales"]] == [16, 16, 1]
    assert [s if s is None else len(s) for s in told["shifts"]] == [16, 16, None]
    assert told["gain"] == 15.5
    assert (told["replay"]["states"], told["replay"]["env_id"], told["replay"]["seed"]) == (3000, "Nothing-v0", 4)
    assert told["version"]
    thesis = convert(POLICY, STATES, preset="thesis").conversion
    assert [np.size(s) for s in thesis["scales"]] == [1, 1, 1]
    assert thesis["shifts"] == [None, None, None]
    assert thesis["replay"] == {"states": 3000}


def test_it_survives_saving(tmp_path):
    net = convert(POLICY, REPLAY)
    net.save(tmp_path / "net.safetensors")
    back = SpikingNetwork.load(tmp_path / "net.safetensors")
    assert back.conversion == net.conversion
    assert same(net, back)
    assert torch.equal(back(STATES), net(STATES))


def test_the_policy_is_not_modified():
    policy = make(seed=5).train()
    before = copy.deepcopy(policy.state_dict())
    convert(policy, STATES)
    assert policy.training
    assert all(torch.equal(before[k], v) for k, v in policy.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in policy.parameters())


def test_conversion_is_reproducible():
    assert same(convert(POLICY, STATES), convert(POLICY, STATES))


@pytest.mark.parametrize(
    ("replay", "error", "message"),
    [
        (torch.ones(5, 3), ValueError, r"replay must hold observations of shape \(N, 4\).*got \(5, 3\)"),
        (torch.ones(4), ValueError, r"shape \(N, 4\).*got \(4,\)"),
        (torch.ones(2, 2, 4), ValueError, r"shape \(N, 4\).*got \(2, 2, 4\)"),
        (torch.ones(0, 4), ValueError, "at least one observation, got none"),
        (torch.tensor([[1, 2, 3, 4], [1, 2, 3, float("nan")]]), ValueError, "finite observations, got .* at index 1"),
        (np.array([[1e300, 0, 0, 0]]), ValueError, "finite observations"),
        (np.array([["a"] * 4]), TypeError, "replay must be a Replay or hold real numbers"),
        (torch.ones(2, 4, dtype=torch.complex64), TypeError, "real numbers"),
        ("replay.safetensors", TypeError, "real numbers, got str"),
        ([[1.0, 2.0, 3.0, 4.0], [1.0]], ValueError, r"replay must hold observations of shape \(N, 4\), got list"),
        (torch.ones(5, 4).to_sparse(), TypeError, "replay must be a dense tensor with data, got .*sparse_coo"),
        (torch.ones(5, 4, device="meta"), TypeError, "replay must be a dense tensor with data, got one on meta"),
        (np.ma.masked_less(np.ones((5, 4)), 2), TypeError, "replay must be a plain array, got one with a mask"),
        (None, ValueError, "scaling='neuron' needs a replay"),
    ],
)
def test_bad_replays(replay, error, message):
    with pytest.raises(error, match=message):
        convert(POLICY, replay)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"preset": "best"}, ValueError, "preset must be one of 'thesis', 'rate', .*, got 'best'"),
        ({"preset": 3}, TypeError, "preset must be a name, got 3"),
        ({"scaling": "max"}, ValueError, "scaling must be one of 'model', 'data', 'robust', 'neuron', got 'max'"),
        ({"percentile": 0}, ValueError, "percentile must be above 0 and at most 100"),
        ({"percentile": "99"}, TypeError, "percentile must be a number"),
        ({"scaling": "model", "percentile": 99}, ValueError, "percentile has no meaning with scaling='model'"),
        ({"scaling": "robust", "shift": True}, ValueError, "shift=True needs scaling='neuron', got scaling='robust'"),
        ({"shift": 1}, TypeError, "shift must be True or False, got 1"),
        ({"timesteps": 0}, ValueError, "timesteps must be"),
        ({"timesteps": 10.5}, TypeError, "timesteps must be an integer"),
        ({"order": "late"}, ValueError, "order must be one of"),
        ({"readout": "spikes"}, ValueError, "readout must be one of 'final', 'mean', 'parabolic', got 'spikes'"),
        ({"initial_potential": float("nan")}, ValueError, "initial_potential must be finite"),
        ({"backend": "tpu"}, ValueError, "backend must be one of"),
        ({"method": "digits", "spike_error": 0}, ValueError, "spike_error must be positive, got 0"),
        ({"split_inputs": 1}, TypeError, "split_inputs must be True or False"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        convert(POLICY, STATES, **arguments)


def test_the_layer_is_named():
    with pytest.raises(NotImplementedError, match=r"layer '1' \(Tanh\)"):
        convert(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)), STATES)


def test_a_schedule_that_is_not_possible_names_the_argument():
    policy = make((4, 8, 2))
    with torch.no_grad():
        for parameter in policy[2].parameters():
            parameter.zero_()
    with pytest.raises(ValueError, match=r"spike_error=0\.001 is not possible: .* outputs differ"):
        convert(policy, STATES, method="digits", spike_error=1e-3)
