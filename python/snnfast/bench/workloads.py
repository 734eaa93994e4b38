# SPDX-License-Identifier: Apache-2.0
"""The networks that benchmarks run: random ReLU networks, scaled so that hidden neurons fire at a known rate."""

from __future__ import annotations

import dataclasses
import itertools

import torch
from torch import Tensor, nn

from snnfast.network import SpikingNetwork
from snnfast.spec import NeuronSpec


@dataclasses.dataclass(frozen=True)
class Shape:
    """A network's sizes and steps, and the batches that it is timed on.

    Attributes:
        middle: the batch for other firing rates than the usual one.
    """

    sizes: tuple[int, ...]
    timesteps: int
    batches: tuple[int, ...]
    middle: int


SHAPES = {
    "tiny": Shape((4, 16, 16, 2), 100, (1, 100, 1024, 65536), 1024),
    "medium": Shape((8, 256, 256, 4), 100, (1, 256, 4096), 256),
    "large": Shape((784, 1200, 1200, 10), 50, (1, 128, 1024), 128),
}


@dataclasses.dataclass(frozen=True)
class Rate:
    """A share of hidden neurons that fire per step: what is aimed at, and what a timed case must show."""

    aim: float
    low: float
    high: float

    def check(self, name: str, rates: list[float]) -> None:
        """Raise a RuntimeError unless every layer fires in the range."""
        if not all(self.low <= r <= self.high for r in rates):
            found = ", ".join(f"{100 * r:.1f} %" for r in rates)
            raise RuntimeError(
                f"{name}: hidden firing rates must be from {100 * self.low:g} to {100 * self.high:g} %, got {found}"
            )


#: What converted policies do; then hardly any spikes, and very many.
USUAL_RATE = Rate(0.125, 0.10, 0.15)
OTHER_RATES = (Rate(0.03, 0.02, 0.04), Rate(0.40, 0.35, 0.45))


@dataclasses.dataclass(frozen=True)
class Workload:
    """A network and the batches it is timed on.

    Attributes:
        relu: the original network, Linear and ReLU.
        spiking: the same weights as a spiking network (immediate order, constant input, final potential).
        fast: the same without the exact contract, or ``None`` where that is the same method.
        rates: share of neurons that fire per step, per hidden layer, on the sample used for scaling.
    """

    name: str
    sizes: tuple[int, ...]
    timesteps: int
    relu: nn.Sequential
    spiking: SpikingNetwork
    fast: SpikingNetwork | None
    rates: tuple[float, ...]

    def observations(self, batch: int) -> Tensor:
        """Reproducible observations (batch, n_in), standard normal."""
        return torch.randn(batch, self.sizes[0], generator=torch.Generator().manual_seed(batch))


def hidden_rates(network: SpikingNetwork, observations: Tensor) -> list[float]:
    """Mean share of neurons that fire in a step, per hidden layer."""
    counts = network.simulate(observations).spike_counts
    return [float(c.double().mean()) / network.timesteps for c in counts]


def make_workload(
    name: str, sizes: tuple[int, ...], timesteps: int, rate: float = USUAL_RATE.aim, seed: int = 1
) -> Workload:
    """A random network whose hidden layers fire at about ``rate``.

    Weights start as He's; then layer after layer is scaled by bisection until its neurons fire at the wanted rate.
    """
    generator = torch.Generator().manual_seed(seed)
    linears = []
    for n_in, n_out in itertools.pairwise(sizes):
        linear = nn.Linear(n_in, n_out)
        with torch.no_grad():
            linear.weight.copy_(torch.randn(n_out, n_in, generator=generator) * (2.0 / n_in) ** 0.5)
            linear.bias.copy_(torch.randn(n_out, generator=generator) * 0.05)
        linears.append(linear)
    sample = torch.randn(256, sizes[0], generator=generator)
    weights = [x.weight.detach().clone() for x in linears]
    biases = [x.bias.detach().clone() for x in linears]
    for layer in range(len(linears) - 1):
        low, high = 0.0, 64.0
        for _ in range(20):
            scale = (low + high) / 2
            trial = SpikingNetwork(
                [*weights[:layer], weights[layer] * scale],
                [*biases[:layer], biases[layer] * scale],
                NeuronSpec(),
                timesteps,
                decoding="spikes",
            )
            low, high = (scale, high) if hidden_rates(trial, sample)[layer] < rate else (low, scale)
        weights[layer] *= scale
        biases[layer] *= scale
    relu: list[nn.Module] = []
    for linear, w, b in zip(linears, weights, biases, strict=True):
        with torch.no_grad():
            linear.weight.copy_(w)
            linear.bias.copy_(b)
        relu += [linear, nn.ReLU()]
    spiking = SpikingNetwork(weights, biases, NeuronSpec(), timesteps)
    fast = SpikingNetwork(weights, biases, NeuronSpec(), timesteps, exact=False)
    return Workload(
        name,
        sizes,
        timesteps,
        nn.Sequential(*relu[:-1]).eval(),
        spiking,
        None if fast.method() == spiking.method() else fast,
        tuple(hidden_rates(spiking, sample)),
    )
