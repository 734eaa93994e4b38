# SPDX-License-Identifier: Apache-2.0
"""A second derivation of the dynamics: one sample, exact rational numbers, plain Python, no array library.

It shares no line and no formula with the package. It also keeps count of how many bits float32 would need, so that a
test can ask for equality instead of closeness: where :attr:`Run.fits_float32` holds, every sum that any implementation
can form, in any order, is free of rounding.
"""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

Vector = list[Fraction]
ZERO, ONE = Fraction(0), Fraction(1)


def philox4x32(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x32 with ten rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")."""
    c, k = list(counter), list(key)
    for _ in range(10):
        left, right = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(right >> 32) ^ c[1] ^ k[0], right % 2**32, (left >> 32) ^ c[3] ^ k[1], left % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c[0], c[1], c[2], c[3]


def uniform(seed: int, sample: int, t: int, feature: int) -> Fraction:
    """The number that decides whether an input feature of a sample spikes at step ``t``: a multiple of 2**-24."""
    counter = (feature // 4, t, sample % 2**32, sample >> 32)
    word = philox4x32(counter, (seed % 2**32, seed >> 32))[feature % 4]
    return Fraction(word // 2**8, 2**24)


def is_float32(x: Fraction) -> bool:
    """Whether 24 significant bits hold a number exactly. Normal range only."""
    n, d = abs(x.numerator), x.denominator
    return d & (d - 1) == 0 and (n == 0 or (n // (n & -n)).bit_length() <= 24)


def float32(x: Fraction) -> Fraction:
    """The nearest number of 24 significant bits, ties to even. Normal range only."""
    if x == 0:
        return x
    exponent = x.numerator.bit_length() - x.denominator.bit_length()
    if Fraction(2) ** exponent > abs(x):
        exponent -= 1
    assert -126 <= exponent <= 127
    unit = Fraction(2) ** (exponent - 23)
    return round(x / unit) * unit  # Python rounds a Fraction half to even, exactly


@dataclasses.dataclass(frozen=True)
class Network:
    """The description of a network, in exact numbers."""

    weights: list[list[Vector]]
    biases: list[Vector | None]
    timesteps: int
    order: str = "immediate"
    reset: str = "subtraction"
    alpha: Fraction = ZERO
    beta: Fraction = ONE
    threshold: Fraction = ONE
    initial_potential: Fraction = ZERO
    encoding: str = "constant"
    decoding: str = "potential"
    split_inputs: bool = False
    bias_input: bool = False

    @property
    def spiking_layers(self) -> int:
        return len(self.weights) - (self.decoding in ("potential", "mean_potential"))


@dataclasses.dataclass
class Run:
    """All that happened to one sample; lists are indexed by layer, step, neuron."""

    output: Vector = dataclasses.field(default_factory=list)
    inputs: list[Vector] = dataclasses.field(default_factory=list)
    spikes: list[list[list[int]]] = dataclasses.field(default_factory=list)
    potentials: list[list[Vector]] = dataclasses.field(default_factory=list)
    largest_integer: int = 0  # of the integers that the terms of a sum become on their common grid
    ties: int = 0  # comparisons of a membrane that lay exactly on the threshold

    @property
    def fits_float32(self) -> bool:
        return self.largest_integer <= 2**24

    def add(self, terms: Vector) -> Fraction:
        """The sum, with a note of how wide the sum of magnitudes is: no order of summation meets a larger number."""
        grid = math.lcm(*(t.denominator for t in terms))
        integers = [t.numerator * (grid // t.denominator) for t in terms]
        self.largest_integer = max(self.largest_integer, sum(map(abs, integers)))
        return Fraction(sum(integers), grid)


class Encoder:
    """Turns an observation into the first layer's input, step by step."""

    def __init__(self, net: Network, observation: Vector, seed: int, sample: int) -> None:
        x = list(observation)
        if net.bias_input:
            x.append(ONE)
        if net.split_inputs:
            x = [max(v, ZERO) for v in x] + [max(-v, ZERO) for v in x]
        self.x, self.encoding, self.seed, self.sample = x, net.encoding, seed, sample
        self.next_spike = [1] * len(x)

    def step(self, t: int) -> Vector:
        if self.encoding == "constant":
            return self.x
        return [Fraction(self.spikes(t, j)) for j in range(len(self.x))]

    def spikes(self, t: int, j: int) -> bool:
        x = self.x[j]
        if self.encoding == "poisson":
            return uniform(self.seed, self.sample, t, j) <= x
        due = x > 0 and t == round(self.next_spike[j] / x)
        self.next_spike[j] += due
        return due


class Layer:
    """The state of one layer's neurons and one step of it."""

    def __init__(self, net: Network, index: int) -> None:
        self.net = net
        self.rows = net.weights[index]
        if index == 0 and net.split_inputs:
            self.rows = [row + [-w for w in row] for row in self.rows]
        self.bias = net.biases[index]
        self.fires = index < net.spiking_layers
        hidden = index < len(net.weights) - 1
        self.syn = [ZERO] * len(self.rows)
        self.mem = [net.initial_potential * net.threshold if hidden else ZERO] * len(self.rows)

    def step(self, inputs: Vector, run: Run) -> list[int]:
        return [self.neuron(n, inputs, run) for n in range(len(self.rows))]

    def neuron(self, n: int, inputs: Vector, run: Run) -> int:
        """The spike of neuron ``n``, with its state moved on by one step."""
        net = self.net
        terms = [w * x for w, x in zip(self.rows[n], inputs, strict=True) if x]
        h = run.add(terms if self.bias is None else [*terms, self.bias[n]])
        spike = 0
        if net.order == "immediate":
            self.syn[n] = run.add([net.alpha * self.syn[n], h])
            self.mem[n] = run.add([net.beta * self.mem[n], self.syn[n]])
            if self.fires:
                run.ties += self.mem[n] == net.threshold
                spike = int(self.mem[n] >= net.threshold)
            if spike:
                self.mem[n] = run.add([self.mem[n], -net.threshold]) if net.reset == "subtraction" else ZERO
        else:
            if self.fires:
                run.ties += self.mem[n] == net.threshold
                spike = int(self.mem[n] > net.threshold)
            if spike and net.reset == "zero":
                self.mem[n] = ZERO
            else:
                self.mem[n] = run.add([net.beta * self.mem[n], self.syn[n], -net.threshold * spike])
            self.syn[n] = run.add([net.alpha * self.syn[n], h])
        return spike


def simulate(net: Network, observation: Vector, seed: int = 0, sample: int = 0) -> Run:
    """Run one sample. ``output`` of "mean_potential" is the exact mean; rounding it is left to the caller."""
    run = Run()
    encoder = Encoder(net, observation, seed, sample)
    layers = [Layer(net, i) for i in range(len(net.weights))]
    run.spikes, run.potentials = [[] for _ in layers], [[] for _ in layers]
    for t in range(net.timesteps):
        inputs = encoder.step(t)
        run.inputs.append(inputs)
        for i, layer in enumerate(layers):
            spikes = layer.step(inputs, run)
            run.spikes[i].append(spikes)
            run.potentials[i].append(list(layer.mem))
            inputs = [Fraction(s) for s in spikes]
    run.output = decode(net.decoding, run)
    return run


def decode(decoding: str, run: Run) -> Vector:
    spikes, potentials = run.spikes[-1], run.potentials[-1]
    if decoding == "potential":
        return potentials[-1]
    if decoding == "mean_potential":
        return [run.add(list(neuron)) / len(potentials) for neuron in zip(*potentials, strict=True)]
    if decoding == "spikes":
        return [Fraction(sum(neuron)) for neuron in zip(*spikes, strict=True)]
    return [Fraction(s) for s in next((step for step in spikes if any(step)), [0] * len(spikes[0]))]
