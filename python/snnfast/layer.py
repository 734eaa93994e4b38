# SPDX-License-Identifier: Apache-2.0
"""One layer of integrate-and-fire neurons by itself, its input current given."""

from __future__ import annotations

import torch
from torch import Tensor

from snnfast import backends, ops
from snnfast.spec import NeuronSpec, Order


def if_forward(
    current: Tensor,
    v0: Tensor,
    threshold: float = 1.0,
    order: Order = "immediate",
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Run one layer of integrate-and-fire neurons over time, with reset by subtraction.

    Each step of order ``"immediate"``: ``v += current[t]``; a neuron fires if ``v >= threshold``; firing subtracts the
    threshold. In order ``"delayed"`` a neuron fires if the old ``v > threshold``, and the current of a step reaches the
    membrane in the next one, so that of the last step does not reach it any more.

    Args:
        current: input current per step, in the unit of the threshold, (T, B, N), float32.
        v0: membrane potential before the first step, (B, N), float32. Not modified.
        threshold: firing threshold, positive.
        order: ``"immediate"`` or ``"delayed"``.
        backend: ``"auto"``, ``"reference"`` or ``"cpu"``.

    Returns:
        spikes, zeros and ones, (T, B, N), and the final membrane potential, (B, N); both float32.

    Raises:
        TypeError: if an argument is not a dense float32 tensor.
        NotImplementedError: if it requires a gradient or carries a tangent; and but for backend "reference", which is
            plain torch, in a program that torch writes down (``torch.jit.trace``) or transforms (``torch.vmap``).
        ValueError: if it is not on the CPU, a shape does not match, the threshold is not positive, or the order is
            unknown.

    Source: Rueckauer et al. 2017, Frontiers in Neuroscience 11:682, reset by subtraction.
    """
    backend = backends.resolve(backend)
    if backend != "reference":
        ops.refuse_tracing("if_forward")
    for name, tensor in (("current", current), ("v0", v0)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch tensor, got {type(tensor).__name__}")
        if tensor.dtype != torch.float32 or tensor.layout != torch.strided or tensor.is_nested:
            kind = "nested" if tensor.is_nested else f"layout {tensor.layout}"
            raise TypeError(f"{name} must be a dense float32 tensor, got {tensor.dtype}, {kind}")
        if tensor.device.type != "cpu":
            raise ValueError(f"{name} must be on the CPU, got device {tensor.device}")
        ops.refuse_gradient(name, tensor)
        if backend != "reference":
            ops.refuse_transformed(name, tensor)
    if current.ndim != 3:
        raise ValueError(f"current must have shape (T, B, N), got {tuple(current.shape)}")
    if v0.shape != current.shape[1:]:
        raise ValueError(f"v0 must have shape {tuple(current.shape[1:])}, as current asks, got {tuple(v0.shape)}")
    neuron = NeuronSpec(threshold=threshold, order=order)
    # A contiguous tensor may still be the negative view of another one, whose numbers are those in memory.
    current, v0 = (tensor.detach().contiguous().resolve_neg() for tensor in (current, v0))
    return backends.if_forward(current, v0, neuron.threshold, order, backend)
