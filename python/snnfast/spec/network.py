# SPDX-License-Identifier: Apache-2.0
"""Plain descriptions of a spiking network: what it is, not how it runs.

Everything here is checked once, when the description is made. Every backend, the reference included, starts from a
:class:`NetworkSpec` and may trust it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from snnfast.spec.checks import FloatArray, as_array, check_choice, check_count, check_float
from snnfast.spec.codes import MAX_BITS, Code, DigitsCode, EarlyExit, RadixCode, RateCode, StagedCode, code_name

Order = Literal["immediate", "delayed"]
Reset = Literal["subtraction", "zero"]
Encoding = Literal["constant", "equidistant", "poisson"]
Decoding = Literal["potential", "mean_potential", "parabolic_potential", "spikes", "first_spike"]

#: Spike counts are returned as float32, which counts exactly up to here.
MAX_TIMESTEPS = 2**24


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
            ``"mean_potential"`` (the time average of it), ``"parabolic_potential"`` (the sum of its input currents,
            that of step t weighted with ``1 - ((t - 1/2) / T)**2``), ``"spikes"`` (the last layer fires; its spike
            counts) or ``"first_spike"`` (its 0/1 vector at the first step in which any of its neurons fires, else
            zeros).
        split_inputs: encode ``[max(x, 0), max(-x, 0)]`` with weights ``[W, -W]``.
        bias_input: append a constant 1 to the observation, before splitting and encoding; the first weights carry
            that column, so an observation has one feature less than ``weights[0]`` has columns.
        code: how hidden neurons tell each other a number, see :mod:`snnfast.spec.codes`; ``None`` for plain neurons.
            Codes are made of ``NeuronSpec(order="immediate", alpha=0, beta=1, reset="subtraction")`` under constant
            encoding. With ``RateCode`` the outputs are those of plain neurons; with the other codes (threshold 1) the
            output is what the last layer has received in the end, in the unit of its weights.
        early_exit: when a decision may stop early. The output is then the running one of the step at which it
            stopped: with ``RateCode`` the mean input current so far (``"potential"``: equally weighted,
            ``"mean_potential"``: step s of t with t - s + 1, ``"parabolic_potential"``: with t (t + 1) - s (s - 1)),
            whatever the number of steps.

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
    code: Code | None = None
    early_exit: EarlyExit | None = None

    def __post_init__(self) -> None:
        arrived: Any = self.weights
        if isinstance(arrived, (torch.Tensor, np.ndarray)) or not isinstance(arrived, Sequence):
            raise TypeError(f"weights must be a sequence of arrays, one per layer, got {type(arrived).__name__}")
        if len(arrived) == 0:
            raise ValueError("weights must have at least one layer, got none")
        weights = tuple(as_array(f"weights[{i}]", w, 2) for i, w in enumerate(arrived))
        given: Any = self.biases if self.biases is not None else (None,) * len(weights)
        if isinstance(given, (torch.Tensor, np.ndarray)) or not isinstance(given, Sequence):
            raise TypeError(f"biases must be a sequence, one entry per layer, or None, got {type(given).__name__}")
        if len(given) != len(weights):
            raise ValueError(f"biases must have one entry per layer ({len(weights)}), got {len(given)}")
        biases = tuple(None if b is None else as_array(f"biases[{i}]", b, 1) for i, b in enumerate(given))
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
        self._check_code()
        self._check_early_exit()

    def _check_code(self) -> None:
        code, hidden = self.code, len(self.weights) - 1
        if code is None:
            if self.decoding != "parabolic_potential" and self.early_exit is None:
                return
            code = RateCode()  # plain neurons, with what the other decodings do not need
            object.__setattr__(self, "code", code)
        if type(code) not in (RateCode, StagedCode, RadixCode, DigitsCode):  # what a subclass adds nobody would heed
            raise TypeError(f"code must be a RateCode, StagedCode, RadixCode or DigitsCode, got {type(code).__name__}")
        name, neuron = code_name(code), self.neuron
        for option, value, wanted in (
            ("order", neuron.order, "immediate"),
            ("alpha", neuron.alpha, 0.0),
            ("beta", neuron.beta, 1.0),
            ("reset", neuron.reset, "subtraction"),
            ("encoding", self.encoding, "constant"),
        ):
            if value != wanted:
                raise ValueError(
                    f"{option} must be {wanted!r} with a code, a parabolic read-out or an early exit, got {value!r}"
                )
        if isinstance(code, RateCode):
            if self.last_layer_fires:
                raise ValueError(f"decoding must be a potential with a code or early_exit, got {self.decoding!r}")
            if code == RateCode() and self.decoding != "parabolic_potential" and self.early_exit is None:
                object.__setattr__(self, "code", None)
            if code.copies * self.timesteps > 2**24:
                raise ValueError(
                    f"timesteps * copies must be at most 2**24, so that spike counts are exact in float32, "
                    f"got {self.timesteps} * {code.copies}"
                )
            return
        if self.decoding != "potential":
            raise ValueError(f"decoding must be 'potential' with code {name!r}, got {self.decoding!r}")
        if neuron.threshold != 1.0:
            raise ValueError(f"threshold must be 1.0 with code {name!r}, got {neuron.threshold!r}")
        if hidden == 0:
            raise ValueError(
                f"weights must have at least two layers with code {name!r}: it is the hidden ones that fire"
            )
        if isinstance(code, RadixCode) and self.timesteps > MAX_BITS:
            raise ValueError(f"timesteps must be from 1 to {MAX_BITS} with code 'radix', got {self.timesteps}")
        if isinstance(code, DigitsCode):
            if neuron.initial_potential != 0.0:
                raise ValueError(f"initial_potential must be 0 with code 'digits', got {neuron.initial_potential!r}")
            if self.timesteps != code.timesteps or code.sizes != self.sizes[1:-1]:
                raise ValueError(
                    f"code must have tables for timesteps={self.timesteps} and hidden layers of {self.sizes[1:-1]} "
                    f"neurons, got {code.timesteps} and {code.sizes}"
                )
        elif not 0.0 <= neuron.initial_potential <= 1.0:
            raise ValueError(
                f"initial_potential must be from 0 to 1 with code {name!r}, got {neuron.initial_potential!r}"
            )
        if isinstance(code, StagedCode) and self._spike_unit > 2**24:
            raise ValueError(
                f"timesteps and copies must be fewer: (weighted) spike counts must be at most 2**24 to be exact in "
                f"float32, got up to {self._spike_unit}"
            )

    def _check_early_exit(self) -> None:
        leave = self.early_exit
        if leave is None:
            return
        if not isinstance(leave, EarlyExit):
            raise TypeError(f"early_exit must be an EarlyExit, got {type(leave).__name__}")
        assert self.code is not None
        name = code_name(self.code)
        possible = {
            "rate": ("calibrated",),
            "staged": (),
            "radix": ("certified",),
            "digits": ("calibrated", "certified"),
        }
        if leave.kind not in possible[name]:
            choices = " or ".join(map(repr, possible[name])) or "None"
            raise ValueError(f"early_exit must be {choices} with code {name!r}, got kind {leave.kind!r}")
        if self.n_out < 2:
            raise ValueError("weights must end in at least two outputs with early_exit: it looks at their difference")
        if leave.bounds is not None and len(leave.bounds) != self.timesteps:
            raise ValueError(f"bounds must have one number per step ({self.timesteps}), got {len(leave.bounds)}")

    @property
    def _spike_unit(self) -> int:
        """How many of the smallest spikes make an activation of 1."""
        code, steps = self.code, self.timesteps
        if isinstance(code, RateCode):
            return code.copies
        if isinstance(code, StagedCode):
            return code.copies * (steps * (steps + 1) // 2 if code.ramp else steps)
        return 2**steps - 1 if isinstance(code, RadixCode) else 1

    @property
    def synapse_weights(self) -> list[FloatArray]:
        """Per layer (n_out, n_in): what the smallest spike of an input adds; the first layer's as its input meets them.

        A spike of a copy is worth the copies' share, one of a staged code 1 of all its steps, the last bit of a radix
        code 1 of all its levels. Everything else about a code is counted in whole such spikes.
        """
        unit = np.float32(self._spike_unit)
        return [self.encoded_weights, *(w if unit == 1 else w / unit for w in self.weights[1:])]

    def copies_start(self, copies: int) -> np.float32:
        """Membrane potential of the lowest of a hidden neuron's copies before the first step."""
        start = self.neuron.initial_potential / copies * float(np.float32(self.neuron.threshold))
        return self.neuron.initial_membrane if copies == 1 else np.float32(start)

    def copies_levels(self, copies: int) -> FloatArray:
        """Membrane potentials (copies,) of the lowest copy at which one copy fires, two fire, and so on."""
        threshold = np.float32(self.neuron.threshold)
        return (np.arange(1, copies + 1) / copies * float(threshold)).astype(np.float32)

    @property
    def step_weights(self) -> FloatArray:
        """(T,): weights of the output's currents in decoding "parabolic_potential", without an early exit."""
        t = np.arange(1, self.timesteps + 1, dtype=np.float64)
        weights: FloatArray = (1.0 - ((t - 0.5) / self.timesteps) ** 2).astype(np.float32)
        return weights

    @property
    def running_weights(self) -> FloatArray:
        """(T,): weights of the output's potentials in the running output of an early exit: after t steps, ``sum_{u<=t}
        u U_u`` weighs the current of step s with ``(t (t + 1) - s (s - 1)) / 2``, a parabola that ends wherever t is.
        """
        t = np.arange(1, self.timesteps + 1, dtype=np.float32)
        return t if self.decoding == "parabolic_potential" else np.ones_like(t)

    @property
    def running_divisors(self) -> FloatArray:
        """(T,): what makes the accumulated output of the first t steps the running one of an early exit."""
        t = np.arange(1, self.timesteps + 1, dtype=np.float64)
        divisors = {"potential": t, "parabolic_potential": t * (t + 1) * (2 * t + 1) / 6}
        rounded: FloatArray = divisors.get(self.decoding, t * (t + 1) / 2).astype(np.float32)
        return rounded

    @property
    def is_staged(self) -> bool:
        """Whether hidden layers take turns, each with ``timesteps`` steps of its own."""
        return isinstance(self.code, (StagedCode, RadixCode))

    @property
    def total_steps(self) -> int:
        """Steps of a whole decision, at most: those of all layers where they take turns."""
        return self.timesteps * ((len(self.weights) - 1) if self.is_staged else 1)

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
            "weights": self.synapse_weights,
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
