# SPDX-License-Identifier: Apache-2.0
"""The dynamics of plain neurons in torch: slow, obvious, complete. Other implementations are judged against this.

Numbers follow the *exact* contract: each layer's current is one chain of float32 operations, inputs ascending, every
product and every sum rounded by itself, the bias added last::

    h = (((0 + W[:, 0] * x[0]) + W[:, 1] * x[1]) + ...) + b

Nothing here is compiled by us and nothing here imports anything that is.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from snnfast.reference.simulation import Simulation
from snnfast.spec import NetworkSpec, NeuronSpec, Order

_WORD = 0xFFFFFFFF


def layer_current(inputs: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
    """Input current of a layer, (B, n_out), in the canonical order of summation.

    Args:
        inputs: (B, n_in), float32.
        weights: (n_out, n_in), float32.
        bias: (n_out,) or None.
    """
    h = torch.zeros(inputs.shape[0], weights.shape[0], dtype=torch.float32)
    for j in range(weights.shape[1]):
        h = h + weights[:, j] * inputs[:, j : j + 1]
    return h if bias is None else h + bias


def step(mem: Tensor, syn: Tensor, h: Tensor, neuron: NeuronSpec, fires: bool) -> tuple[Tensor, Tensor, Tensor]:
    """One time step of one layer: new membrane potential, new synaptic current, spikes (zeros and ones).

    A factor that is 0 (alpha) or 1 (beta) in float32 means that the term is left out or taken as it is, not multiplied.
    """
    threshold = torch.tensor(neuron.threshold, dtype=torch.float32)
    alpha, beta = (torch.tensor(x, dtype=torch.float32) for x in (neuron.alpha, neuron.beta))
    none = torch.zeros((), dtype=torch.bool)

    new_syn = h if alpha == 0 else alpha * syn + h
    kept = mem if beta == 1 else beta * mem
    if neuron.order == "immediate":
        mem = kept + new_syn
        fired = (mem >= threshold) if fires else none.expand_as(mem)
    else:
        fired = (mem > threshold) if fires else none.expand_as(mem)
        mem = kept + syn
    if neuron.reset == "subtraction":
        mem = torch.where(fired, mem - threshold, mem)
    else:
        mem = torch.where(fired, torch.zeros((), dtype=torch.float32), mem)
    return mem, new_syn, fired.float()


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10: four words of random bits for each four-word counter, as int64 tensors below 2**32.

    Source: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3. SC'11.
    """

    def multiply(constant: int, x: Tensor) -> tuple[Tensor, Tensor]:
        high = (constant * (x >> 16) + ((constant * (x & 0xFFFF)) >> 16)) >> 16
        return high, (constant * x) & _WORD

    c0, c1, c2, c3 = counter
    k0, k1 = seed & _WORD, (seed >> 32) & _WORD
    for _ in range(10):
        high0, low0 = multiply(0xD2511F53, c0)
        high1, low1 = multiply(0xCD9E8D57, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    return c0, c1, c2, c3


def uniform(t: int, samples: int, features: int, seed: int, first_sample: int = 0) -> Tensor:
    """Uniform numbers in [0, 1), (samples, features): a function of seed, step, sample and feature alone.

    Feature j, counted in the encoded input, takes word j mod 4 of the Philox block with counter (j // 4, t, sample low,
    sample high) and key (seed low, seed high), each word 32 bits; its upper 24 bits are the number, so every value is
    exact in float32.
    """
    blocks = (features + 3) // 4
    block = torch.arange(blocks).expand(samples, blocks)
    sample = (first_sample + torch.arange(samples)).unsqueeze(1).expand(samples, blocks)
    words = philox((block, torch.full_like(block, t), sample & _WORD, (sample >> 32) & _WORD), seed)
    bits = torch.stack(words, dim=2).reshape(samples, 4 * blocks)[:, :features]
    return (bits >> 8).float() * 2.0**-24


def encode(spec: NetworkSpec, observations: Tensor) -> Tensor:
    """The numbers that are to be encoded, (B, features): with the bias input, then split, if the network asks so."""
    x = observations
    if spec.bias_input:
        x = torch.cat([x, torch.ones(x.shape[0], 1)], dim=1)
    if spec.split_inputs:
        x = torch.cat([x.clamp(min=0), (-x).clamp(min=0)], dim=1)
    return x


def simulate(
    spec: NetworkSpec,
    observations: Tensor,
    *,
    seed: int = 0,
    first_sample: int = 0,
    record: Collection[str] = (),
) -> Simulation:
    """Run a network for all its time steps.

    Args:
        spec: the network.
        observations: (B, n_in), float32, finite.
        seed: of the random numbers of Poisson encoding, 0 <= seed < 2**64.
        first_sample: number of the first row, for the random numbers: a batch cut in two gives the same spikes.
        record: any of "spikes" and "potentials".
    """
    layers = len(spec.weights)
    weights = [torch.from_numpy(w.copy()) for w in (spec.encoded_weights, *spec.weights[1:])]
    biases = [None if b is None else torch.from_numpy(b.copy()) for b in spec.biases]
    batch = observations.shape[0]
    x = encode(spec, observations)

    initial = torch.tensor(spec.neuron.initial_membrane)
    mem = [
        torch.zeros(batch, w.shape[0], dtype=torch.float32) + (initial if i < layers - 1 else 0.0)
        for i, w in enumerate(weights)
    ]
    syn = [torch.zeros_like(m) for m in mem]
    counts = [torch.zeros_like(m) for m in mem[: spec.spiking_layers]]
    input_counts = torch.zeros_like(x)
    next_spike = torch.ones_like(x)  # equidistant: the number n of each input's next spike
    total = torch.zeros_like(mem[-1])  # mean_potential: sum of the last layer's potentials
    first = torch.zeros_like(mem[-1])  # first_spike: the answer, once there is one
    answered = torch.zeros(batch, 1, dtype=torch.bool)
    spike_record: list[list[Tensor]] = [[] for _ in counts]
    potential_record: list[list[Tensor]] = [[] for _ in mem]

    for t in range(spec.timesteps):
        if spec.encoding == "constant":
            inputs = x
        elif spec.encoding == "poisson":
            inputs = (uniform(t, batch, x.shape[1], seed, first_sample) <= x).float()
        else:
            fired = (x > 0) & (torch.round(next_spike / x) == t)
            next_spike = next_spike + fired
            inputs = fired.float()
        input_counts += inputs
        for i in range(layers):
            fires = i < spec.spiking_layers
            h = layer_current(inputs, weights[i], biases[i])
            mem[i], syn[i], inputs = step(mem[i], syn[i], h, spec.neuron, fires)
            if fires:
                counts[i] += inputs
                if "spikes" in record:
                    spike_record[i].append(inputs)
            if "potentials" in record:
                potential_record[i].append(mem[i])
        total = total + mem[-1]
        if spec.last_layer_fires:
            now = (inputs > 0).any(dim=1, keepdim=True) & ~answered
            first = torch.where(now, inputs, first)
            answered |= now

    output = {
        "potential": lambda: mem[-1],
        "mean_potential": lambda: total / torch.tensor(spec.timesteps, dtype=torch.float32),
        "spikes": lambda: counts[-1].clone(),
        "first_spike": lambda: first,
    }[spec.decoding]()
    return Simulation(
        output=output,
        spike_counts=counts,
        input_spike_counts=None if spec.encoding == "constant" else input_counts,
        spikes=[torch.stack(s) for s in spike_record] if "spikes" in record else None,
        potentials=[torch.stack(p) for p in potential_record] if "potentials" in record else None,
    )


def if_forward(current: Tensor, v0: Tensor, threshold: float, order: Order) -> tuple[Tensor, Tensor]:
    """One layer of integrate-and-fire neurons over time; see :func:`snnfast.if_forward`."""
    neuron = NeuronSpec(threshold=threshold, order=order)
    mem, syn = v0.clone(), torch.zeros_like(v0)
    spikes = torch.zeros_like(current)
    for t in range(current.shape[0]):
        mem, syn, spikes[t] = step(mem, syn, current[t], neuron, fires=True)
    return spikes, mem
