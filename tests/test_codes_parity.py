# SPDX-License-Identifier: Apache-2.0
"""The exact contract for networks with a code: outputs, spikes, potentials, and the step at which a decision stops."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch

import snnfast as sf
from conftest import CODES, Implementation, implementations, random_coded_spec, random_observations, whole
from snnfast import _core, backends
from snnfast.reference import Simulation
from snnfast.spec import DigitsCode, EarlyExit, NetworkSpec, RadixCode, RateCode, StagedCode
from snnfast.spec.certificate import code_arguments
from test_parity import RECORD_ALL, assert_same_bits, assert_same_simulation

REFERENCE, *COMPILED = implementations()
TOLD = ("steps", "certified", "saturated")


def assert_same(got: Simulation, want: Simulation, what: str) -> None:
    assert_same_simulation(got, want)
    for name in TOLD:
        a, b = getattr(got, name), getattr(want, name)
        assert (a is None) == (b is None), name
        if b is not None:
            assert_same_bits(a, b, f"{name}, {what}")


def check(spec: NetworkSpec, batch: int, seed: int) -> Simulation:
    """One network on every implementation, whole and cut in two, with and without records."""
    observations = random_observations(spec, batch, seed)
    want = REFERENCE.compile(spec).simulate(observations, seed, RECORD_ALL)
    for implementation in COMPILED:
        what = f"{implementation.name}, {spec.code}, {spec.decoding}, {spec.early_exit}"
        executable = implementation.compile(spec)
        assert_same(executable.simulate(observations, seed, RECORD_ALL), want, what)
        bare = dataclasses.replace(want, spikes=None, potentials=None)
        assert_same(executable.simulate(observations, seed, ()), bare, what)
        for one in RECORD_ALL:
            part = dataclasses.replace(bare, **{one: getattr(want, one)})
            assert_same(executable.simulate(observations, seed, {one}), part, what)
        cut = batch // 3
        parts = [executable.run(observations[:cut], seed), executable.run(observations[cut:], seed, cut)]
        assert_same_bits(torch.cat(parts), want.output, what)
    return want


@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize("chunk", range(4))
def test_random_networks_of_every_code_match_the_reference_bit_for_bit(kind: str, chunk: int) -> None:
    exits = early = 0
    for seed in range(25 * chunk, 25 * chunk + 25):
        spec = random_coded_spec(seed, kind)
        found = check(spec, [0, 1, 2, 5, 19, 40][seed % 6], seed)
        if found.steps is not None:
            exits += len(found.steps)
            early += int((found.steps < spec.total_steps).sum())
    assert kind == "staged" or 0 < early < exits  # some decisions stopped early, some did not


@pytest.mark.parametrize(
    "width", [1, 3, 4, 5, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65, 80, 81, 96, 97, 127, 129, 192, 200]
)
@pytest.mark.parametrize("kind", CODES)
def test_layer_widths_around_every_lane_panel_and_word(kind: str, width: int) -> None:
    for seed in range(3):
        spec = random_coded_spec(100 * width + seed, kind, sizes=(5, width, width, min(width + 1, 70)))
        assert check(spec, 3, width).output.shape == (3, min(width + 1, 70))
    if width <= 192:  # few outputs too, for which networks that are not wide run a sample per lane
        for seed in range(3 if width <= 33 else 1):
            n_out = 1 + (width + 7 * seed) % 34
            spec = random_coded_spec(100 * width + seed, kind, sizes=(5, width, width, n_out))
            assert check(spec, 41, width).output.shape == (41, n_out)


@pytest.mark.parametrize("width", [130, 260, 530])
@pytest.mark.parametrize("kind", ["rate", "digits"])
def test_samples_side_by_side_share_blocks_of_weights(kind: str, width: int) -> None:
    # A block has 128 inputs with AVX-512, 256 with AVX2, 512 without; 33 outputs are too many for lanes.
    for seed in range(6):
        spec = random_coded_spec(10 * width + seed, kind, sizes=(5, width, width + 1, 33))
        observations = random_observations(spec, 21, 3)
        want = REFERENCE.compile(spec).simulate(observations, 0, ())
        for implementation in COMPILED:
            executable = implementation.compile(spec)
            assert_same(executable.simulate(observations, 0, ()), want, f"{implementation.name}, {spec.code}")
            assert_same_bits(executable.run(observations, 0), want.output, implementation.name)


@pytest.mark.parametrize("kind", ["staged", "radix"])
def test_the_widest_layers_of_which_a_sample_has_a_lane(kind: str) -> None:
    for seed, n_out in enumerate((9, 2, 16)):
        spec = random_coded_spec(seed, kind, sizes=(5, 512, n_out))
        observations = random_observations(spec, 70, 3)
        want = REFERENCE.compile(spec).simulate(observations, 0, ())
        for implementation in COMPILED:
            executable = implementation.compile(spec)
            assert executable.method()["method"] == "lanes"
            assert_same(executable.simulate(observations, 0, ()), want, implementation.name)
            assert_same_bits(executable.run(observations, 0), want.output, implementation.name)


@pytest.mark.parametrize("implementation", COMPILED, ids=lambda i: i.name)
@pytest.mark.parametrize("kind", CODES)
def test_threads_and_batch_splits_give_the_same_bits_when_the_pool_really_runs(
    implementation: Implementation, kind: str
) -> None:
    spec = next(
        s
        for s in (random_coded_spec(seed, kind, sizes=(4, 16, 16, 3)) for seed in range(100))
        if s.timesteps == 20 and (kind == "staged" or s.early_exit is not None)
    )
    observations = random_observations(spec, 12000, 5)
    executable = implementation.compile(spec)
    before = sf.num_threads()
    try:
        sf.set_num_threads(1)
        want = executable.simulate(observations, 0, ())
        assert_same(want, REFERENCE.compile(spec).simulate(observations, 0, ()), "many samples")
        for n in (2, 3, 7):
            sf.set_num_threads(n)
            loops = backends.parallel_loops()
            assert_same(executable.simulate(observations, 0, ()), want, f"{n} threads")
            assert backends.parallel_loops() == loops + 1
        pieces = [executable.run(p, 0, i * 700) for i, p in enumerate(observations.split(700))]
        assert_same_bits(torch.cat(pieces), want.output, "batch split")
    finally:
        sf.set_num_threads(before)


@pytest.mark.parametrize("n_out", [2, 3, 16, 32])
@pytest.mark.parametrize(("kind", "exit"), [("digits", "calibrated"), ("digits", "certified"), ("radix", "certified")])
def test_samples_that_stop_at_all_steps_leave_their_places_to_others(kind: str, exit: str, n_out: int) -> None:
    # More samples than a pack has: those that go on close up, within a vector, from one to the next and over packs.
    # Some of the batches end within a pack.
    found = []
    for seed in range(200):
        spec = random_coded_spec(seed, kind, sizes=(4, 17, 16, n_out))
        if spec.timesteps < 12 or spec.early_exit is None or spec.early_exit.kind != exit:
            continue
        many = random_observations(spec, 421, 7)
        steps = REFERENCE.compile(spec).simulate(many[:97], 0, ()).steps
        assert steps is not None
        found.append((len(steps.unique()), seed, spec, many))
    _, _, spec, many = max(found, key=lambda one: one[:2])
    for batch in (97, 130, 421):
        observations = many[:batch]
        want = REFERENCE.compile(spec).simulate(observations, 0, ())
        assert want.steps is not None
        assert len(want.steps.unique()) >= 5
        for implementation in COMPILED:
            executable = implementation.compile(spec)
            assert_same(executable.simulate(observations, 0, ()), want, f"{implementation.name}, {batch}")
            assert_same_bits(executable.run(observations, 0), want.output, f"{implementation.name}, {batch}")


@pytest.mark.parametrize("decoding", ["potential", "mean_potential", "parabolic_potential"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("rounds", [False, True])
def test_samples_that_stop_early_late_and_never_match_the_reference(rounds: bool, signed: bool, decoding: str) -> None:
    # Without counts, those that are not sure in the first few steps begin again and run by tiles of steps.
    early = late = 0
    for copies, timesteps, batch in ((1, 4, 70), (3, 45, 33), (4, 61, 300), (6, 17, 64)):
        plain = random_coded_spec(batch, "rate", sizes=(4, 17, 16, 3))
        spec = dataclasses.replace(
            plain,
            timesteps=timesteps,
            decoding=decoding,
            code=RateCode(copies, signed),
            neuron=dataclasses.replace(plain.neuron, threshold=1.0, initial_potential=0.5),
            early_exit=None,
        )
        spec = spec if rounds else whole(spec)
        observations = random_observations(spec, batch, 7)
        runs = []
        for scale in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0):  # bounds that fall, so that some may stop at any step
            exit = EarlyExit("calibrated", scale * np.linspace(1.0, 0.0, timesteps) ** 2)
            leaving = dataclasses.replace(spec, early_exit=exit)
            runs.append((REFERENCE.compile(leaving).simulate(observations, 0, ()), leaving))
        want, spec = max(runs, key=lambda run: len(run[0].steps.unique()))
        assert want.steps is not None
        assert len(want.steps.unique()) >= min(timesteps, 10)
        early += int((want.steps <= 3).sum())
        late += int((want.steps > 3).sum())
        for implementation in COMPILED:
            executable = implementation.compile(spec)
            what = f"{implementation.name}, {copies} copies, {timesteps} steps"
            assert_same(executable.simulate(observations, 0, ()), want, what)
            assert_same_bits(executable.run(observations, 0), want.output, what)
            overflowing = torch.cat([(observations * 1e38).clamp(-3e38, 3e38), observations])
            without_counts = executable.run(overflowing, 0)
            assert_same_bits(without_counts, executable.simulate(overflowing, 0, ()).output, f"{what}, overflowing")
    assert early > 20
    assert late > 200


@pytest.mark.parametrize("ramp", [False, True])
@pytest.mark.parametrize("start", [0.0, 0.5, 0.99999994, 1.0])
@pytest.mark.parametrize("timesteps", [1, 7, 32, 100, 999, 1000, 1001])
def test_staged_neurons_at_the_edge_of_a_spike_match_the_reference(timesteps: int, start: float, ramp: bool) -> None:
    # What they send is told from their potentials where that is certain: hardest where a spike hangs by the last bit.
    rng = np.random.default_rng([timesteps, round(start * 10)])
    n, width = (96, 8) if timesteps > 200 else (480, 8)
    step = rng.integers(1, timesteps + 1, size=(n, width))
    spikes = np.floor(rng.random((n, width)) * (step + 1))
    currents = ((spikes - start) / step).astype(np.float32)
    for _ in range(3):
        currents = np.where(rng.random((n, width)) < 0.3, np.nextafter(currents, np.float32(9)), currents)
        currents = np.where(rng.random((n, width)) < 0.3, np.nextafter(currents, np.float32(-9)), currents)
    extremes = np.float32([0.0, -0.0, -600.0, 3e38, -3e38, 1e-45, 1.0, 2.0])
    currents[:16] = rng.permuted(np.tile(extremes, (16, 1)), axis=1)
    one = torch.eye(width)
    network = sf.SpikingNetwork(
        [one, one], [None, None], sf.NeuronSpec(initial_potential=start), timesteps, code=StagedCode(ramp)
    )
    observations = torch.from_numpy(currents)
    want = REFERENCE.compile(network.spec).simulate(observations, 0, ())
    assert len(want.output.unique()) > min(timesteps, 50)
    for implementation in COMPILED:
        executable = implementation.compile(network.spec)
        assert_same(executable.simulate(observations, 0, ()), want, implementation.name)
        assert_same_bits(executable.run(observations, 0), want.output, implementation.name)


@pytest.mark.parametrize("kind", CODES)
def test_numbers_beyond_float32_behave_alike(kind: str) -> None:
    # Currents that overflow: infinite drives fire and clip; a sum of infinities of both signs is no number, and silent.
    for seed in range(12):
        spec = random_coded_spec(seed, kind, sizes=(3, 9, 5, 3))
        executables = [i.compile(spec) for i in implementations()]
        observations = random_observations(spec, 6, seed) * 3e38
        observations = torch.nan_to_num(observations, posinf=3e38, neginf=-3e38)
        want, *others = [e.simulate(observations, 0, {"spikes"}) for e in executables]
        for got in others:
            for a, b in zip(got.spikes or (), want.spikes or (), strict=True):
                assert_same_bits(a, b, f"{kind} {seed}")
        many = observations.repeat(5, 1)
        for executable in executables[1:]:
            counts = executable.simulate(many, 0, ()).spike_counts
            for a, b in zip(counts, want.spike_counts, strict=True):
                assert_same_bits(a, b.repeat(5, 1), f"{kind} {seed}, many samples")


_NO_EXIT: dict[str, Any] = {"early_exit": None, "decoding": "potential"}
_CALIBRATED = {"early_exit": sf.EarlyExit("calibrated", np.ones(5))}


@pytest.mark.parametrize(
    ("code", "options", "widest"),
    [
        (RateCode(2), _NO_EXIT, (192, 80)),
        (RateCode(2), _CALIBRATED, (32, 32)),
        (StagedCode(), _NO_EXIT, (512, 512)),
        (RadixCode(), _NO_EXIT, (512, 512)),
        ("digits", _NO_EXIT, (96, 80)),
        ("digits", _CALIBRATED, (64, 48)),
        ("digits, 8 outputs", _CALIBRATED, (96, 80)),
    ],
    ids=str,
)
@pytest.mark.parametrize("implementation", COMPILED, ids=lambda i: i.name)
def test_a_network_with_a_code_says_what_runs_it(
    implementation: Implementation,
    code: RateCode | StagedCode | RadixCode | str,
    options: dict[str, Any],
    widest: tuple[int, int],  # with AVX-512, with less
) -> None:
    narrow = implementation.isa not in ("avx512", "amx")
    most, outputs = widest[narrow], (32, 16)[narrow]
    if code == "digits, 8 outputs":  # with more, an exit leaves less to lanes
        outputs = 8
    for sizes, name in (
        ((4, most, 7, outputs), "lanes"),
        ((4, most + 1, 7, outputs), "side by side"),
        ((4, most, most + 1, outputs), "side by side"),
        ((4, most, 7, outputs + 1), "side by side"),
    ):
        weights = [torch.ones(o, i) for i, o in itertools.pairwise(sizes)]
        tables = tuple(np.ones((5, n), dtype=np.float32) for n in sizes[1:-1])
        network = sf.SpikingNetwork(
            weights,
            [None] * 3,
            sf.NeuronSpec(),
            5,
            code=DigitsCode(tables, tables, tables) if isinstance(code, str) else code,
            **options,
        )
        method = implementation.compile(network.spec).method()
        assert method["isa"] == implementation.isa
        assert method["method"] == name
        assert ("sample per lane" in method["why"]) == (name == "lanes")
        assert name == "side by side" or f"at most {most} neurons" in method["why"]


def test_a_bias_of_minus_zero_that_nothing_arrives_at_becomes_zero() -> None:
    tables = tuple(np.ones((4, n), dtype=np.float32) for n in (3, 2))
    for hidden in (1, 2):
        weights = [torch.full((3, 2), -1.0), torch.ones(2, 3), torch.ones(2, 2)][: hidden + 1]
        biases = [None, torch.full((2,), -0.0), torch.full((2,), -0.0)][: hidden + 1]
        code = DigitsCode(tables[:hidden], tables[:hidden], tables[:hidden])
        spec = sf.SpikingNetwork(weights, biases, sf.NeuronSpec(), 4, code=code).spec
        want = check(spec, 64, 0).output
        silent = REFERENCE.compile(spec).run(torch.ones(64, 2), 0)
        assert_same_bits(silent, torch.zeros(64, 2), "nothing fires")
        for implementation in COMPILED:
            for batch in (1, 64):
                got = implementation.compile(spec).run(torch.ones(batch, 2), 0)
                assert_same_bits(got, silent[:batch], implementation.name)
        assert want.shape == (64, 2)


@pytest.mark.parametrize("preset", ["digits-certified", "fewest-spikes-exit", "digits-calibrated"])
@pytest.mark.parametrize("hidden", [(16, 16), (64, 64), (70,), (17, 130, 33)], ids=str)
@pytest.mark.parametrize("n_out", [2, 3, 9])
def test_converted_networks_stop_when_the_reference_does(preset: str, hidden: tuple[int, ...], n_out: int) -> None:
    """Real tables, where most decisions are certain early, and only some of the steps have neurons that may spike."""
    policy = sf.make_policy([5, *hidden, n_out], seed=n_out)
    generator = torch.Generator().manual_seed(len(hidden))
    states = torch.randn(10_000, 5, generator=generator)
    spec = sf.convert(policy, states, preset=preset).spec
    observations = torch.randn(150, 5, generator=generator)
    want = REFERENCE.compile(spec).simulate(observations, 0, ())
    assert want.steps is not None
    assert (want.steps < spec.total_steps).float().mean() > 0.3
    assert preset == "digits-calibrated" or (want.certified is not None and want.certified.mean() > 0.3)
    for implementation in COMPILED:
        executable = implementation.compile(spec)
        assert_same(executable.simulate(observations, 0, ()), want, implementation.name)
        assert_same_bits(executable.run(observations, 0), want.output, implementation.name)
        few = [executable.run(part, 0) for part in observations.split(5)]  # too few for lanes
        assert_same_bits(torch.cat(few), want.output, implementation.name)


_TWO_LAYERS = ((3, 2), (2, 3))
_CERTIFIED, _BOUNDS = sf.EarlyExit("certified"), sf.EarlyExit("calibrated", np.ones(5))
_DIGITS = DigitsCode((np.ones((5, 3)),), (np.ones((5, 3)),), (np.zeros((5, 3)),))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"code": "rate"}, TypeError, "code must be a RateCode, StagedCode, RadixCode or DigitsCode, got str"),
        ({"code": RateCode(2), "neuron": sf.NeuronSpec(order="delayed")}, ValueError, "order must be 'immediate'"),
        ({"code": RateCode(2), "neuron": sf.NeuronSpec(alpha=0.5)}, ValueError, "alpha must be 0.0 with a code"),
        ({"code": RateCode(2), "neuron": sf.NeuronSpec(beta=0.5)}, ValueError, "beta must be 1.0 with a code"),
        ({"code": RateCode(2), "neuron": sf.NeuronSpec(reset="zero")}, ValueError, "reset must be 'subtraction'"),
        ({"code": RateCode(2), "encoding": "poisson"}, ValueError, "encoding must be 'constant' with a code"),
        ({"code": RateCode(2), "decoding": "spikes"}, ValueError, "decoding must be a potential with a code"),
        (
            {"code": RateCode(9), "timesteps": 2**21},
            ValueError,
            r"timesteps \* copies must be at most 2\*\*24.*got 2097152",
        ),
        ({"code": StagedCode(), "decoding": "mean_potential"}, ValueError, "decoding must be 'potential' with code"),
        ({"code": RadixCode(), "neuron": sf.NeuronSpec(threshold=2.0)}, ValueError, "threshold must be 1.0 with code"),
        ({"code": StagedCode(), "shapes": ((3, 2),)}, ValueError, "must have at least two layers with code 'staged'"),
        (
            {"code": RadixCode(), "timesteps": 99},
            ValueError,
            "timesteps must be from 1 to .* with code 'radix', got 99",
        ),
        ({"code": RadixCode(), "neuron": sf.NeuronSpec(initial_potential=2.0)}, ValueError, "must be from 0 to 1"),
        (
            {"code": StagedCode(True), "timesteps": 6000},
            ValueError,
            r"at most 2\*\*24 to be exact in float32, got up to 18003000",
        ),
        ({"code": _DIGITS, "neuron": sf.NeuronSpec(initial_potential=0.5)}, ValueError, "initial_potential must be 0"),
        ({"code": _DIGITS, "timesteps": 6}, ValueError, r"tables for timesteps=6 and hidden layers of \(3,\) neurons"),
        ({"early_exit": "calibrated"}, TypeError, "early_exit must be an EarlyExit, got str"),
        ({"code": StagedCode(), "early_exit": _CERTIFIED}, ValueError, "early_exit must be None with code 'staged'"),
        (
            {"early_exit": _CERTIFIED},
            ValueError,
            "early_exit must be 'calibrated' with code 'rate', got kind 'certified'",
        ),
        ({"early_exit": _BOUNDS, "shapes": ((3, 2), (1, 3))}, ValueError, "at least two outputs with early_exit"),
        ({"early_exit": _BOUNDS, "timesteps": 6}, ValueError, r"bounds must have one number per step \(6\), got 5"),
    ],
)
def test_codes_and_exits_that_do_not_fit_are_refused(
    options: dict[str, object], error: type[Exception], message: str
) -> None:
    given = {"timesteps": 5, **options}
    weights = [np.ones(shape) for shape in given.pop("shapes", _TWO_LAYERS)]  # type: ignore[attr-defined]
    with pytest.raises(error, match=message):
        sf.SpikingNetwork(weights, **given)  # type: ignore[arg-type]


def test_as_many_spikes_as_float32_counts_are_allowed() -> None:
    one = np.ones((1, 1))
    for copies in (1, 32):
        network = sf.SpikingNetwork([one, one], timesteps=2**24 // copies, code=RateCode(copies))
    # A batch counts as one sample does, whichever way it is run: every copy fires at every step.
    counts = [network.simulate(torch.full((batch, 1), 2.0)).spike_counts[0] for batch in (1, 33)]
    assert {float(count) for batch in counts for count in batch.flatten()} == {2.0**24}


@pytest.mark.parametrize("name", ["bounds", "left", "overtake", "drift", "rounding", "largest"])
def test_tables_without_the_exit_that_reads_them_are_refused(name: str) -> None:
    """The compiled module lays out what it is given, as large as an exit would need it."""
    ones = tuple(np.ones((3, n), dtype=np.float32) for n in (5, 2))
    spec = NetworkSpec(
        tuple(np.ones(shape, dtype=np.float32) for shape in ((5, 1), (2, 5), (16, 2))),
        (None, None, None),
        sf.NeuronSpec(),
        3,
        code=sf.DigitsCode(ones, ones, ones),
    )
    short = np.ones(1, dtype=np.float32)
    code = {**(code_arguments(spec) or {}), name: [short] if name in ("drift", "rounding") else short}
    with pytest.raises(ValueError, match=f"{name}.* need a (calibrated|certified) exit"):
        _core.Plan(**spec.plan_arguments(), code=code)
