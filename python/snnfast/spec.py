# SPDX-License-Identifier: Apache-2.0
"""Plain descriptions of a spiking network: what it is, not how it runs.

Everything here is checked once, when the description is made. Every backend, the reference included, starts from a
:class:`NetworkSpec` and may trust it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

Order = Literal["immediate", "delayed"]
Reset = Literal["subtraction", "zero"]
Encoding = Literal["constant", "equidistant", "poisson"]
Decoding = Literal["potential", "mean_potential", "spikes", "first_spike"]
FloatArray = npt.NDArray[np.float32]

#: Spike counts are returned as float32, which counts exactly up to here.
MAX_TIMESTEPS = 2**24


def check_choice(name: str, value: object, choices: Any) -> None:
    """Raise a ``ValueError`` that lists the choices unless ``value`` is one of the ``Literal`` type ``choices``."""
    allowed = get_args(choices)
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def check_count(name: str, value: object, *, minimum: int = 1, maximum: int | None = None) -> int:
    """Return ``value`` as an ``int``; raise if it is no whole number or out of range."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {value!r} ({type(value).__name__})")
    if value < minimum or (maximum is not None and value > maximum):
        limit = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise ValueError(f"{name} must be {limit}, got {value}")
    return int(value)


def check_seed(seed: object) -> int:
    """Return a seed as an ``int`` in [0, 2**64); raise otherwise."""
    return check_count("seed", seed, minimum=0, maximum=2**64 - 1)


def check_float(name: str, value: object) -> float:
    """Return ``value`` as a finite ``float`` that float32 can hold; raise otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")
    try:
        number = float(value)
    except OverflowError:  # an integer beyond every float
        number = math.inf
    if not abs(number) <= float(np.finfo(np.float32).max):
        raise ValueError(f"{name} must be finite and within the range of float32, got {number!r}")
    return number


@dataclasses.dataclass(frozen=True)
class NeuronSpec:
    """The integrate-and-fire neuron, the same for every layer of a network.

    With input current ``h`` (weights times input, plus bias), synaptic current ``syn`` and membrane potential ``mem``,
    one time step of order ``"immediate"`` is::

        syn = alpha * syn + h;   mem = beta * mem + syn;   spike = mem >= threshold;   reset

    and one of order ``"delayed"`` (a one-step synaptic delay, as in SpyTorch) is::

        spike = mem > threshold;   mem = beta * mem + syn - threshold * spike;   syn = alpha * syn + h

    Args:
        alpha: decay of the synaptic current per step, 0 = none is kept.
        beta: decay of the membrane potential per step, 1 = no leak.
        threshold: firing threshold, positive, in the unit of the membrane potential.
        reset: ``"subtraction"`` of the threshold after a spike (soft reset), or ``"zero"``, which sets the membrane
            to 0 (in delayed order that step's synaptic current is lost with it).
        order: see above. ``"immediate"`` is the field's usual order; ``"delayed"`` is that of the 2020 thesis system.
        initial_potential: membrane potential of hidden neurons before the first step, as a fraction of the threshold.

    Raises:
        TypeError, ValueError: if an argument is of the wrong kind, not finite, or out of range.

    Source: Rueckauer et al. 2017, Frontiers in Neuroscience 11:682 (reset by subtraction); Zenke and Ganguli 2018
    (SuperSpike) and its SpyTorch tutorial (delayed order); Bu et al. 2022, AAAI (initial potential 1/2).
    """

    alpha: float = 0.0
    beta: float = 1.0
    threshold: float = 1.0
    reset: Reset = "subtraction"
    order: Order = "immediate"
    initial_potential: float = 0.0

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "threshold", "initial_potential"):
            object.__setattr__(self, name, check_float(name, getattr(self, name)))
        for name in ("alpha", "beta"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)!r}")
        if not np.float32(self.threshold) > 0:
            raise ValueError(f"threshold must be positive (as float32), got {self.threshold!r}")
        if not np.isfinite(self.initial_membrane):
            raise ValueError(f"initial_potential * threshold must be finite, got {self.initial_potential!r}")
        check_choice("reset", self.reset, Reset)
        check_choice("order", self.order, Order)

    @property
    def initial_membrane(self) -> np.float32:
        """The hidden layers' membrane potential before the first step, rounded as every backend must round it."""
        with np.errstate(over="ignore"):
            product: np.float32 = np.float32(self.initial_potential) * np.float32(self.threshold)
            return product


def _as_array(name: str, value: object, dimensions: int) -> FloatArray:
    """A private, contiguous float32 copy of a tensor or array, refused unless finite and of the given rank."""
    if isinstance(value, torch.Tensor):
        if value.device.type == "meta" or value.layout != torch.strided:
            raise TypeError(f"{name} must be a dense tensor with data, got one on {value.device} ({value.layout})")
        value = value.detach().cpu().numpy() if value.dtype != torch.bfloat16 else value.detach().cpu().float().numpy()
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must hold real numbers, got {array.dtype}")
    if array.ndim != dimensions:
        raise ValueError(f"{name} must have {dimensions} dimension{'s'[: dimensions != 1]}, got shape {array.shape}")
    if array.size == 0:
        raise ValueError(f"{name} must not be empty, got shape {array.shape}")
    with np.errstate(over="ignore"):
        copy = np.array(array, dtype=np.float32, order="C", copy=True)
    bad = np.argwhere(~np.isfinite(copy))
    if len(bad):
        at = tuple(int(i) for i in bad[0])
        raise ValueError(f"{name} must be finite in float32, got {array[at]!r} at index {at} ({len(bad)} such values)")
    copy.flags.writeable = False
    return copy


@dataclasses.dataclass(frozen=True, eq=False)
class NetworkSpec:
    """A whole spiking network: weights, neuron, and how numbers become spikes and spikes become numbers.

    Args:
        weights: per layer an array or tensor (n_out, n_in), as in ``torch.nn.Linear``. Copied as float32.
        biases: per layer (n_out,) or ``None``; ``None`` for no biases at all.
        neuron: the neuron's constants and update order.
        timesteps: number of steps T that a decision takes.
        encoding: ``"constant"`` (the observation is the input of every step), ``"equidistant"`` (regular spikes: the
            n-th one at step round(n / x), n = 1, 2, ..., halves to even, the division in float32) or ``"poisson"``
            (random spikes with the observation as probability). Both kinds of spikes are meant for values from 0 to 1:
            an equidistant input above 1 misses the step of an early spike and is then silent, as in the thesis system.
        decoding: ``"potential"`` (the last layer accumulates without firing; its final membrane potential),
            ``"mean_potential"`` (the time average of it), ``"spikes"`` (the last layer fires; its spike counts) or
            ``"first_spike"`` (its 0/1 vector at the first step in which any of its neurons fires, else zeros).
        split_inputs: encode ``[max(x, 0), max(-x, 0)]`` with weights ``[W, -W]``.
        bias_input: append a constant 1 to the observation, before splitting and encoding; the first weights carry
            that column, so an observation has one feature less than ``weights[0]`` has columns.

    Raises:
        TypeError, ValueError: naming the argument, what was required and what arrived.
    """

    weights: tuple[FloatArray, ...]
    biases: tuple[FloatArray | None, ...]
    neuron: NeuronSpec
    timesteps: int
    encoding: Encoding = "constant"
    decoding: Decoding = "potential"
    split_inputs: bool = False
    bias_input: bool = False

    def __post_init__(self) -> None:
        arrived: Any = self.weights
        if isinstance(arrived, (torch.Tensor, np.ndarray)) or not isinstance(arrived, Sequence):
            raise TypeError(f"weights must be a sequence of arrays, one per layer, got {type(arrived).__name__}")
        if len(arrived) == 0:
            raise ValueError("weights must have at least one layer, got none")
        weights = tuple(_as_array(f"weights[{i}]", w, 2) for i, w in enumerate(arrived))
        given: Any = self.biases if self.biases is not None else (None,) * len(weights)
        if isinstance(given, (torch.Tensor, np.ndarray)) or not isinstance(given, Sequence):
            raise TypeError(f"biases must be a sequence, one entry per layer, or None, got {type(given).__name__}")
        if len(given) != len(weights):
            raise ValueError(f"biases must have one entry per layer ({len(weights)}), got {len(given)}")
        biases = tuple(None if b is None else _as_array(f"biases[{i}]", b, 1) for i, b in enumerate(given))
        for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
            if i and w.shape[1] != weights[i - 1].shape[0]:
                raise ValueError(
                    f"weights[{i}] must have {weights[i - 1].shape[0]} columns, the outputs of layer {i - 1}, "
                    f"got shape {w.shape}"
                )
            if b is not None and b.shape[0] != w.shape[0]:
                raise ValueError(f"biases[{i}] must have shape ({w.shape[0]},), got {b.shape}")
        if not isinstance(self.neuron, NeuronSpec):
            raise TypeError(f"neuron must be a NeuronSpec, got {type(self.neuron).__name__}")
        for name in ("split_inputs", "bias_input"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.bias_input and weights[0].shape[1] < 2:
            raise ValueError("weights[0] must have at least 2 columns when bias_input is set, got 1")
        check_choice("encoding", self.encoding, Encoding)
        check_choice("decoding", self.decoding, Decoding)
        timesteps = check_count("timesteps", self.timesteps, maximum=MAX_TIMESTEPS)
        for name, value in (("weights", weights), ("biases", biases), ("timesteps", timesteps)):
            object.__setattr__(self, name, value)

    @property
    def n_in(self) -> int:
        """Features of one observation."""
        return int(self.weights[0].shape[1]) - int(self.bias_input)

    @property
    def n_out(self) -> int:
        """Numbers that one observation gives."""
        return int(self.weights[-1].shape[0])

    @property
    def sizes(self) -> tuple[int, ...]:
        """Features of an observation, then the neurons of every layer."""
        return (self.n_in, *(w.shape[0] for w in self.weights))

    @property
    def last_layer_fires(self) -> bool:
        """Whether the last layer spikes like the others, or only accumulates."""
        return self.decoding in ("spikes", "first_spike")

    @property
    def spiking_layers(self) -> int:
        """How many layers, from the first on, emit spikes."""
        return len(self.weights) - (not self.last_layer_fires)

    @property
    def encoded_weights(self) -> FloatArray:
        """The first layer's weights as the encoded input meets them: (n_out, encoded features)."""
        w = self.weights[0]
        return np.concatenate([w, -w], axis=1) if self.split_inputs else w

    def plan_arguments(self) -> dict[str, Any]:
        """The description as the compiled modules' Plans take it, whichever backend they are of."""
        neuron = self.neuron
        return {
            "weights": [self.encoded_weights, *self.weights[1:]],
            "biases": list(self.biases),
            "alpha": neuron.alpha,
            "beta": neuron.beta,
            "threshold": neuron.threshold,
            "initial_membrane": float(neuron.initial_membrane),
            "reset": neuron.reset,
            "order": neuron.order,
            "timesteps": self.timesteps,
            "encoding": self.encoding,
            "decoding": self.decoding,
            "split_inputs": self.split_inputs,
            "bias_input": self.bias_input,
        }
