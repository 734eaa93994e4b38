# SPDX-License-Identifier: Apache-2.0
"""The networks that benchmarks run: random ReLU networks, scaled so that hidden neurons fire at a known rate."""

from __future__ import annotations

import dataclasses
import itertools

import torch
from torch import Tensor, nn

from snnfast.network import SpikingNetwork
from snnfast.spec import NeuronSpec

#: Share of hidden neurons that fire per step, which every timed case must show: what converted policies do.
RATE_RANGE = (0.10, 0.15)


@dataclasses.dataclass(frozen=True)
class Workload:
    """A network and the batches it is timed on.

    Attributes:
        relu: the original network, Linear and ReLU.
        spiking: the same weights as a spiking network (immediate order, constant input, final potential).
        rates: share of neurons that fire per step, per hidden layer, on the sample used for scaling.
    """

    name: str
    sizes: tuple[int, ...]
    timesteps: int
    relu: nn.Sequential
    spiking: SpikingNetwork
    rates: tuple[float, ...]

    def observations(self, batch: int) -> Tensor:
        """Reproducible observations (batch, n_in), standard normal."""
        return torch.randn(batch, self.sizes[0], generator=torch.Generator().manual_seed(batch))


def hidden_rates(network: SpikingNetwork, observations: Tensor) -> list[float]:
    """Mean share of neurons that fire in a step, per hidden layer."""
    counts = network.simulate(observations).spike_counts
    return [float(c.double().mean()) / network.timesteps for c in counts]


def make_workload(name: str, sizes: tuple[int, ...], timesteps: int, rate: float = 0.125, seed: int = 1) -> Workload:
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
    rates = tuple(hidden_rates(spiking, sample))
    return Workload(name, sizes, timesteps, nn.Sequential(*relu[:-1]).eval(), spiking, rates)


class NaiveTorch:
    """A spiking network as one writes it first in torch: a loop over time, a product per layer, compare, subtract."""

    def __init__(self, network: SpikingNetwork) -> None:
        self.weights, self.biases = network.weights, network.biases
        self.timesteps = network.timesteps

    @torch.no_grad()
    def __call__(self, observations: Tensor) -> Tensor:
        layers = len(self.weights)
        potentials = [torch.zeros(observations.shape[0], w.shape[0]) for w in self.weights]
        for _ in range(self.timesteps):
            spikes = observations
            for i in range(layers):
                h = torch.matmul(spikes, self.weights[i].t())
                bias = self.biases[i]
                if bias is not None:
                    h = h + bias
                potentials[i] = potentials[i] + h
                if i < layers - 1:
                    spikes = (potentials[i] >= 1.0).float()
                    potentials[i] = potentials[i] - spikes
        return potentials[-1]
