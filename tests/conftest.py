# SPDX-License-Identifier: Apache-2.0
"""What all tests share: the one list of implementations, and how a random network is made."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import settings

from snnfast import backends
from snnfast.conversion.grid import snap_to_grid, whole_multiples
from snnfast.spec import Code, DigitsCode, EarlyExit, NetworkSpec, NeuronSpec, RadixCode, RateCode, StagedCode

# The same examples on every run, so that a red build can be repeated; `make test-full` asks for more of them.
settings.register_profile("default", derandomize=True, deadline=None, max_examples=50)
settings.register_profile("full", derandomize=True, deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


# A suite in the background of a script has SIGINT ignored, and so would the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Where several processes share the tests out, torch's threads are more than there are cores: a third of the time lost.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start


@pytest.fixture
def two_torch_threads() -> Iterator[int]:
    """So that a number of threads that was not restored is seen."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


def may_go_by_prefix_sums(spec: NetworkSpec) -> bool:
    """Whether prefix sums can run a network under the exact contract: plain neurons, and a second layer that fires, in
    the immediate order, or has few small whole numbers times one power of two for each of its neurons."""
    neuron = spec.neuron
    plain = spec.encoding == "constant" and neuron.alpha == 0 and neuron.beta == 1 and neuron.reset == "subtraction"
    if not plain or len(spec.weights) < 2:
        return False
    fires = len(spec.weights) > 2 or spec.decoding in ("spikes", "first_spike")
    if fires and neuron.order == "immediate" and spec.timesteps <= 128 and max(spec.sizes) <= 1024:
        bias = 0.0 if spec.biases[1] is None else float(np.abs(spec.biases[1]).max(initial=0.0))
        most = float(np.abs(spec.weights[1]).sum(axis=1, dtype=np.float64).max()) + bias + neuron.threshold
        return most * spec.timesteps + abs(neuron.initial_potential * neuron.threshold) < 1e37
    units = np.abs(spec.weights[1]).max(axis=1, initial=0.0, keepdims=True).astype(np.float64) / 2**15
    steps = spec.weights[1] / np.exp2(np.floor(np.log2(np.where(units > 0, units, 1.0))))
    return bool((steps == np.round(steps)).all()) and spec.weights[1].shape[1] < 2**8


@dataclasses.dataclass(frozen=True)
class Implementation:
    """One way to run a network: a backend, and for the compiled one an instruction set."""

    name: str
    isa: str | None

    def compile(self, spec: NetworkSpec) -> backends.Executable:
        return backends.CpuExecutable(spec, self.isa) if self.isa else backends.ReferenceExecutable(spec)

    def ways(self, spec: NetworkSpec) -> list[backends.Executable]:
        """As it is compiled; by tables made to order, which have the first layer's spike trains from the start; and by
        prefix sums, where they are exact or can be made so."""
        automatic = self.compile(spec)
        executables = [automatic]
        if automatic.method()["method"] == "tables":
            executables.append(backends.CpuExecutable(spec, self.isa, method="tables"))
        if spec.code is None and may_go_by_prefix_sums(spec):
            executables.append(backends.CpuExecutable(spec, self.isa, method="prefix_sums"))
        return executables

    def if_forward(
        self, current: torch.Tensor, v0: torch.Tensor, threshold: float, order: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return backends.if_forward(current, v0, threshold, order, "cpu" if self.isa else "reference", self.isa)


def implementations() -> list[Implementation]:
    """Every implementation this machine can run, the reference first. Feeds every parity test."""
    return [Implementation("reference", None), *(Implementation(isa, isa) for isa in backends.instruction_sets())]


def random_spec(seed: int, **fixed: object) -> NetworkSpec:
    """A random network with random options, small enough for the reference; ``fixed`` overrides options by name."""
    rng = random.Random(seed)
    layers = rng.choice([1, 2, 2, 3, 3, 4])
    widths = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 130]
    weights_of = rng.choices([8, 4], k=1)[0]
    sizes = [rng.choice(widths[:weights_of]) for _ in range(layers + 1)]
    if rng.random() < 0.3:
        sizes[rng.randrange(1, layers + 1)] = rng.choice(widths)
    options: dict[str, object] = {
        "order": rng.choice(["immediate", "delayed"]),
        "reset": rng.choice(["subtraction", "subtraction", "zero"]),
        "alpha": rng.choice([0.0, 0.0, 0.5, 0.9]),
        "beta": rng.choice([1.0, 1.0, 0.9, 0.0, 2.0]),
        "threshold": rng.choice([1.0, 1.0, 0.7, 3.5]),
        "initial_potential": rng.choice([0.0, 0.5, 0.5, 1.5, -1.0]),
        "timesteps": rng.choice([1, 2, 5, 16, 33]),
        "encoding": rng.choice(["constant", "constant", "equidistant", "poisson"]),
        "decoding": rng.choice(["potential", "potential", "mean_potential", "spikes", "first_spike"]),
        "split_inputs": rng.random() < 0.3,
        "bias_input": rng.random() < 0.3,
    }
    options |= {k: v for k, v in fixed.items() if k != "sizes"}
    sizes = list(fixed.get("sizes", sizes))  # type: ignore[call-overload]
    numbers = np.random.default_rng(seed)
    weights, biases = [], []
    for i in range(len(sizes) - 1):
        n_in = sizes[i] + (1 if i == 0 and options["bias_input"] else 0)
        weights.append((numbers.normal(size=(sizes[i + 1], n_in)) * 1.5 / np.sqrt(n_in)).astype(np.float32))
        biases.append(None if numbers.random() < 0.25 else (numbers.normal(size=sizes[i + 1]) * 0.3).astype(np.float32))
    neuron = NeuronSpec(**{f.name: options[f.name] for f in dataclasses.fields(NeuronSpec)})  # type: ignore[arg-type]
    names = ("timesteps", "encoding", "decoding", "split_inputs", "bias_input")
    return NetworkSpec(tuple(weights), tuple(biases), neuron, **{n: options[n] for n in names})  # type: ignore[arg-type]


def random_observations(spec: NetworkSpec, batch: int, seed: int) -> torch.Tensor:
    """Observations that suit the encoding: probabilities for spikes, any sign for constant input."""
    numbers = np.random.default_rng([seed, 1])
    if spec.encoding == "constant" or spec.split_inputs:
        values = numbers.normal(size=(batch, spec.n_in))
    else:
        values = numbers.uniform(-0.2, 1.3, size=(batch, spec.n_in))
    values[numbers.random(values.shape) < 0.1] = 0.0
    return torch.from_numpy(values.astype(np.float32))


def on_grid(spec: NetworkSpec, bits: int) -> NetworkSpec:
    """The network with the weights of every layer that takes spikes on a grid, so that no sum of them depends on order.

    Encoded input is spikes as well; the grid must then hold for weights that stand there twice, [W, -W].
    """
    kept = 1 if spec.encoding == "constant" else 0
    bits = bits if kept else min(bits, 13)
    snapped = [w if i < kept else snap_to_grid(w, bits).weights for i, w in enumerate(spec.weights)]
    return dataclasses.replace(spec, weights=tuple(snapped))


CODES = ("rate", "staged", "radix", "digits")


def random_coded_spec(seed: int, kind: str | None = None, sizes: tuple[int, ...] | None = None) -> NetworkSpec:
    """A random network with a code, of any kind, with any exit that the kind has; tables of digits are random too."""
    rng, numbers = random.Random(seed), np.random.default_rng([seed, 2])
    kind = rng.choice(CODES) if kind is None else kind
    spec = random_spec(
        seed, order="immediate", alpha=0.0, beta=1.0, reset="subtraction", encoding="constant", decoding="potential",
        threshold=1.0, initial_potential=rng.choice([0.0, 0.5, 0.5, 1.0]), timesteps=rng.choice([1, 2, 5, 12, 20]),
        **({} if sizes is None else {"sizes": sizes}),
    )  # fmt: skip
    if kind != "rate" and len(spec.weights) == 1:
        return random_coded_spec(seed + 1000, kind, sizes)
    steps, hidden = spec.timesteps, spec.sizes[1:-1]
    changes: dict[str, object] = {}
    if kind == "rate":
        code: Code = RateCode(rng.choice([1, 2, 3, 4, 9]), rng.random() < 0.5)
        changes["decoding"] = rng.choice(["potential", "mean_potential", "parabolic_potential"])
        changes["neuron"] = dataclasses.replace(
            spec.neuron, threshold=rng.choice([1.0, 0.7, 3.5]), initial_potential=rng.choice([0.0, 0.5, 1.5, -1.0])
        )
    elif kind == "staged":
        code = StagedCode(rng.random() < 0.5, rng.choice([1, 1, 2, 5]))
    elif kind == "radix":
        code = RadixCode()
    else:
        fall = 0.3 + 0.6 * numbers.random()
        values = [fall ** np.arange(steps)[:, None] * numbers.uniform(0.5, 1.0, (steps, n)) for n in hidden]
        values = [np.where(numbers.random(v.shape) < 0.15, 0.0, v) for v in values]
        code = DigitsCode(
            tuple(values),
            tuple(v * rng.choice([0.5, 0.8]) for v in values),
            tuple(v * numbers.uniform(0.0, 1.0) for v in values),
            tuple(v * 0.2 for v in values) if rng.random() < 0.3 else None,
        )
        changes["neuron"] = dataclasses.replace(spec.neuron, initial_potential=0.0)
    exits: list[EarlyExit | None] = [None]
    if spec.n_out > 1:
        if kind in ("rate", "digits"):
            bounds = numbers.exponential(size=steps) * rng.choice([0.1, 1.0])
            exits.append(EarlyExit("calibrated", np.where(numbers.random(steps) < 0.2, np.inf, bounds)))
        if kind in ("radix", "digits"):
            exits.append(EarlyExit("certified"))
    spec = dataclasses.replace(spec, code=code, early_exit=rng.choice(exits), **changes)
    # As conversions have them, so that kernels may multiply and add in one; or so that they must not.
    return whole(spec) if isinstance(code, RateCode) and rng.random() < 0.5 else spec


def whole(spec: NetworkSpec) -> NetworkSpec:
    """The network with weights of which no product with a count of spikes is rounded."""
    copies = spec.code.copies if isinstance(spec.code, RateCode) else 1
    weights = [spec.weights[0], *(whole_multiples(w, copies) for w in spec.weights[1:])]
    return dataclasses.replace(spec, weights=tuple(weights))
