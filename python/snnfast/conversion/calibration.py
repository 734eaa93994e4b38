# SPDX-License-Identifier: Apache-2.0
"""What very few steps do to activations, made good in the biases, or in all weights: learned from replay states.

With few steps an activation has few levels, and the number that a neuron's spikes tell is off by something that differs
from state to state and something that does not. The biases can take the second back ("bias"). Or the scaled network is
trained on, with activations that have exactly those levels, to decide as the original does ("qcfs").
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from snnfast.conversion.hidden import spiking_activations
from snnfast.conversion.scaling import STATES, Float64Array
from snnfast.network import SpikingNetwork
from snnfast.spec import FloatArray, NetworkSpec, RadixCode, StagedCode
from snnfast.torch_threads import one_thread

#: Makes the network that is calibrated, of weights and biases.
Build = Callable[[Sequence[FloatArray], Sequence[FloatArray | None]], SpikingNetwork]

#: Steps of fine-tuning, states per step, and the learning rate that falls to 0 along half a cosine.
TUNING_STEPS, _BATCH, _LEARNING_RATE = 1500, 512, 2e-3
#: Softness of the teacher's decisions at the start and at the end, in root mean squares of its margin.
_TAU = (0.33, 0.03)
#: Noise on the states, in standard deviations of every feature.
_JITTER = 0.1
#: How often the network that is being tuned is looked at, and the share of states that is for looking only.
_LOOKS, _LOOKED_AT = 15, 0.25
#: Replay states that the looking takes, at most.
_LOOK_STATES = 10_000


def calibrate_biases(
    build: Build,
    weights: Sequence[FloatArray],
    biases: Sequence[FloatArray | None],
    wanted: Sequence[Float64Array],
    observations: FloatArray,
) -> list[FloatArray | None]:
    """Biases with which hidden neurons tell the right number on average over the states.

    Layer by layer, those before it already calibrated, with r the activation that is wanted of a neuron and rate the
    number that its spikes tell::

        b <- b + mean over the states of (clip(r, 0, 1) - rate)

    Args:
        build: makes the spiking network of weights and biases, without early exit.
        weights, biases: per layer, scaled.
        wanted: per hidden layer (N, n), the original's activations in units of the neurons' ranges.
        observations: (N, n_in).

    Returns:
        Biases of all layers, the last one's unchanged.

    Source: Li et al. 2021, ICML, A Free Lunch From ANN, arXiv 2106.06984 (bias calibration).
    """
    states = observations[:STATES]
    found = list(biases)
    for layer, target in enumerate(wanted):
        told = spiking_activations(build(weights, found), states)[layer]
        missing = (np.clip(target[: len(states)], 0.0, 1.0) - told).mean(axis=0)
        bias = found[layer]
        found[layer] = (missing if bias is None else bias + missing).astype(np.float32)
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class Tuned:
    """The result of :func:`fine_tune`.

    Attributes:
        weights, biases: per layer, scaled.
        kept: the step after which the network was the best; 0 if that is the one before the first.
        before, after: share of equal decisions of the spiking network, on the states that were not trained on.
    """

    weights: list[FloatArray]
    biases: list[FloatArray | None]
    kept: int
    before: float
    after: float


def fine_tune(
    build: Build,
    weights: Sequence[FloatArray],
    biases: Sequence[FloatArray | None],
    teacher: Callable[[FloatArray], Float64Array],
    observations: FloatArray,
    output_scale: float,
    seed: int,
) -> Tuned:
    """Train the scaled network on, with the activations that the spikes have, towards the original's decisions.

    The student's hidden activations are the numbers that spikes can tell: ``floor(L z + v0)``, from 0 to L, divided by
    L, with L levels and the initial potential v0; with a ramp what a neuron with the constant current z tells.
    Backwards they are straight (gradient 1 where ``-v0 < L z < L + 1 - v0``, else 0). The loss is the cross entropy
    between ``softmax(teacher / tau)`` and ``softmax(student / tau)``, tau falling from 0.33 to 0.03 of the teacher's
    margin (root mean square), on batches of 512 states with noise of a tenth of every feature's standard deviation.
    Of the networks on the way, that one is kept whose spikes decide best on a quarter of the states, the last ones,
    which it is not trained on; it may be the first.

    Args:
        build: makes the spiking network of weights and biases, without early exit.
        weights, biases: per layer, scaled.
        teacher: the original network: states (N, n_in) to outputs (N, n_out).
        observations: (N, n_in), at least 8.
        output_scale: factor from the scaled network's outputs to the teacher's.
        seed: of batches and noise. The same seed gives the same network.

    Raises:
        ValueError: if there are too few states, or the teacher decides nothing on them.

    Source: Bu et al. 2022, ICLR, arXiv 2303.04347 (quantisation clip-floor-shift).
    """
    looked_at = round(len(observations) * _LOOKED_AT)
    if len(observations) < 8:
        raise ValueError(f"calibrate='qcfs' needs a replay of at least 8 states, got {len(observations)}")
    states, looking = observations[:-looked_at], observations[-looked_at:][:_LOOK_STATES]
    decisions = teacher(looking).argmax(axis=1)
    outputs = teacher(states)
    best_two = np.sort(outputs, axis=1)[:, -2:]
    margin = float(np.sqrt(np.mean((best_two[:, -1] - best_two[:, 0]) ** 2)))
    if outputs.shape[1] < 2 or not margin > 0:
        raise ValueError("calibrate='qcfs' needs a policy with at least two outputs that differ on the replay's states")

    def equal(student: _Student) -> tuple[float, list[FloatArray], list[FloatArray | None]]:
        made = student.arrays()
        return float((build(*made)(looking).argmax(axis=1) == decisions).mean()), *made

    student = _Student(weights, biases, build(weights, biases).spec, output_scale)
    best, kept = equal(student), 0
    before = best[0]
    optimiser = torch.optim.Adam(student.parameters, lr=_LEARNING_RATE)
    random = np.random.default_rng(seed)
    spread = _JITTER * states.std(axis=0)
    with one_thread(), torch.enable_grad():
        for step in range(1, TUNING_STEPS + 1):
            done = (step - 1) / TUNING_STEPS
            tau = margin * _TAU[0] * (_TAU[1] / _TAU[0]) ** done
            for group in optimiser.param_groups:
                group["lr"] = _LEARNING_RATE * 0.5 * (1.0 + math.cos(math.pi * done))
            batch = states[random.integers(len(states), size=_BATCH)]
            batch = (batch + spread * random.standard_normal(batch.shape)).astype(np.float32)
            aim = torch.softmax(torch.from_numpy(teacher(batch) / tau), dim=1).float()
            loss = functional.cross_entropy(student(torch.from_numpy(batch)) / tau, aim)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if step % (TUNING_STEPS // _LOOKS) == 0 and (found := equal(student))[0] > best[0]:
                best, kept = found, step
    return Tuned(best[1], best[2], kept, before, best[0])


class _Student:
    """The scaled network with the activations that its spikes have, and gradients for training."""

    def __init__(
        self,
        weights: Sequence[FloatArray],
        biases: Sequence[FloatArray | None],
        spec: NetworkSpec,
        output_scale: float,
    ) -> None:
        self.weights = [torch.tensor(w, requires_grad=True) for w in weights]
        # A layer without biases gets them: the levels may need them.
        self.biases = [
            torch.tensor(np.zeros(len(w), np.float32) if b is None else b, requires_grad=True)
            for w, b in zip(weights, biases, strict=True)
        ]
        self.spec, self.output_scale = spec, output_scale

    @property
    def parameters(self) -> list[Tensor]:
        return [*self.weights, *self.biases]

    def __call__(self, x: Tensor) -> Tensor:
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = functional.linear(x, weight, bias)
            if i < len(self.weights) - 1:
                x = told(x, self.spec)
        return x * self.output_scale

    def arrays(self) -> tuple[list[FloatArray], list[FloatArray | None]]:
        """Copies of what the parameters are by now."""
        weights, biases = ([p.detach().numpy().copy() for p in group] for group in (self.weights, self.biases))
        return weights, list(biases)


def levels(spec: NetworkSpec) -> int:
    """Steps that an activation can take from 0 to 1: those of all its copies; ``2**K - 1`` with radix."""
    if isinstance(spec.code, RadixCode):
        return int(2**spec.timesteps - 1)
    return spec.timesteps * getattr(spec.code, "copies", 1)


def told(z: Tensor, spec: NetworkSpec) -> Tensor:
    """The number that a neuron's spikes tell if it is to send z, with a straight gradient; see :func:`fine_tune`."""
    steps, start = levels(spec), float(spec.neuron.initial_potential)
    count = torch.floor(steps * z.detach() + start).clamp(0.0, steps)
    value = count / steps
    if isinstance(spec.code, StagedCode) and spec.code.ramp:
        value = _ramp(z.detach(), spec)
    inside = (steps * z.detach() > -start) & (steps * z.detach() < steps + 1.0 - start)
    return value + torch.where(inside, z - z.detach(), 0.0)


def _ramp(z: Tensor, spec: NetworkSpec) -> Tensor:
    """What staged neurons with a ramp tell of z: the spikes by step t are ``clip(floor(k t z + v0))``."""
    steps, copies = spec.timesteps, levels(spec) // spec.timesteps
    total, before = torch.zeros_like(z), torch.zeros_like(z)
    for t in range(1, steps + 1):
        count = torch.floor(copies * t * z + spec.neuron.initial_potential).clamp(0.0, copies * t)
        total, before = total + (steps - t + 1) * (count - before), count
    return total / (copies * steps * (steps + 1) / 2)
