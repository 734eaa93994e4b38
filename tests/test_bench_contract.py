# SPDX-License-Identifier: Apache-2.0
"""The judge of the fast contract: it accepts other orders of summation, and nothing that is wrong."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pytest
import torch

from conftest import random_observations, random_spec
from snnfast import reference
from snnfast.bench import contract
from snnfast.bench.contract import Verdict, compare, judge, real_layer
from snnfast.bench.workloads import make_workload
from snnfast.cli import main
from snnfast.reference import Simulation, plain
from snnfast.spec import NetworkSpec, NeuronSpec

Current = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
U = 2.0**-24


def backwards(inputs: torch.Tensor, weights: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    h = torch.zeros(inputs.shape[0], weights.shape[0])
    for j in reversed(range(weights.shape[1])):
        h = h + weights[:, j] * inputs[:, j : j + 1]
    return h if bias is None else h + bias


def bias_first(inputs: torch.Tensor, weights: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    h = torch.zeros(inputs.shape[0], weights.shape[0]) if bias is None else bias.expand(inputs.shape[0], -1)
    for j in range(weights.shape[1]):
        h = h + weights[:, j] * inputs[:, j : j + 1]
    return h


def rounded_once(inputs: torch.Tensor, weights: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    h = inputs.double() @ weights.double().T
    return (h if bias is None else h + bias.double()).float()


def sliced(inputs: torch.Tensor, weights: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """24-bit integers per row in the coarsest power-of-two step that three signed bytes allow; the first layer not."""
    if ((inputs != 0) & (inputs != 1)).any():
        return backwards(inputs, weights, bias)
    need = weights.double().abs().amax(dim=1) / contract.SLICED_RANGE
    step = torch.exp2(torch.ceil(torch.log2(need.clamp(min=2.0**-149))))[:, None]
    q = torch.round(weights.double() / step)
    h = ((inputs.double() @ q.T) * step.T).float()
    return h if bias is None else h + bias


ORDERS = [backwards, bias_first, rounded_once, sliced]


def run(spec: NetworkSpec, observations: torch.Tensor, current: Current | None = None) -> Simulation:
    """A run in plain torch, with another way to compute a layer's current."""
    with pytest.MonkeyPatch.context() as patch:
        if current is not None:
            patch.setattr(plain, "layer_current", current)
        return reference.simulate(spec, observations, record=("spikes", "potentials"))


def verdict_on(spec: NetworkSpec, observations: torch.Tensor, fast: Simulation) -> Verdict:
    verdict = Verdict()
    judge(spec, observations, fast, run(spec, observations), verdict)
    return verdict


def with_weights(spec: NetworkSpec, layer: int, change: Callable[[np.ndarray], None]) -> NetworkSpec:
    weights = [w.copy() for w in spec.weights]
    change(weights[layer])
    return dataclasses.replace(spec, weights=tuple(weights))


@pytest.fixture(scope="module")
def tiny() -> tuple[NetworkSpec, torch.Tensor]:
    spec = make_workload("tiny", (4, 16, 16, 2), 60).spiking.spec
    return spec, torch.randn(60, 4, generator=torch.Generator().manual_seed(0))


def ties(order: str = "immediate", decoding: str = "potential") -> NetworkSpec:
    """A network whose second layer, all inputs active at once, sums to 1 in one order and to less in the other."""
    numbers = np.random.default_rng(0)
    rows = []
    while len(rows) < 24:
        w = numbers.dirichlet(np.ones(8)).astype(np.float32)
        up, down = np.float32(0), np.float32(0)
        for k in range(8):
            up, down = up + w[k], down + w[7 - k]
        if (up >= 1) != (down >= 1):
            rows.append(w)
    last = numbers.normal(size=(3, 24)).astype(np.float32)
    weights = (np.full((8, 1), 1.25, np.float32), np.array(rows), last)
    neuron = NeuronSpec(order=order, reset="zero")
    return NetworkSpec(weights, (None, None, None), neuron, 6, decoding=decoding)


# What must be accepted -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("current", ORDERS)
def test_spikes_moved_by_another_order_are_found_and_explained(current: Current) -> None:
    spec = ties()
    verdict = verdict_on(spec, torch.ones(1, 1), run(spec, torch.ones(1, 1), current))
    assert verdict.unexplained == 0
    assert verdict.explained == verdict.first_divergences
    assert verdict.largest_share <= 1
    if current is backwards:  # every row was made to differ
        assert verdict.trains_differing == verdict.first_divergences == 24
        assert verdict.largest_distance > 0


@pytest.mark.parametrize("current", ORDERS)
def test_no_option_of_a_network_makes_rounding_unexplained(current: Current) -> None:
    differing = 0
    for seed in range(25):
        spec = random_spec(seed, encoding="constant")
        observations = random_observations(spec, 5, seed)
        verdict = verdict_on(spec, observations, run(spec, observations, current))
        assert verdict.unexplained == 0, (seed, verdict)
        differing += verdict.outputs_judged
    assert differing > 20


@pytest.mark.parametrize("current", [None, *ORDERS])
def test_float32_potentials_stay_within_the_bound_of_float64_at_every_step(current: Current | None) -> None:
    shares = []
    for seed in range(25):
        spec = random_spec(seed, encoding="constant")
        observations = random_observations(spec, 4, seed)
        ran = run(spec, observations, current)
        inputs = plain.encode(spec, observations).unsqueeze(0)
        for layer in range(len(spec.weights)):
            fires = layer < spec.spiking_layers
            real = real_layer(spec, layer, inputs, ran.spikes[layer] if fires else None)
            off = (ran.potentials[layer].double() - real.after).abs()
            assert (off <= real.after_bounds).all(), (seed, layer)
            shares.append(float((off / real.after_bounds.clamp(min=1e-30)).max()))
            inputs = ran.spikes[layer] if fires else inputs
    assert max(shares) > 0.2  # and the bound is no wide net


def test_the_bound_is_small_where_little_was_computed() -> None:
    spec = random_spec(5, sizes=(4, 16, 16, 2), timesteps=16, beta=1.0, alpha=0.0, encoding="constant")
    observations = random_observations(spec, 4, 5)
    ran = run(spec, observations)
    real = real_layer(spec, 1, ran.spikes[0], ran.spikes[1] if spec.spiking_layers > 1 else None)
    assert float(real.after_bounds.max()) < 1e-4


def test_equal_runs_differ_in_nothing(tiny: tuple[NetworkSpec, torch.Tensor]) -> None:
    spec, observations = tiny
    verdict = verdict_on(spec, observations, run(spec, observations))
    assert verdict.spikes_compared == 60 * 60 * 32
    assert verdict.decisions == 60
    found = verdict.as_dict()
    assert [k for k, v in found.items() if v] == ["decisions", "spikes_compared"]


def test_consequences_of_an_explained_spike_are_not_held_against_the_layers_after_it() -> None:
    spec = ties(decoding="spikes")
    # The last layer fires now, on spikes that the second one's rounding has moved.
    verdict = verdict_on(spec, torch.ones(1, 1), run(spec, torch.ones(1, 1), backwards))
    assert verdict.first_divergences >= 24
    assert verdict.consequences > 0
    assert verdict.trains_differing == verdict.consequences + 24
    assert verdict.unexplained == 0


@pytest.mark.parametrize("order", ["immediate", "delayed"])
def test_the_work_is_the_same_in_chunks(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, observations = ties(order), torch.linspace(0.1, 3.0, 10).unsqueeze(1)
    whole = compare(spec, observations, lambda x: run(spec, x, backwards))
    monkeypatch.setattr(contract, "_BYTES", 8 * spec.timesteps * 35 * 3)
    sizes = []
    pieces = compare(spec, observations, lambda x: sizes.append(len(x)) or run(spec, x, backwards))
    assert set(sizes) == {3, 1}
    assert pieces == whole
    assert whole.first_divergences > 0


# What must not -------------------------------------------------------------------------------------------------------


def nudge(amount: float, at: tuple[int, int] = (3, 2)) -> Callable[[np.ndarray], None]:
    def change(w: np.ndarray) -> None:
        w[at] += amount

    return change


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("amount", [1e-3, -1e-3])
def test_a_weight_off_by_a_thousandth_is_found(
    tiny: tuple[NetworkSpec, torch.Tensor], layer: int, amount: float
) -> None:
    spec, observations = tiny
    counts = run(spec, observations).spike_counts
    column = int(counts[layer - 1].sum(dim=0).argmax()) if layer else 2
    row = int(counts[layer].sum(dim=0).argmax()) if layer < 2 else 1
    wrong = with_weights(spec, layer, nudge(amount, (row, column)))
    verdict = verdict_on(spec, observations, run(wrong, observations))
    assert verdict.unexplained > 0
    assert verdict.outputs_unexplained > 0 or layer < 2
    assert verdict.examples
    assert all(e.get("layer", 2) == layer for e in verdict.examples)  # attributed to where it is


def test_a_wrong_bias_a_wrong_threshold_and_a_missing_input_are_found(tiny: tuple[NetworkSpec, torch.Tensor]) -> None:
    spec, observations = tiny
    biases = [b.copy() for b in spec.biases]
    biases[1][4] += 1e-3
    neuron = dataclasses.replace(spec.neuron, threshold=1.0005)
    for wrong in (
        dataclasses.replace(spec, biases=tuple(biases)),
        dataclasses.replace(spec, neuron=neuron),
        with_weights(spec, 1, lambda w: w.__setitem__((slice(None), 5), 0.0)),
    ):
        assert verdict_on(spec, observations, run(wrong, observations)).unexplained > 0


def far_from_threshold(spec: NetworkSpec, ran: Simulation, layer: int, fired: bool) -> tuple[int, int, int]:
    """A step, sample and neuron that fired or did not, with the membrane well away from the threshold."""
    inputs = ran.spikes[layer - 1]
    distance = (real_layer(spec, layer, inputs, ran.spikes[layer]).compared - 1.0).abs()
    at = torch.nonzero((distance > 0.1) & ((ran.spikes[layer] != 0) == fired) & (inputs.any(dim=2, keepdim=True)))
    return tuple(at[len(at) // 2].tolist())


@pytest.mark.parametrize("fired", [True, False])
@pytest.mark.parametrize("layer", [0, 1])
def test_one_flipped_spike_is_found(tiny: tuple[NetworkSpec, torch.Tensor], fired: bool, layer: int) -> None:
    spec, observations = tiny
    ran = run(spec, observations)
    if layer == 0:
        t, sample, n = torch.nonzero((ran.spikes[0] != 0) == fired)[777].tolist()
    else:
        t, sample, n = far_from_threshold(spec, ran, 1, fired)
    ran.spikes[layer][t, sample, n] = float(not fired)
    verdict = verdict_on(spec, observations, ran)
    assert verdict.spikes_differing == verdict.trains_differing == 1
    assert verdict.first_divergences - verdict.explained >= 1
    first = verdict.examples[0]
    assert {k: first[k] for k in ("sample", "layer", "neuron", "step", "fired")} == {
        "sample": sample,
        "layer": layer,
        "neuron": n,
        "step": t,
        "fired": not fired,
    }


def test_a_flipped_spike_with_its_consequences_is_one_unexplained_divergence() -> None:
    # A first-layer spike goes missing and everything after it is computed faithfully from what is left.
    spec = random_spec(7, sizes=(3, 6, 9, 2), encoding="constant", decoding="potential", order="immediate",
                       timesteps=20, split_inputs=False, bias_input=False, alpha=0.0, beta=1.0)  # fmt: skip
    observations = random_observations(spec, 3, 7)
    lost: list[tuple[int, int, int]] = []
    original = plain.step

    def losing(mem, syn, h, neuron, fires):
        mem, syn, spikes = original(mem, syn, h, neuron, fires)
        if spikes.shape[1] == 6 and spikes.any() and not lost:
            sample, n = torch.nonzero(spikes)[0].tolist()
            lost.append((0, sample, n))
            spikes[sample, n] = 0.0  # the membrane has been reset all the same
        return mem, syn, spikes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "step", losing)
        fast = run(spec, observations)
    verdict = verdict_on(spec, observations, fast)
    assert verdict.first_divergences == 1
    assert verdict.explained == 0
    assert verdict.consequences > 0
    assert verdict.outputs_unexplained == 0


def test_a_mistake_behind_an_explained_difference_is_found() -> None:
    # From its first active step on the third layer's inputs are others than the exact run's: it has no train to be
    # compared with, and is judged all the same.
    spec, x = ties(decoding="spikes"), torch.ones(1, 1)
    right, wrong = (run(s, x, backwards) for s in (spec, with_weights(spec, 2, lambda w: w.__imul__(-1.0))))
    theirs = run(spec, x).spikes[1]
    started = int(torch.nonzero(theirs.any(dim=2) | right.spikes[1].any(dim=2))[0, 0])
    assert not torch.equal(theirs[started], right.spikes[1][started])
    assert verdict_on(spec, x, right).unexplained == 0
    verdict = verdict_on(spec, x, wrong)
    assert verdict.unexplained > 0
    assert {e.get("layer", 2) for e in verdict.examples} == {2}


@pytest.mark.parametrize(
    ("layer", "roundings", "explained"),
    [
        *((0, n, good) for n, good in ((0, True), (-5, True), (4, True), (-7, False), (8, False))),
        *((1, n, good) for n, good in ((0, True), (-8, True), (8, True), (-9, False), (10, False))),
        (0, 2000, False),
        (1, -2000, False),
    ],
)
def test_the_edge_of_the_bound(layer: int, roundings: int, explained: bool) -> None:
    # One input, one step: gamma(5) for the sum and u for the membrane make 6 u, and weights of 24 bits 2.008 u more.
    near = np.array([[1.0 + roundings * U]]).astype(np.float32)
    assert float(near[0, 0]) == 1.0 + roundings * U
    one = np.ones((1, 1), np.float32)
    weights = (near, one) if layer == 0 else (one, near, one)
    spec = NetworkSpec(weights, (None,) * len(weights), NeuronSpec(), 1)
    fast = run(spec, torch.ones(1, 1))
    fast.spikes[layer][:] = 1 - fast.spikes[layer]
    fast.output[:] = fast.spikes[layer][0]
    verdict = verdict_on(spec, torch.ones(1, 1), fast)
    assert verdict.trains_differing == verdict.first_divergences == 1
    assert verdict.unexplained == (0 if explained else 1)


@pytest.mark.parametrize("decoding", ["potential", "mean_potential", "spikes", "first_spike"])
def test_a_wrong_output_is_found_with_every_decoding(decoding: str) -> None:
    spec = random_spec(3, sizes=(4, 9, 3), encoding="constant", decoding=decoding, timesteps=16)
    observations = random_observations(spec, 4, 3)
    ran = run(spec, observations)
    assert verdict_on(spec, observations, ran).outputs_judged == 0
    for wrong in (1e-2, float("nan")):
        fast = dataclasses.replace(ran, output=ran.output.clone())
        fast.output[2, 1] += wrong
        verdict = verdict_on(spec, observations, fast)
        assert (verdict.outputs_judged, verdict.outputs_unexplained, verdict.unexplained) == (3, 1, 1)
        assert (verdict.examples[0]["sample"], verdict.examples[0]["output"]) == (2, 1)


def test_a_changed_decision_is_counted() -> None:
    spec = random_spec(3, sizes=(4, 9, 3), encoding="constant", decoding="potential")
    observations = random_observations(spec, 4, 3)
    ran = run(spec, observations)
    fast = dataclasses.replace(ran, output=ran.output[:, [1, 0, 2]])
    fast.output[0] = ran.output[0]
    expected = int((ran.output.argmax(1) != fast.output.argmax(1)).sum())
    assert expected > 0
    assert verdict_on(spec, observations, fast).decisions_differing == expected


def test_examples_name_the_sample_across_chunks(
    tiny: tuple[NetworkSpec, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, observations = tiny
    monkeypatch.setattr(contract, "_BYTES", 8 * 60 * 34 * 7)

    def fast(x: torch.Tensor) -> Simulation:
        ran = run(spec, x)
        if torch.equal(x[0], observations[7 * 5]):
            ran.output[3, 1] += 1.0
        return ran

    verdict = compare(spec, observations, fast)
    assert verdict.decisions == 60
    assert [e["sample"] for e in verdict.examples] == [38]


# What cannot be judged, and the command ------------------------------------------------------------------------------


def test_random_input_and_missing_records_are_refused() -> None:
    spec = random_spec(1, encoding="poisson")
    x = random_observations(spec, 2, 1)
    with pytest.raises(ValueError, match="only constant encoding can be judged, got 'poisson'"):
        verdict_on(spec, x, run(spec, x))
    spec = random_spec(1, encoding="constant")
    x = random_observations(spec, 2, 1)
    with pytest.raises(ValueError, match="must have their spikes recorded"):
        verdict_on(spec, x, reference.simulate(spec, x))


def test_the_fast_contract_holds_on_small_networks() -> None:
    # What `snnfast bench contract` asks of 50,000 decisions, of a few, for shapes that no method has been made for.
    for seed, sizes in enumerate([(4, 16, 16, 2), (8, 256, 256, 4), (5, 40, 33, 70, 3), (20, 300, 17, 9)]):
        spec = random_spec(seed, sizes=sizes, encoding="constant", timesteps=40)
        verdict = compare(spec, random_observations(spec, 100, seed))
        assert verdict.decisions == 100
        assert verdict.unexplained == 0, verdict


def test_the_command(tmp_path, capsys) -> None:
    target = tmp_path / "contract.json"
    assert main(["bench", "contract", "--quick", "--decisions", "50", "--json", str(target)]) == 0
    out = capsys.readouterr().out
    assert "UNEXPLAINED" in out
    found = json.loads(target.read_text())
    assert found["unexplained"] == 0
    assert found["cases"][0]["decisions"] == 50
    assert found["cases"][0]["spikes_compared"] == 50 * 100 * 32
    assert found["machine"]["snnfast"]


def test_the_command_fails_when_a_difference_is_unexplained(monkeypatch, capsys) -> None:
    monkeypatch.setattr(contract, "compare", lambda spec, observations, fast: Verdict(first_divergences=3, explained=1))
    assert main(["bench", "contract", "--quick", "--json", "-"]) == 1
    assert json.loads(capsys.readouterr().out)["unexplained"] == 2


def test_the_command_judges_matrix_products_on_request(capsys) -> None:
    command = ["bench", "contract", "--quick", "--method", "slices", "--seed", "3", "--json", "-"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["seed"], found["method"]) == (3, "slices")  # what it takes to repeat it
    case = found["cases"][0]
    assert case["method"]["method"] == "slices"
    assert case["unexplained"] == 0
    assert case["decisions"] == 500
