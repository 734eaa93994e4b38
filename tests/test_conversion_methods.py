# SPDX-License-Identifier: Apache-2.0
"""Methods, read-outs and early exits by name: what convert() makes of them, and what an exit promises."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import snnfast as sf
from snnfast.conversion.convert import EXIT_PERCENTILES
from snnfast.conversion.early_exit import learn_bounds, margins, running_outputs
from snnfast.conversion.presets import ABOUT, PRESETS, describe_presets


@pytest.fixture(scope="module")
def policy() -> torch.nn.Sequential:
    return sf.pretrained_policy("CartPole-v1")


@pytest.fixture(scope="module")
def replay(policy: torch.nn.Sequential) -> sf.Replay:
    return sf.record_replay("CartPole-v1", policy, size=10_000, max_steps=500, seed=3)


@pytest.fixture(scope="module")
def fresh(policy: torch.nn.Sequential) -> torch.Tensor:
    return sf.record_replay("CartPole-v1", policy, size=4_000, max_steps=500, seed=4).observations


def decisions(policy: torch.nn.Module, observations: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return policy(observations).argmax(dim=1)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_decides_like_the_policy_and_survives_a_file(
    name: str, policy: torch.nn.Sequential, replay: sf.Replay, fresh: torch.Tensor, tmp_path: Path
) -> None:
    network = sf.convert(policy, replay, preset=name)
    similarity = (network(fresh).argmax(dim=1) == decisions(policy, fresh)).float().mean()
    assert similarity > (0.85 if name == "thesis" else 0.985)
    json.dumps(network.conversion, allow_nan=False)
    assert network.conversion["settings"]["timesteps"] == network.timesteps
    network.save(tmp_path / "net.safetensors")
    again = sf.SpikingNetwork.load(tmp_path / "net.safetensors")
    assert again.conversion == network.conversion
    assert torch.equal(again(fresh), network(fresh))
    assert [network.act(x) for x in fresh[:50].numpy()] == network(fresh[:50]).argmax(dim=1).tolist()


def test_presets_are_described_line_by_line() -> None:
    lines = describe_presets()
    assert set(ABOUT) == set(PRESETS)
    assert [line.split(":")[0] for line in lines] == list(PRESETS)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "rate", "copies": 4},
        {"method": "rate", "copies": 2, "signed": True, "readout": "final"},
        {"method": "rate", "readout": "parabolic"},
        {"method": "staged", "ramp": False, "copies": 3, "timesteps": 64},
        {"method": "radix", "timesteps": 14},
        {"method": "digits", "guard": True, "timesteps": 16, "first_steps": 14},
        {"method": "digits", "tau": 0.8, "timesteps": 16, "headroom": 2.0},
        {"method": "digits", "spike_error": 2e-4},
    ],
)
def test_outputs_in_the_policys_units_are_close_to_the_policys(
    options: dict[str, object], policy: torch.nn.Sequential, replay: sf.Replay, fresh: torch.Tensor
) -> None:
    network = sf.convert(policy, replay, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        want = policy(fresh)
    error = (network(fresh, original_units=True) - want).abs()
    # Away from the tails, where neurons leave their ranges, the error is small beside what outputs vary by.
    assert error.median() < 0.02 * want.std()


@pytest.mark.parametrize("factor", [1.0, 1.5])
@pytest.mark.parametrize(
    "options",
    [
        {"method": "rate", "copies": 2, "timesteps": 64},
        {"method": "rate", "readout": "parabolic", "timesteps": 64},
        {"method": "digits"},
    ],
)
def test_no_state_of_the_replay_stops_early_with_a_wrong_decision(
    options: dict[str, object], factor: float, policy: torch.nn.Sequential, replay: sf.Replay
) -> None:
    network = sf.convert(policy, replay, early_exit="calibrated", exit_factor=factor, **options)  # type: ignore[arg-type]
    found = network.simulate(replay.observations)
    assert found.steps is not None
    early = found.steps < network.timesteps
    wrong = found.output.argmax(dim=1) != decisions(policy, replay.observations)
    assert early.float().mean() > 0.5
    assert not (early & wrong).any()


def test_running_outputs_are_what_an_exit_compares(policy: torch.nn.Sequential, replay: sf.Replay) -> None:
    states = replay.observations[:500].numpy()
    for readout in ("final", "mean", "parabolic"):
        whole = sf.convert(policy, replay, method="rate", copies=2, readout=readout, timesteps=20)  # type: ignore[arg-type]
        outputs = np.concatenate(list(running_outputs(whole, states)), axis=1)
        for t in (1, 7, 20):
            bounds = np.full(20, np.inf, np.float32)
            bounds[t - 1] = 0.0
            stopping = sf.SpikingNetwork(
                whole.weights, whole.biases, whole.neuron, 20, decoding=whole.spec.decoding, code=whole.spec.code,
                early_exit=sf.EarlyExit("calibrated", bounds),
            )  # fmt: skip
            found = stopping.simulate(states)
            assert found.steps is not None
            stopped = found.steps.numpy() == t
            assert stopped.any()
            assert np.array_equal(found.output.numpy()[stopped], outputs[t - 1][stopped])


def test_a_running_parabola_weighs_the_first_steps_currents_most(
    policy: torch.nn.Sequential, replay: sf.Replay
) -> None:
    states = replay.observations[:50].numpy()
    whole = sf.convert(policy, replay, method="rate", readout="parabolic", timesteps=12)
    potentials = whole.simulate(states, record="potentials").potentials
    assert potentials is not None
    currents = np.diff(potentials[-1].numpy().astype(np.float64), axis=0, prepend=0.0)
    for t, outputs in enumerate(np.concatenate(list(running_outputs(whole, states)), axis=1), start=1):
        s = np.arange(1, t + 1)
        parabola = t * (t + 1.0) - s * (s - 1.0)
        want = np.tensordot(parabola / parabola.sum(), currents[:t], axes=1)
        assert np.allclose(outputs, want, rtol=1e-4, atol=1e-4)


def test_bounds_fall_and_count_the_states(policy: torch.nn.Sequential, replay: sf.Replay) -> None:
    network = sf.convert(policy, replay, method="digits")
    states, expected = replay.observations.numpy(), decisions(policy, replay.observations).numpy()
    found = learn_bounds(network, states, expected, 2.0)
    assert found.states == len(states)
    assert (np.diff(found.bounds) <= 0).all()
    outputs = np.concatenate(list(running_outputs(network, states)), axis=1)
    for t, output in enumerate(outputs):
        wrong = margins(output)[output.argmax(axis=1) != expected]
        assert found.wrong[t] == (wrong.max() if len(wrong) else 0.0)
        assert found.bounds[t] >= found.wrong[t] * np.float32(2.0) * np.float32(0.999999)


def test_a_certified_radix_exit_never_changes_the_decision(
    policy: torch.nn.Sequential, replay: sf.Replay, fresh: torch.Tensor
) -> None:
    whole, leaving = (
        sf.convert(policy, replay, method="radix", early_exit=leave)  # type: ignore[arg-type]
        for leave in (None, "certified")
    )
    found = leaving.simulate(fresh)
    assert found.steps is not None
    assert torch.equal(found.output.argmax(dim=1), whole(fresh).argmax(dim=1))
    assert found.steps.mean() < 0.8 * whole.spec.total_steps


def test_a_certified_digits_exit_is_the_policys_decision(
    policy: torch.nn.Sequential, replay: sf.Replay, fresh: torch.Tensor
) -> None:
    # Also where neurons leave their ranges, for which a low percentile provides: such decisions are not certified.
    for percentile in (99.9, 95.0):
        network = sf.convert(policy, replay, preset="digits-certified", percentile=percentile)
        found = network.simulate(fresh)
        assert found.certified is not None
        assert found.saturated is not None
        certain = found.certified > 0
        assert certain.float().mean() > 0.5
        assert not (certain & (found.output.argmax(dim=1) != decisions(policy, fresh))).any()
        assert percentile > 99 or (found.saturated > 0).any()


def test_a_calibrated_exit_takes_the_percentile_that_stops_earliest(
    policy: torch.nn.Sequential, replay: sf.Replay, fresh: torch.Tensor
) -> None:
    def mean_steps(network: sf.SpikingNetwork, states: Any) -> float:
        steps = network.simulate(states).steps
        assert steps is not None
        return float(steps.double().mean())

    short: dict[str, Any] = {"preset": "rate-early-exit", "timesteps": 48}
    tried = {p: sf.convert(policy, replay, percentile=p, **short) for p in EXIT_PERCENTILES}
    steps = {p: mean_steps(network, replay.observations) for p, network in tried.items()}
    assert len(set(steps.values())) == len(EXIT_PERCENTILES), "else the test would tell nothing"
    best = min(EXIT_PERCENTILES, key=steps.__getitem__)
    found = sf.convert(policy, replay, **short)
    assert found.conversion == tried[best].conversion
    assert found.conversion["settings"]["percentile"] == best
    assert torch.equal(found(fresh), tried[best](fresh))
    with pytest.warns(UserWarning, match="learns its bounds from 5000 states") as told:
        sf.convert(policy, replay.observations[:5000], **short)
    assert len(told) == 1, "not once for every percentile"
    for missing in ({"early_exit": "calibrated"}, short):
        with pytest.raises(ValueError, match="replay"):
            sf.convert(policy, None, **missing)
    without = sf.convert(policy, replay, early_exit="none", **short)
    assert without.spec.early_exit is None
    assert without.conversion["settings"]["percentile"] == PRESETS["rate-early-exit"].percentile


def test_the_percentile_is_the_best_one_wherever_in_the_replay_states_are(
    policy: torch.nn.Sequential, replay: sf.Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("snnfast.conversion.convert")
    asked: list[int] = []
    simulate = sf.SpikingNetwork.simulate

    def counting(network: sf.SpikingNetwork, observations: Any, **options: Any) -> Any:
        if network.spec.early_exit is not None:
            asked.append(len(observations))
            assert np.array_equal(observations, replay.observations[::4])
        return simulate(network, observations, **options)

    monkeypatch.setattr(module, "_COMPARED", len(replay.observations) // 4)
    monkeypatch.setattr(sf.SpikingNetwork, "simulate", counting)
    found = sf.convert(policy, replay, preset="rate-early-exit", timesteps=32)
    assert len(asked) == len(EXIT_PERCENTILES)
    assert found.conversion["early_exit"]["states"] == len(replay.observations), "bounds are those of all states"


@pytest.mark.parametrize("n_out", [2, 3])
def test_margins_are_the_best_outputs_lead(n_out: int) -> None:
    outputs = np.random.default_rng(n_out).normal(size=(7, 50, n_out)).astype(np.float32)
    outputs[0, 0] = 1.0
    best = np.sort(outputs, axis=-1)
    assert np.array_equal(margins(outputs), best[..., -1] - best[..., -2])
    assert margins(outputs)[0, 0] == 0.0


def test_few_states_warn_that_bounds_are_too_small(policy: torch.nn.Sequential, replay: sf.Replay) -> None:
    with pytest.warns(UserWarning, match="record a larger replay") as told:
        sf.convert(policy, replay.observations[:500], preset="digits-calibrated")
    assert told[0].filename == __file__, "it is the caller's line that is told"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "spikes"}, "method must be one of"),
        ({"method": "radix", "preset": "rate"}, "method='radix' contradicts preset='rate'"),
        ({"method": "radix", "copies": 2}, "copies=2 needs method='rate' or 'staged'"),
        ({"method": "digits", "signed": True}, "signed=True needs method='rate'"),
        ({"method": "radix", "scaling": "robust"}, "needs scaling='neuron'"),
        ({"method": "staged", "early_exit": "certified"}, "early_exit must be None with method='staged'"),
        ({"method": "rate", "early_exit": "certified"}, "early_exit must be 'calibrated'"),
        ({"method": "digits", "spike_error": 1e-3, "guard": True}, "guard=True cannot go with spike_error"),
        ({"method": "digits", "spike_error": 1e-3, "timesteps": 20}, "timesteps=20 cannot go with spike_error=0.001"),
        ({"preset": "fewest-spikes", "timesteps": 20}, "timesteps=20 cannot go with spike_error=0.00025"),
        ({"method": "digits", "tau": 0.2}, "tau must be from 0.5 to 1"),
        ({"method": "digits", "early_exit": "certified", "shift": True}, "shift=True cannot go with"),
        ({"method": "rate", "exit_factor": 2.0}, "needs early_exit='calibrated'"),
        ({"method": "radix", "timesteps": 25}, "timesteps must be from 1 to 20"),
        ({"headroom": 0.0}, "headroom must be"),
    ],
)
def test_settings_that_contradict_each_other_say_so(
    options: dict[str, object], message: str, policy: torch.nn.Sequential, replay: sf.Replay
) -> None:
    with pytest.raises(ValueError, match=message):
        sf.convert(policy, replay, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_certified_digits_hold_in_random_networks_in_and_out_of_range(depth: int) -> None:
    certified = early = out = 0
    for seed in range(12):
        generator = torch.Generator().manual_seed(100 * depth + seed)
        sizes = [3, *torch.randint(5, 17, (depth,), generator=generator).tolist(), 4]
        policy = sf.make_policy(sizes, seed=seed)
        states = torch.randn(600, 3, generator=generator)
        # Ranges of the first states; the others are twice as far out.
        network = sf.convert(policy, states[:200], method="digits", early_exit="certified", timesteps=4 * depth + 6)
        found = network.simulate(2.0 * states)
        assert found.certified is not None
        assert found.saturated is not None
        assert found.steps is not None
        with torch.no_grad():
            outputs = policy.double()(2.0 * states.double())
        certain = found.certified > 0
        # Closer to a tie than float32 computes, there is no decision of the policy's to speak of.
        tied = outputs.topk(2, dim=1).values.diff(dim=1).abs()[:, 0] < 1e-6 * outputs.abs().amax(dim=1)
        assert not (certain & ~tied & (found.output.argmax(dim=1) != outputs.argmax(dim=1))).any()
        certified += int(certain.sum())
        early += int((found.steps < network.spec.total_steps).sum())
        out += int((found.saturated > 0).sum())
    assert certified > 12 * 600 / 4, "of most networks, many"
    assert early > 0.8 * certified
    assert out > 0


def test_the_first_of_several_hidden_layers_stops_two_digits_early(
    policy: torch.nn.Sequential, replay: sf.Replay
) -> None:
    def worths(network: sf.SpikingNetwork) -> list[int]:
        code = network.spec.code
        assert isinstance(code, sf.DigitsCode)
        return [int(np.flatnonzero((layer > 0).any(axis=1)).max()) + 1 for layer in code.values]

    assert worths(sf.convert(policy, replay, method="digits", timesteps=12)) == [10, 12]
    assert worths(sf.convert(policy, replay, method="digits", timesteps=12, first_steps=12)) == [12, 12]
    assert worths(sf.convert(policy, replay, method="digits", timesteps=11)) == [11, 11], "too few to spare any"
    shallow = sf.make_policy([4, 16, 2], seed=1)
    assert worths(sf.convert(shallow, replay, method="digits", timesteps=12)) == [12], "nothing comes after it"


def test_large_replays_spare_outliers(policy: torch.nn.Sequential, replay: sf.Replay) -> None:
    network = sf.convert(policy, replay, method="digits", timesteps=6)
    states, expected = replay.observations.numpy(), decisions(policy, replay.observations).numpy()
    outputs = np.concatenate(list(running_outputs(network, states)), axis=1)
    wrong = np.where(outputs.argmax(axis=2) != expected, margins(outputs), np.float32(0))
    for copies in (1, 2, 4):
        many = -(-20_000 * copies // len(states))  # repeated, so that every margin is there that often
        found = learn_bounds(network, np.tile(states, (many, 1)), np.tile(expected, many), 1.0)
        spared = (many * len(states) - 1) // 20_000
        assert spared >= copies - 1
        in_order = np.sort(np.tile(wrong, (1, many)), axis=1)
        assert np.array_equal(found.wrong, in_order[:, -1 - spared])


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ([2, 8, 1], {"method": "digits", "early_exit": "calibrated"}, "at least two outputs with early_exit='calib"),
        ([2, 8, 1], {"preset": "rate-early-exit"}, "at least two outputs with early_exit='calibrated'.*, got 1"),
        ([2, 8, 1], {"preset": "radix-certified"}, "at least two outputs with early_exit='certified'.*, got 1"),
        ([2, 8, 1], {"preset": "fewest-spikes"}, "at least two outputs with spike_error=0.00025.*, got 1"),
        ([2, 3], {"preset": "digits-certified"}, "a hidden layer with method='digits'.*, got none"),
        ([2, 3], {"preset": "fewest-spikes"}, "a hidden layer with method='digits'.*, got none"),
        ([2, 3], {"method": "radix"}, "a hidden layer with method='radix'.*, got none"),
        ([2, 3], {"method": "staged"}, "a hidden layer with method='staged'.*, got none"),
    ],
    ids=str,
)
def test_a_policy_that_lacks_what_the_settings_need_is_refused_by_name(
    sizes: list[int], options: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^policy must have {message}"):
        sf.convert(sf.make_policy(sizes), torch.randn(100, 2), **options)  # type: ignore[arg-type]
    if len(sizes) > 2:
        assert sf.convert(sf.make_policy(sizes), torch.randn(100, 2), method="digits").sizes == tuple(sizes)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "digits", "first_steps": np.int64(8), "tau": np.float32(0.75), "timesteps": np.int32(10)},
        {"method": "digits", "kappa": np.float32(1.5), "percentile": np.float32(99), "headroom": np.float32(2)},
        {"method": "digits", "spike_error": np.float32(1e-3)},
        {"method": "rate", "initial_potential": np.float32(0.25), "copies": np.int64(2), "timesteps": np.int64(8)},
        {"method": "staged", "calibrate": "qcfs", "seed": np.int64(3), "timesteps": 4},
        {"preset": "digits-calibrated", "exit_factor": np.float32(2), "weight_grid": np.int64(12)},
    ],
    ids=str,
)
def test_numbers_may_be_numpys_and_are_saved_as_pythons(
    options: dict[str, Any], policy: torch.nn.Sequential, replay: sf.Replay, tmp_path: Path
) -> None:
    network = sf.convert(policy, replay, **options)
    network.save(tmp_path / "net.safetensors")
    again = sf.SpikingNetwork.load(tmp_path / "net.safetensors")
    assert again.conversion == network.conversion
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in options.items()}
    assert sf.convert(policy, replay, **plain).conversion == network.conversion
