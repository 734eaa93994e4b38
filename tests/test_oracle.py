# SPDX-License-Identifier: Apache-2.0
"""Every implementation against an independent derivation in exact arithmetic, and against tables worked out by hand.

All numbers of the random cases are dyadic and small, so that float32 makes no rounding error and equality is the only
acceptable answer. The tables at the end need no trust in any program.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import itertools
import random
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor

import oracle
from conftest import Implementation, implementations
from snnfast.reference import Simulation
from snnfast.spec import NetworkSpec, NeuronSpec

F = Fraction
ORDERS, RESETS = ("immediate", "delayed"), ("subtraction", "zero")
ENCODINGS = ("constant", "equidistant", "poisson")
DECODINGS = ("potential", "mean_potential", "spikes", "first_spike")
COMBINATIONS = list(itertools.product(ORDERS, RESETS, ENCODINGS, DECODINGS))
# After 6 networks of each combination, 40 of the shape that conversions of small policies have.
POLICIES = list(itertools.product(ORDERS, RESETS, ("constant",), ("potential", "mean_potential")))
FIRST_POLICY = 6 * len(COMBINATIONS)
CASES = range(FIRST_POLICY + 5 * len(POLICIES))
IMPLEMENTATIONS = [pytest.param(i, id=i.name) for i in implementations()]


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, a batch for it, and what the oracle says of each sample."""

    net: oracle.Network
    observations: list[oracle.Vector]
    seed: int
    first_sample: int
    runs: list[oracle.Run]


def tensor(values: object) -> Tensor:
    """Nested lists of exact numbers as float32, which must hold them without rounding."""

    def exact(value: object) -> object:
        if isinstance(value, list):
            return [exact(v) for v in value]
        assert oracle.is_float32(value), f"{value} is not representable in float32"  # type: ignore[arg-type]
        return float(value)  # type: ignore[arg-type]

    return torch.tensor(exact(values), dtype=torch.float32)


def spec_of(net: oracle.Network) -> NetworkSpec:
    """The same network in the package's terms."""
    neuron = NeuronSpec(
        float(net.alpha), float(net.beta), float(net.threshold), net.reset, net.order, float(net.initial_potential)
    )
    weights = [torch.tensor([[float(w) for w in row] for row in rows]) for rows in net.weights]
    biases = [None if b is None else torch.tensor([float(v) for v in b]) for b in net.biases]
    return NetworkSpec(
        weights, biases, neuron, net.timesteps, net.encoding, net.decoding, net.split_inputs, net.bias_input
    )


def run_oracle(net: oracle.Network, observations: list[oracle.Vector], seed: int, first: int) -> list[oracle.Run]:
    return [oracle.simulate(net, x, seed, first + i) for i, x in enumerate(observations)]


def make_case(number: int) -> Case:
    """A random network of the case's combination of options, with as many of 12 steps as float32 can follow."""
    rng = random.Random(number)
    policy = number >= FIRST_POLICY
    combinations = POLICIES if policy else COMBINATIONS
    order, reset, encoding, decoding = combinations[number % len(combinations)]

    grid = rng.choice([16, 16, 4, 2])  # a coarse grid meets the threshold more often

    def dyadic(low: float, high: float) -> Fraction:
        return F(rng.randint(int(grid * low), int(grid * high)), grid)

    wide = not policy and rng.random() < 0.1  # now and then wider than a vector register
    layers = rng.choice([2, 3, 3] if policy else [1, 2, 2, 3, 4])
    widths = [1, 2, 4, 7, 8, 16] if policy else [9, 17, 33] if wide else [1, 2, 3, 4, 5]
    sizes = [rng.choice(widths) for _ in range(1 + layers)]
    plain = (False, False)
    split, bias = plain if policy else rng.choice([plain, plain, (True, False), (False, True), (True, True)])
    weights, biases = [], []
    for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        columns = n_in + (bias and i == 0)
        reach = 1.5 if columns < 8 else 0.5
        weights.append([[dyadic(-reach, reach) for _ in range(columns)] for _ in range(n_out)])
        biases.append(None if rng.random() < 0.25 else [dyadic(-0.25, 0.75) for _ in range(n_out)])
    low, high = (-2, 2) if encoding == "constant" or split else (-0.25, 1.25)
    if encoding == "equidistant":
        high = 4  # above 1 the encoder falls behind and stops; even values make ties of n / x
    batch = rng.choice([1, 2]) if wide else rng.choice([1, 1, 2, 2, 3, 3, 5, 17])
    observations = [
        [F(0) if rng.random() < 0.1 else F(2) if encoding == "equidistant" and rng.random() < 0.1
         else dyadic(low, high) for _ in range(sizes[0])]
        for _ in range(batch)
    ]  # fmt: skip
    net = oracle.Network(
        weights,
        biases,
        timesteps=rng.choice([1, 2, 5, 10, 12, 12, 12]),
        order=order,
        reset=reset,
        alpha=rng.choice([F(0), F(0), F(1, 2), F(1), F(2)]),
        beta=rng.choice([F(1), F(1), F(1, 2), F(0), F(2)]),
        threshold=rng.choice([F(1), F(1), F(1, 2), F(3, 4), F(2)]),
        initial_potential=rng.choice([F(0), F(1, 2), F(1), F(5, 4), F(-1, 2)]),
        encoding=encoding,
        decoding=decoding,
        split_inputs=split,
        bias_input=bias,
    )
    seed, first = rng.getrandbits(64), rng.choice([0, 0, 5, 2**32 - 1, 2**40 + 3])
    sample = 0
    runs: list[oracle.Run] = []
    while sample < batch:
        runs[sample:] = [oracle.simulate(net, observations[sample], seed, first + sample)]
        sample += 1
        if not runs[-1].fits_float32 and net.timesteps > 1:
            net, sample = dataclasses.replace(net, timesteps=net.timesteps - 1), 0
    return Case(net, observations, seed, first, runs)


case = functools.cache(make_case)


def by_step(runs: list[oracle.Run], get: Callable[[oracle.Run], list[list[Fraction]]]) -> Tensor:
    """What ``get`` takes from each run, (T, N), as one tensor (T, B, N)."""
    return torch.stack([tensor(get(run)) for run in runs], dim=1)


def expected(net: oracle.Network, runs: list[oracle.Run]) -> Simulation:
    """The oracle's answer in the shape of an implementation's."""
    spikes = [by_step(runs, lambda run, i=i: run.spikes[i]) for i in range(net.spiking_layers)]  # type: ignore[misc]
    potentials = [by_step(runs, lambda run, i=i: run.potentials[i]) for i in range(len(net.weights))]  # type: ignore[misc]
    inputs = None if net.encoding == "constant" else by_step(runs, lambda run: run.inputs).sum(0)
    # The sum of the potentials is exact, so a mean is allowed the one rounding of its division and no other.
    output = tensor([[oracle.float32(v) for v in run.output] for run in runs])
    return Simulation(output, [s.sum(0) for s in spikes], inputs, spikes, potentials)


def assert_same(actual: object, wanted: object, what: str) -> None:
    if isinstance(wanted, list):
        assert isinstance(actual, list), what
        assert len(actual) == len(wanted), what
        for i, (a, w) in enumerate(zip(actual, wanted, strict=True)):
            assert_same(a, w, f"{what}[{i}]")
    elif wanted is None:
        assert actual is None, what
    else:
        assert isinstance(actual, Tensor), what
        assert isinstance(wanted, Tensor)
        assert actual.dtype == wanted.dtype, what
        assert torch.equal(actual, wanted), f"{what}: got {actual}, not {wanted}"


@pytest.mark.parametrize("number", CASES)
def test_random_network_agrees_exactly(number: int) -> None:
    c = case(number)
    assert all(run.fits_float32 for run in c.runs), "the case is no test of equality"
    wanted, spec, observations = expected(c.net, c.runs), spec_of(c.net), tensor(c.observations)
    for implementation in implementations():
        executable = implementation.compile(spec)
        # Records, their absence and plain outputs may take different ways through an implementation.
        for record in (("spikes", "potentials"), ()):
            actual = executable.simulate(observations, c.seed, record, c.first_sample)
            for field in dataclasses.fields(Simulation):
                want = None if field.name in {"spikes", "potentials"} - {*record} else getattr(wanted, field.name)
                what = f"{implementation.name} {field.name} of {c.net}, record={record}"
                assert_same(getattr(actual, field.name), want, what)
        assert_same(executable.run(observations, c.seed, c.first_sample), wanted.output, f"{implementation.name} run()")


def test_random_networks_reach_the_hard_spots() -> None:
    """Agreement means little if the networks are silent, saturated, or never on the threshold."""
    cases = [case(number) for number in CASES]
    assert len(cases) >= 300
    assert {len(c.net.weights) for c in cases} == {1, 2, 3, 4}
    assert {(c.net.split_inputs, c.net.bias_input, c.net.encoding) for c in cases} == set(
        itertools.product((False, True), (False, True), ENCODINGS)
    )
    assert len({(c.net.order, c.net.alpha, c.net.beta) for c in cases}) == 2 * 4 * 4
    assert any(b is None for c in cases for b in c.net.biases)
    assert sum(c.net.timesteps >= 5 for c in cases) > 200
    for order, reset in itertools.product(ORDERS, RESETS):
        chosen = [c for c in cases if (c.net.order, c.net.reset) == (order, reset)]
        fired = [s for c in chosen for run in c.runs for layer in run.spikes[: c.net.spiking_layers]
                 for step in layer for s in step]  # fmt: skip
        assert 0.15 < sum(fired) / len(fired) < 0.85, (order, reset)
        assert sum(run.ties for c in chosen for run in c.runs) > 100, (order, reset)
    first = [run.output for c in cases if c.net.decoding == "first_spike" for run in c.runs]
    assert any(not any(output) for output in first)
    assert any(0 < sum(output) < len(output) for output in first)
    means = [v for c in cases if c.net.decoding == "mean_potential" for run in c.runs for v in run.output]
    assert sum(oracle.float32(v) != v for v in means) > 50  # the division does round


def test_the_oracle_uses_no_array_library() -> None:
    tree = ast.parse(Path(oracle.__file__).read_text(encoding="utf-8"))
    imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    imported |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert imported == {"__future__", "dataclasses", "math", "fractions"}


# The published answers of Philox4x32-10: Random123, tests/kat_vectors.
@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], answer: tuple[int, int, int, int]
) -> None:
    assert oracle.philox4x32(counter, key) == answer


def test_float32_rounds_half_to_even() -> None:
    unit = F(1, 2**23)
    assert oracle.float32(1 + unit / 2) == 1
    assert oracle.float32(1 + 3 * unit / 2) == 1 + 2 * unit
    assert oracle.float32(-(1 + 3 * unit / 2)) == -(1 + 2 * unit)
    assert oracle.float32(F(1, 3)) == F(11184811, 2**25)
    assert oracle.float32(2 - unit / 4) == 2
    for x in (F(0), F(-3), 1 + unit, F(2**40), F(1, 3), 1 + unit / 2, F(2**24 + 1), F(2**24 - 1, 2**30)):
        assert oracle.is_float32(x) == (oracle.float32(x) == x)


# Tables worked out by hand, one neuron or one chain of neurons each. -------------------------------------------------


def chain(weights: list[object], timesteps: int = 10, **options: object) -> oracle.Network:
    """A network of one neuron per layer, without biases; the first weight may be a list, for several inputs."""
    rows = [[[F(w) for w in row]] if isinstance(row, list) else [[F(row)]] for row in weights]  # type: ignore[arg-type]
    return oracle.Network(rows, [None] * len(rows), timesteps, **options)  # type: ignore[arg-type]


def every_answer(net: oracle.Network, observations: list[list[object]], seed: int = 0) -> list[tuple[str, Simulation]]:
    """A simulation by the oracle, where float32 can hold it, and by every implementation."""
    exact = [[F(v) for v in x] for x in observations]  # type: ignore[arg-type]
    given = torch.tensor([[float(v) for v in x] for x in exact])
    runs = run_oracle(net, exact, seed, 0)
    answers = [("oracle", expected(net, runs))] if all(run.fits_float32 for run in runs) else []
    for i in implementations():
        answers.append((i.name, i.compile(spec_of(net)).simulate(given, seed, ("spikes", "potentials"))))
    return answers


def line(values: Tensor) -> list[float]:
    """(T, 1, 1) as a plain list."""
    return [float(v) for v in values.reshape(-1)]


# An input current of 0.3 per step, threshold 1, no synaptic memory, no leak.
#   steps                    0    1    2    3    4    5    6    7    8    9
TENTHS = {
    ("immediate", "subtraction"): (
        [0.3, 0.6, 0.9, 0.2, 0.5, 0.8, 0.1, 0.4, 0.7, 0.0],
        [0, 0, 0, 1, 0, 0, 1, 0, 0, 1],  # the last one lands on the threshold: at or above
    ),
    ("delayed", "subtraction"): (
        [0.0, 0.3, 0.6, 0.9, 1.2, 0.5, 0.8, 1.1, 0.4, 0.7],
        [0, 0, 0, 0, 0, 1, 0, 0, 1, 0],
    ),
    ("immediate", "zero"): (
        [0.3, 0.6, 0.9, 0.0, 0.3, 0.6, 0.9, 0.0, 0.3, 0.6],
        [0, 0, 0, 1, 0, 0, 0, 1, 0, 0],
    ),
    # At step 5 the membrane is 0, not 0.3: the synaptic current of that step is lost with the reset.
    ("delayed", "zero"): (
        [0.0, 0.3, 0.6, 0.9, 1.2, 0.0, 0.3, 0.6, 0.9, 1.2],
        [0, 0, 0, 0, 0, 1, 0, 0, 0, 0],
    ),
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("order", "reset"), list(TENTHS))
def test_constant_current_step_by_step(implementation: Implementation, order: str, reset: str) -> None:
    net = chain([F(3, 10)], order=order, reset=reset, decoding="spikes")
    potentials, spikes = TENTHS[order, reset]
    answer = implementation.compile(spec_of(net)).simulate(torch.ones(1, 1), 0, ("spikes", "potentials"))
    assert answer.spikes is not None
    assert answer.potentials is not None
    assert line(answer.spikes[0]) == spikes
    assert line(answer.potentials[0]) == pytest.approx(potentials, abs=1e-6)
    assert float(answer.output) == sum(spikes)
    run = oracle.simulate(net, [F(1)])
    assert [step[0] for step in run.spikes[0]] == spikes
    assert [float(step[0]) for step in run.potentials[0]] == pytest.approx(potentials, abs=1e-15)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("order", ORDERS)
def test_layer_over_time_step_by_step(implementation: Implementation, order: str) -> None:
    potentials, spikes = TENTHS[order, "subtraction"]
    got, final = implementation.if_forward(torch.full((10, 1, 1), 0.3), torch.zeros(1, 1), 1.0, order)
    assert line(got) == spikes
    assert float(final) == pytest.approx(potentials[-1], abs=1e-6)


def test_a_neuron_that_reads_out_never_fires() -> None:
    """The same current, read out: ten steps of it, and one fewer with the delay; the mean is over all steps."""
    for order, final, mean in [("immediate", 2.5, 1.375), ("delayed", 2.25, 1.125)]:
        for decoding, output in [("potential", final), ("mean_potential", mean)]:
            net = chain([F(1, 4)], order=order, decoding=decoding, initial_potential=F(1, 2))
            for name, answer in every_answer(net, [[1]]):
                assert float(answer.output) == output, (name, order, decoding)
                assert answer.spike_counts == []
                assert answer.spikes == []


# Input spikes of ten steps, from t = n / x rounded half to even for n = 1, 2, ...
EQUIDISTANT = [
    (0.5, [0, 0, 1, 0, 1, 0, 1, 0, 1, 0]),  # 2, 4, 6, 8
    (0.25, [0, 0, 0, 0, 1, 0, 0, 0, 1, 0]),  # 4, 8
    (1.0, [0, 1, 1, 1, 1, 1, 1, 1, 1, 1]),  # 1, 2, 3, ...: never at step 0
    (0.75, [0, 1, 0, 1, 1, 1, 0, 1, 1, 1]),  # 1.33, 2.67, 4, 5.33, 6.67, 8, 9.33
    (3.0, [1, 1, 0, 0, 0, 0, 0, 0, 0, 0]),  # 0.33, 0.67, then 1.0, which has passed: no spike ever after
    (2.0, [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]),  # 0.5 to 0, 1, 1.5 to 2, then 2.0, which has passed
    (4.0, [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]),  # 0.25 to 0, then 0.5 to 0, which has passed
    (0.0, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    (-1.0, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    (2.0**-149, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),  # n / x is beyond float32
]


@pytest.mark.parametrize(("x", "spikes"), EQUIDISTANT)
def test_equidistant_spikes_step_by_step(x: float, spikes: list[int]) -> None:
    # With weight 1, threshold 1 and a membrane that forgets at once, the neuron repeats its input.
    net = chain([1], beta=F(0), encoding="equidistant", decoding="spikes")
    for name, answer in every_answer(net, [[x]]):
        assert answer.spikes is not None
        assert line(answer.spikes[0]) == spikes, name
        assert answer.input_spike_counts is not None
        assert float(answer.input_spike_counts) == sum(spikes), name


def test_split_and_bias_inputs_by_hand() -> None:
    """Bias first, then the split: (-3/4,) becomes (-3/4, 1), then (0, 1, 3/4, 0), met by (w, b, -w, -b)."""
    # constant: 4 steps of -3/4 * 2 + 1/2; equidistant: split spikes at 1 and 3 of weight -2, bias spikes at 1, 2, 3
    # of weight 1/2. Without the split a negative value never spikes, but its constant current is the same.
    for encoding, split, output, counts in [
        ("constant", True, -4.0, None),
        ("constant", False, -4.0, None),
        ("equidistant", True, -2.5, [0, 3, 2, 0]),
        ("equidistant", False, 1.5, [0, 3]),
    ]:
        net = chain([[2, F(1, 2)]], 4, encoding=encoding, split_inputs=split, bias_input=True)
        for name, answer in every_answer(net, [[F(-3, 4)]]):
            assert float(answer.output) == output, (name, encoding, split)
            seen = None if answer.input_spike_counts is None else answer.input_spike_counts.tolist()[0]
            assert seen == counts, (name, encoding, split)


def test_poisson_spikes_at_or_below_the_observation() -> None:
    """An observation equal to a random number spikes, the next smaller one does not: u <= x, feature by feature."""
    seed, features = 0x0123456789ABCDEF, 9
    numbers = [oracle.uniform(seed, 0, 0, j) for j in range(features)]
    net = chain([[1] * features], 1, encoding="poisson")
    for at, count in [(F(0), 1), (F(1, 2**24), 0)]:
        for name, answer in every_answer(net, [[u - at for u in numbers]], seed):
            assert answer.input_spike_counts is not None
            assert answer.input_spike_counts.tolist() == [[count] * features], name
    # Even an observation of 0 spikes where the random number is 0, as word 3 of this seed's first block is.
    seed = 1343428
    assert oracle.uniform(seed, 0, 0, 3) == 0
    for name, answer in every_answer(chain([[1] * 4], 1, encoding="poisson"), [[0] * 4], seed):
        assert answer.input_spike_counts is not None
        assert answer.input_spike_counts.tolist() == [[0, 0, 0, 1]], name
    # A certain spike and an impossible one.
    for name, answer in every_answer(chain([[1, 1]], encoding="poisson"), [[1, F(-1, 16)]], seed):
        assert answer.input_spike_counts is not None
        assert answer.input_spike_counts.tolist() == [[10, 0]], name


@pytest.mark.parametrize("order", ORDERS)
def test_first_spike_without_a_spike_is_zero(order: str) -> None:
    net = oracle.Network([[[F(1, 16)], [F(1)]]], [None], 10, order=order, decoding="first_spike")
    # 1/16: ten steps bring the second neuron to 10/16. 1: the second fires, the first gets to 10/16. 32: both at once.
    for name, answer in every_answer(net, [[F(1, 16)], [1], [32]]):
        assert answer.output.tolist() == [[0, 0], [0, 1], [1, 1]], name


def test_each_delayed_layer_adds_two_steps() -> None:
    """An input spike at step 4 charges the membrane at 5 and is a spike at 6; the next layer's is at 8."""
    # x = 1/4 gives input spikes at steps 4 and 8, each worth 2.
    net = chain([2, 2, 1], order="delayed", encoding="equidistant")
    for name, answer in every_answer(net, [[F(1, 4)]]):
        assert answer.spikes is not None
        assert answer.potentials is not None
        #                                          0  1  2  3  4  5  6  7  8  9
        assert line(answer.spikes[0]) == [0, 0, 0, 0, 0, 0, 1, 0, 0, 0], name
        assert line(answer.potentials[0]) == [0, 0, 0, 0, 0, 2, 1, 1, 1, 3], name  # 1 is not strictly above 1
        assert line(answer.spikes[1]) == [0, 0, 0, 0, 0, 0, 0, 0, 1, 0], name
        assert line(answer.potentials[1]) == [0, 0, 0, 0, 0, 0, 0, 2, 1, 1], name
        assert line(answer.potentials[2]) == [0, 0, 0, 0, 0, 0, 0, 0, 0, 1], name
        assert len(answer.spikes) == 2, name


def test_immediate_layers_pass_a_spike_on_in_the_same_step() -> None:
    net = chain([2, 2, 1], encoding="equidistant")
    for name, answer in every_answer(net, [[F(1, 4)]]):
        assert answer.spikes is not None
        assert answer.potentials is not None
        #                                          0  1  2  3  4  5  6  7  8  9
        assert line(answer.spikes[0]) == [0, 0, 0, 0, 1, 1, 0, 0, 1, 1], name
        assert line(answer.potentials[0]) == [0, 0, 0, 0, 1, 0, 0, 0, 1, 0], name
        assert line(answer.spikes[1]) == [0, 0, 0, 0, 1, 1, 1, 1, 1, 1], name
        assert line(answer.potentials[1]) == [0, 0, 0, 0, 1, 2, 1, 0, 1, 2], name
        assert line(answer.potentials[2]) == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6], name


def test_delayed_reset_to_zero_loses_the_synaptic_current_of_its_step() -> None:
    """Current 1/2 and alpha 1/2: syn goes 1/2, 3/4, 7/8, 15/16; the step that fires throws 15/16 away, syn stays."""
    #           step    0    1    2      3       4           5
    # syn after         1/2  3/4  7/8    15/16   31/32       63/64
    # mem after         0    1/2  5/4    0       15/16       61/32
    zero = [0, 0.5, 1.25, 0, 0.9375, 1.90625]
    # With subtraction the membrane after step 3 is 5/4 + 7/8 - 1 = 9/8, above 1 again.
    subtraction = [0, 0.5, 1.25, 1.125, 1.0625, 1.03125]
    for reset, potentials, spikes in [
        ("zero", zero, [0, 0, 0, 1, 0, 0]),
        ("subtraction", subtraction, [0, 0, 0, 1, 1, 1]),
    ]:
        net = chain([F(1, 2)], 6, order="delayed", reset=reset, alpha=F(1, 2), decoding="spikes")
        for name, answer in every_answer(net, [[1]]):
            assert answer.spikes is not None
            assert answer.potentials is not None
            assert line(answer.potentials[0]) == potentials, (name, reset)
            assert line(answer.spikes[0]) == spikes, (name, reset)


def test_initial_potential_is_for_hidden_layers_and_a_fraction_of_the_threshold() -> None:
    """Threshold 2, start at 3/4 of it: 3/2 in the hidden layer, 0 in the last, which fires here."""
    net = chain([F(1, 2), 1], 4, threshold=F(2), initial_potential=F(3, 4), decoding="spikes")
    for name, answer in every_answer(net, [[1]]):
        assert answer.spikes is not None
        assert answer.potentials is not None
        assert line(answer.spikes[0]) == [1, 0, 0, 0], name
        assert line(answer.potentials[0]) == [0, 0.5, 1, 1.5], name
        assert line(answer.potentials[1]) == [1, 1, 1, 1], name
