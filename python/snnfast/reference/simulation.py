# SPDX-License-Identifier: Apache-2.0
"""What a run of a network tells, whichever implementation ran it."""

from __future__ import annotations

import dataclasses

from torch import Tensor


@dataclasses.dataclass
class Simulation:
    """What a network did on a batch of observations.

    Attributes:
        output: decoded output, (B, n_out).
        spike_counts: per spiking layer, spikes of every neuron over all steps, (B, N), float32. Those of a neuron's
            copies are added up; spikes of either sign count.
        input_spike_counts: the same for the encoded input, (B, features), or None with constant encoding.
        spikes: per spiking layer, zeros and ones, (T, B, N), if recorded, else None. With a code: the positive less the
            negative spikes of a neuron and its copies; T are the steps of the layer's own turn where layers take turns;
            zeros after a sample has stopped.
        potentials: per layer, the membrane potential after every step, (T, B, N), if recorded, else None. With a code:
            of the lowest of a neuron's copies; of digits what a neuron has still to send; of a last layer behind layers
            that take turns what it has received in the last turn. Zeros after a sample has stopped.
        steps: steps that each sample ran, all layers' turns together, (B,), float32; None without ``early_exit``.
        certified: 1 where the decision was certified, else 0, (B,), float32; None without a certified exit.
        saturated: 1 where at the decision's last step a neuron's drive was above its range, or no number, else 0,
            (B,), float32; None but for digits.
    """

    output: Tensor
    spike_counts: list[Tensor]
    input_spike_counts: Tensor | None
    spikes: list[Tensor] | None
    potentials: list[Tensor] | None
    steps: Tensor | None = None
    certified: Tensor | None = None
    saturated: Tensor | None = None
