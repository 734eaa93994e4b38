# SPDX-License-Identifier: Apache-2.0
"""What a spiking network is compared with in plain torch: as one writes it first, and as well as one can.

Both restate the neuron on purpose: they are what users would write. They serve the networks of
:mod:`snnfast.bench.workloads` only: immediate order, no decay, threshold 1, reset by subtraction, constant input,
final potential.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from snnfast.network import SpikingNetwork
from snnfast.spec import NeuronSpec


def _check(network: SpikingNetwork) -> None:
    spec = network.spec
    if spec.neuron != NeuronSpec() or (spec.encoding, spec.decoding) != ("constant", "potential"):
        raise ValueError(f"only networks as in bench.workloads can be rivalled, got {network!r}")


class NaiveTorch:
    """A spiking network as one writes it first in torch: a loop over time, a product per layer, compare, subtract.

    Args:
        strict: fire above the threshold and not at it, as some libraries do.
    """

    def __init__(self, network: SpikingNetwork, *, strict: bool = False) -> None:
        _check(network)
        self.weights, self.biases = network.weights, network.biases
        self.timesteps = network.timesteps
        self.strict = strict

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
                    spikes = ((potentials[i] > 1.0) if self.strict else (potentials[i] >= 1.0)).float()
                    potentials[i] = potentials[i] - spikes
        return potentials[-1]


class CarefulTorch:
    """The same network by somebody who knows torch well.

    The first current, which never changes, is computed once. Layer by layer instead of step by step, so that a layer's
    input currents of all steps are one large product. In place, without temporaries, in memory that is kept from call
    to call. The last layer needs the sum of the spikes only, since it accumulates and never fires. Samples go in
    blocks whose spikes stay in the cache.
    """

    #: Bytes of one layer's spikes over all steps, about; the best of 1, 4, 16 and 64 MiB on a machine with AVX2.
    BLOCK_BYTES = 16 << 20

    def __init__(self, network: SpikingNetwork) -> None:
        _check(network)
        self.weights, self.biases = network.weights, network.biases
        self.timesteps = network.timesteps
        self.hidden = [w.shape[0] for w in self.weights[:-1]]
        self.block = max(16, self.BLOCK_BYTES // (4 * self.timesteps * max(self.hidden)))
        self._memory: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}

    @torch.inference_mode()
    def __call__(self, observations: Tensor) -> Tensor:
        if len(observations) <= self.block:
            return self._run(observations)
        return torch.cat([self._run(part) for part in torch.split(observations, self.block)])

    def _run(self, observations: Tensor) -> Tensor:
        batch, steps = len(observations), self.timesteps
        if batch not in self._memory:
            self._memory[batch] = [
                (torch.empty(batch, n), torch.empty(steps, batch, n), torch.empty(steps, batch, n)) for n in self.hidden
            ]
        memory = self._memory[batch]
        first = linear(observations, self.weights[0], self.biases[0])
        for layer, (potential, spikes, currents) in enumerate(memory):
            if layer > 0:
                before = memory[layer - 1][1].view(steps * batch, -1)
                bias, product = self.biases[layer], currents.view(steps * batch, -1)
                if bias is None:
                    torch.mm(before, self.weights[layer].t(), out=product)
                else:
                    torch.addmm(bias, before, self.weights[layer].t(), out=product)
            potential.zero_()
            arriving = [first] * steps if layer == 0 else currents.unbind(0)
            for current, fired in zip(arriving, spikes.unbind(0), strict=True):
                potential.add_(current)
                torch.ge(potential, 1.0, out=fired)
                potential.sub_(fired)
        total = torch.matmul(memory[-1][1].sum(0), self.weights[-1].t())
        return total if self.biases[-1] is None else total.add_(self.biases[-1], alpha=steps)
