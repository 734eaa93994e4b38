# SPDX-License-Identifier: Apache-2.0
"""Networks with a code (:mod:`snnfast.spec.codes`) in plain torch, one function per family.

All currents are canonical sums, as in :mod:`snnfast.reference.plain`: one float32 chain, inputs ascending, one term
``weight * value`` per original neuron, where the value is what that neuron and its copies have sent: a whole number of
the smallest spikes, or a digit times its worth.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor

from snnfast.reference.plain import encode, layer_current
from snnfast.reference.simulation import Simulation
from snnfast.spec import DigitsCode, FloatArray, NetworkSpec, RadixCode, RateCode, StagedCode
from snnfast.spec.certificate import MOST_ACTIVATION, Certificate, certificate


def _tensor(array: FloatArray) -> Tensor:
    """A copy: what a description holds cannot be written to, and torch wants to be able to."""
    return torch.from_numpy(array.copy())


class _Run:
    """What all codes share: weights, the first layer's constant current, counts, records, and who has stopped."""

    def __init__(self, spec: NetworkSpec, observations: Tensor, record: Collection[str]) -> None:
        self.spec = spec
        self.weights = [_tensor(w) for w in spec.synapse_weights]
        self.biases = [None if b is None else _tensor(b) for b in spec.biases]
        self.batch, self.hidden = observations.shape[0], len(self.weights) - 1
        features = encode(spec, observations)
        self.first_current = self.current(0, features)
        self.counts = [self.zeros(i) for i in range(self.hidden)]
        self.steps = torch.zeros(self.batch)
        self.running = torch.ones(self.batch, dtype=torch.bool)  # samples that have not stopped
        self.certified = torch.zeros(self.batch)
        self.saturated = torch.zeros(self.batch, dtype=torch.bool)
        self.output = self.zeros(self.hidden)
        self.record = record
        self.spikes: list[list[Tensor]] = [[] for _ in range(self.hidden)]
        self.potentials: list[list[Tensor]] = [[] for _ in self.weights]
        self.certificate: Certificate | None = certificate(spec)
        if self.certificate is not None and self.certificate.largest is not None:
            largest = _tensor(self.certificate.largest).unsqueeze(0)
            self.terms = layer_current(features.abs(), largest, None)  # (B, 1), see Certificate

    def zeros(self, layer: int) -> Tensor:
        return torch.zeros(self.batch, self.weights[layer].shape[0])

    def current(self, layer: int, values: Tensor) -> Tensor:
        """What the layer receives of these values, its bias included."""
        return layer_current(values, self.weights[layer], self.biases[layer])

    def bias(self, layer: int) -> Tensor:
        bias = self.biases[layer]
        return self.zeros(layer) if bias is None else self.zeros(layer) + bias

    def note(self, layer: int, sent: Tensor, spikes: Tensor, potential: Tensor) -> None:
        """Count and record one step of a hidden layer: what was sent on balance, and how many spikes that took."""
        alive = self.running.unsqueeze(1)
        self.counts[layer] += torch.where(alive, spikes, 0.0)
        if "spikes" in self.record:
            self.spikes[layer].append(torch.where(alive, sent, 0.0))
        self.note_potential(layer, potential)

    def note_potential(self, layer: int, potential: Tensor) -> None:
        if "potentials" in self.record:
            self.potentials[layer].append(torch.where(self.running.unsqueeze(1), potential, 0.0))

    def stop(self, t: int, last: bool, output: Tensor, sure: Tensor | None) -> None:
        """End of step ``t`` (from 0) of those that can be the last: samples stop there if they may, or must."""
        leave = self.spec.early_exit
        stopping = torch.full_like(self.running, last)
        if leave is not None and leave.bounds is not None:
            best = output.topk(2, dim=1).values
            stopping |= best[:, 0] - best[:, 1] > _tensor(leave.bounds)[t]
        elif leave is not None:
            assert sure is not None
            stopping |= sure
            self.certified = torch.where(self.running & sure, 1.0, self.certified)
        now = self.running & stopping
        self.output = torch.where(now.unsqueeze(1), output, self.output)
        self.running &= ~stopping

    def leads(self, output: Tensor, worst: Tensor) -> Tensor:
        """Whether the largest output stays the largest, whatever comes: ``worst`` (B, n_out) may come, at worst."""
        assert self.certificate is not None
        top = output.argmax(dim=1, keepdim=True)
        ahead = (output.gather(1, top) - output) + worst > torch.tensor(self.certificate.slack)
        return (ahead | (torch.arange(output.shape[1]) == top)).all(dim=1)

    def result(self) -> Simulation:
        leave = self.spec.early_exit
        certified = leave is not None and leave.kind == "certified"
        return Simulation(
            output=self.output,
            spike_counts=self.counts,
            input_spike_counts=None,
            spikes=[torch.stack(s) for s in self.spikes] if "spikes" in self.record else None,
            potentials=[torch.stack(p) for p in self.potentials] if "potentials" in self.record else None,
            steps=None if leave is None else self.steps,
            certified=self.certified if certified else None,
            saturated=self.saturated.float() if isinstance(self.spec.code, DigitsCode) else None,
        )


def clip(value: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """The value from ``low`` to ``high``; what is not a number becomes ``low``, and zero has no sign."""
    value = torch.where(value > low, value, low)
    return torch.where(value < high, value, high)


class Copies:
    """The copies of the neurons of a layer, whose potentials stay threshold / copies apart: the lowest tells them all.

    All of them receive the same current, and one that fires gives up a threshold, so falls as far below the lowest one
    as neighbours lie apart. So ``i`` of them fire where the lowest one reaches the ``i``-th level, ``i`` threshold /
    copies; and where it is below 0 by more than ``i - 1`` levels, ``i`` take a spike back if ``signed``, but no more
    than all have sent on balance: those that fired last are the lowest.

    Attributes:
        mem: membrane potential of the lowest copy, (B, N).
        net: positive less negative spikes of all copies so far, (B, N).
    """

    def __init__(self, run: _Run, layer: int, copies: int, signed: bool) -> None:
        self.levels = _tensor(run.spec.copies_levels(copies))
        self.signed = signed
        self.mem = run.zeros(layer) + torch.tensor(run.spec.copies_start(copies))
        self.net = run.zeros(layer)

    def step(self, h: Tensor) -> Tensor:
        """One step under the current (B, N); how many copies fire, less how many take a spike back."""
        raised = self.mem + h
        fire = (raised.unsqueeze(-1) >= self.levels).sum(dim=-1)
        if self.signed:
            below = torch.cat([torch.zeros(1), -self.levels[:-1]])
            back = (raised.unsqueeze(-1) < below).sum(dim=-1)
            back = torch.minimum(back, self.net.to(back.dtype).clamp(max=len(self.levels)))
        else:
            back = torch.zeros_like(fire)
        moves = torch.cat([torch.zeros(1), self.levels])
        self.mem = raised - (moves[fire] - moves[back])  # one of them is 0
        sent = (fire - back).float()
        self.net = self.net + sent
        return sent


def simulate_rate(run: _Run, code: RateCode) -> None:
    """Every layer at every step. One step of a hidden layer: :class:`Copies`; the last one adds its currents up."""
    spec = run.spec
    neurons = [Copies(run, i, code.copies, code.signed) for i in range(run.hidden)]
    total, weighted = run.zeros(run.hidden), run.zeros(run.hidden)
    leaves = spec.early_exit is not None
    step_weights = _tensor(spec.running_weights if leaves else spec.step_weights)
    divisors = _tensor(spec.running_divisors)
    for t in range(spec.timesteps):
        h = run.first_current
        for i in range(run.hidden):
            sent = neurons[i].step(h)
            run.note(i, sent, sent.abs(), neurons[i].mem)
            h = run.current(i + 1, sent)
        total = total + h  # the last layer's membrane potential
        parabolic = spec.decoding == "parabolic_potential"
        weighted = weighted + (step_weights[t] * (total if leaves else h) if parabolic else total)
        run.note_potential(run.hidden, total)
        run.steps += run.running
        decoded = total if spec.decoding == "potential" else weighted
        if leaves:
            decoded = decoded / divisors[t]
        elif spec.decoding == "mean_potential":
            decoded = decoded / torch.tensor(float(spec.timesteps))
        run.stop(t, t == spec.timesteps - 1, decoded, None)


def radix_spikes(z: Tensor, bits: int, offset: float) -> tuple[list[Tensor], list[Tensor]]:
    """Spikes and potentials of radix neurons with the number z to send, step by step: the definition.

    ``v = clip(M z + offset) / 2**(K-1)``; each step: spike if v >= 1; ``v = 2 (v - spike)``. All of it but ``M z +
    offset`` is exact in float32.
    """
    levels = float(2**bits - 1)
    v = torch.floor(clip(levels * z + offset, 0.0, levels)) / 2.0 ** (bits - 1)
    spikes, potentials = [], []
    for _ in range(bits):
        s = (v >= 1).float()
        v = 2.0 * (v - s)
        spikes.append(s)
        potentials.append(v)
    return spikes, potentials


def simulate_turns(run: _Run, code: StagedCode | RadixCode) -> None:
    """Layer after layer: each sends for T steps, from the complete number that it has received."""
    spec, steps = run.spec, run.spec.timesteps
    z = run.first_current
    for i in range(run.hidden):
        last = i == run.hidden - 1
        received = torch.zeros_like(z)  # in whole smallest spikes
        if isinstance(code, RadixCode):
            bits, potentials = radix_spikes(z, steps, float(spec.neuron.initial_membrane))
        else:
            neurons = Copies(run, i, code.copies, signed=False)
        for t in range(steps):
            if isinstance(code, RadixCode):
                sent, potential, worth = bits[t], potentials[t], float(2 ** (steps - 1 - t))
            else:
                sent, worth = neurons.step(z), float(steps - t if code.ramp else 1)
                potential = neurons.mem
            run.note(i, sent, sent, potential)
            run.steps += run.running
            received = received + sent * worth
            if last:
                output = run.current(run.hidden, received)
                run.note_potential(run.hidden, output)
                run.stop(t, t == steps - 1, output, _radix_sure(run, t, output))
        z = run.current(i + 1, received)


def _radix_sure(run: _Run, t: int, output: Tensor) -> Tensor | None:
    tables = run.certificate
    if tables is None:
        return None
    assert tables.left is not None
    assert tables.overtake is not None
    return run.leads(output, torch.tensor(tables.left[t]) * _tensor(tables.overtake)[output.argmax(dim=1)])


def simulate_digits(run: _Run, code: DigitsCode) -> None:
    """Every layer at every step, each sending a digit of what it has still to send."""
    spec = run.spec
    drive = [run.first_current, *(run.bias(i) for i in range(1, run.hidden))]
    sent = [run.zeros(i) for i in range(run.hidden)]
    output = run.bias(run.hidden)
    for t in range(spec.timesteps):
        for i in range(run.hidden):
            value, threshold = (_tensor(table[i][t]) for table in (code.values, code.thresholds))
            wanted = drive[i] if code.guards is None else drive[i] - _tensor(code.guards[i][t])
            residual = clip(wanted) - sent[i]
            up = (residual >= threshold) & (value > 0)
            down = (residual <= -threshold) & (value > 0) & (code.guards is None)
            spikes = up.float() - down.float()
            worth = spikes * value
            sent[i] = sent[i] + worth
            run.note(i, spikes, spikes.abs(), clip(drive[i]) - sent[i])
            arriving = layer_current(worth, run.weights[i + 1], None)
            if i + 1 < run.hidden:
                drive[i + 1] = drive[i + 1] + arriving
            else:
                output = output + arriving
        run.note_potential(run.hidden, output)
        run.steps += run.running
        above = torch.stack([~(d <= 1).all(dim=1) for d in drive]).any(dim=0)  # or not a number
        run.saturated = torch.where(run.running, above, run.saturated)
        sure = _digits_sure(run, t, drive, sent[-1], output)
        run.stop(t, t == spec.timesteps - 1, output, None if sure is None else sure & ~above)


def _digits_sure(run: _Run, t: int, drive: list[Tensor], sent: Tensor, output: Tensor) -> Tensor | None:
    tables = run.certificate
    if tables is None:
        return None
    assert tables.drift is not None
    assert tables.rounding is not None
    inside = torch.ones(run.batch, dtype=torch.bool)
    most = [1.0] * (run.hidden - 1) + [MOST_ACTIVATION]
    for z, drift, rounding, limit in zip(drive, tables.drift, tables.rounding, most, strict=True):
        moves = _tensor(drift[t]) + run.terms * _tensor(rounding)
        inside &= (z + moves <= limit).all(dim=1)
    low = clip(drive[-1] - moves, 0.0, math.inf) - sent
    high = clip(drive[-1] + moves, 0.0, math.inf) - sent
    weights = run.weights[-1]
    top, worst = output.argmax(dim=1), torch.zeros_like(output)
    for j in range(weights.shape[1]):
        difference = weights[top, j].unsqueeze(1) - weights[:, j]
        worst = worst + torch.minimum(difference * low[:, j : j + 1], difference * high[:, j : j + 1])
    return inside & run.leads(output, worst)


def simulate(spec: NetworkSpec, observations: Tensor, *, record: Collection[str] = ()) -> Simulation:
    """Run a network with a code for all its time steps. Arguments as for :func:`snnfast.reference.simulate`."""
    run = _Run(spec, observations, record)
    if isinstance(spec.code, RateCode):
        simulate_rate(run, spec.code)
    elif isinstance(spec.code, DigitsCode):
        simulate_digits(run, spec.code)
    else:
        assert spec.code is not None
        simulate_turns(run, spec.code)
    return run.result()
