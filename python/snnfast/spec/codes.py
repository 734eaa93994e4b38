# SPDX-License-Identifier: Apache-2.0
"""How hidden neurons tell each other a number in spikes over time, and when a decision may stop early.

Without a code a network is made of plain integrate-and-fire neurons (:class:`snnfast.NeuronSpec`): a number is a firing
rate, and every layer runs at every step. The codes here are variations of that neuron. All of them are made of reset by
subtraction; what differs is when a layer fires, what a spike is worth, and whether it has a sign.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from snnfast.spec.checks import FloatArray, as_array, check_choice, check_count, plain_array

#: More copies of a neuron than this are taken for a mistake.
MAX_COPIES = 256
#: Radix codes of more bits than this do not fit into float32.
MAX_BITS = 20


@dataclasses.dataclass(frozen=True)
class RateCode:
    """All layers fire at every step; a number is a firing rate.

    Every hidden neuron may be several ``copies`` with the same input current and staggered starts, copy j at
    ``(j + initial_potential) / copies`` of the threshold; each of their spikes is worth ``1 / copies``. As a set their
    potentials stay that far apart, so the lowest one is computed, in float32, and stands for them all. With ``signed``
    a neuron takes back a spike that came too early: at a membrane potential below 0 it sends a spike of -1, and the
    threshold is added, as long as it has sent more positive than negative spikes.

    Hardware: any with integrate-and-fire neurons; ``signed`` needs a second, negative line or graded spikes.
    Equals: no quantised network exactly; close to one of ``copies * timesteps`` levels.

    Source: Wang, Zhang et al. 2022, IJCAI, Signed Neuron with Memory; Lv et al. 2024, ICASSP, arXiv 2402.19061, group
    neurons (relatives of the copies).
    """

    copies: int = 1
    signed: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "copies", check_count("copies", self.copies, maximum=MAX_COPIES))
        if not isinstance(self.signed, bool):
            raise TypeError(f"signed must be True or False, got {self.signed!r}")


@dataclasses.dataclass(frozen=True)
class StagedCode:
    """One hidden layer after the other fires for ``timesteps`` steps, each from the complete number of the one before.

    A neuron that is to send z fires ``clip(floor(T z + 1/2), 0, T)`` times in its T steps; with copies (see
    :class:`RateCode`) ``clip(floor(k T z + 1/2), 0, k T)`` times together. With ``ramp`` the receiver weighs the spike
    of step t with ``(T - t + 1) / (T (T + 1) / 2)`` instead of ``1 / T``, which averages the membrane's residue away.

    Hardware: layers that wait for each other (a window per layer); ``ramp`` needs a second integrator at the receiver.
    Equals: without ramp a ReLU network whose activations have T (k T) levels, as in QCFS (Bu et al. 2022, ICLR).
    """

    ramp: bool = False
    copies: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "copies", check_count("copies", self.copies, maximum=MAX_COPIES))
        if not isinstance(self.ramp, bool):
            raise TypeError(f"ramp must be True or False, got {self.ramp!r}")


@dataclasses.dataclass(frozen=True)
class RadixCode:
    """Staged, and a spike is worth half of the one before: ``timesteps`` K are the bits of an activation.

    The membrane doubles at every step (beta = 2): from ``v = floor(M z + 1/2) / 2**(K-1)``, clipped to its
    range, with ``M = 2**K - 1``, each step is ``spike = v >= 1; v = 2 (v - spike)``. In closed form the spikes are the
    bits, highest first, of ``n = clip(floor(M z + 1/2), 0, M)``: doubling and subtracting are exact in float32.

    Hardware: a window per layer, binary spikes, weights (or thresholds) that halve from step to step.
    Equals: a ReLU network whose activations have 2**K levels, uniformly spaced (QCFS with L = 2**K - 1).

    Source: Efficient spiking neural networks with radix encoding, IEEE TNNLS 35(3), 2024; Stoeckl and Maass,
    arXiv 2002.00860.
    """


@dataclasses.dataclass(frozen=True, eq=False)
class DigitsCode:
    """Signed digits of falling worth, all layers at once: each step corrects what has been sent towards the target.

    Neuron i of a hidden layer knows what it has sent so far, x (from 0), and what its input says by now, the drive
    ``z = b + W x'`` of the values x' that the layer before has sent. At step t it compares them and sends a
    digit::

        r = clip(z, 0, 1) - x
        s = +1 if r >= threshold[t,i], -1 if r <= -threshold[t,i], else 0
        x += s value[t,i]

    With ``guards`` g the digits are binary: ``s = 1 if clip(z - g[t,i], 0, 1) - x >= threshold[t,i] else 0``.
    :func:`snnfast.conversion.digits.schedule` makes the tables, backwards from the last step, such that every neuron
    ends within half its last digit of its target, whatever the input.

    Hardware: signed spikes (two lines, a sign bit or a pair of neurons) and a table of T numbers per neuron; what a
    digit is worth can travel as a graded spike. With guards binary spikes suffice.
    Equals: a ReLU network with quantised activations, one step size per neuron, evaluated most significant digit first.

    Args:
        values: per hidden layer (T, n): what a spike of that step is worth; 0 where the neuron is silent.
        thresholds: per hidden layer (T, n), positive; where ``values`` is 0 the neuron is silent whatever it says.
        remaining: per hidden layer (T, n): the most that x may still differ from the target after that step.
        guards: per hidden layer (T, n), or ``None``.

    Raises:
        TypeError, ValueError: naming the argument, what was required and what arrived.
    """

    values: tuple[FloatArray, ...]
    thresholds: tuple[FloatArray, ...]
    remaining: tuple[FloatArray, ...]
    guards: tuple[FloatArray, ...] | None = None

    def __post_init__(self) -> None:
        for name in self.tables():
            given: Any = getattr(self, name)
            if isinstance(given, np.ndarray) or not isinstance(given, Sequence) or len(given) == 0:
                raise TypeError(
                    f"{name} must be a sequence of arrays, one per hidden layer, got {type(given).__name__}"
                )
            object.__setattr__(self, name, tuple(as_array(f"{name}[{i}]", a, 2) for i, a in enumerate(given)))
            shapes = [a.shape for a in getattr(self, name)]
            wanted = [(self.timesteps, n) for n in self.sizes]
            if shapes != wanted:
                raise ValueError(
                    f"{name} must have the shapes {wanted} (steps, neurons) per hidden layer, got {shapes}"
                )
            for i, array in enumerate(getattr(self, name)):
                if array.min() < 0:
                    raise ValueError(f"{name}[{i}] must not be negative, got {array.min()}")
        for i, (value, threshold) in enumerate(zip(self.values, self.thresholds, strict=True)):
            if not (threshold[value > 0] > 0).all():
                raise ValueError(f"thresholds[{i}] must be positive wherever values[{i}] is, got 0")

    def tables(self) -> tuple[str, ...]:
        """The names of the tables that there are."""
        return ("values", "thresholds", "remaining") + (() if self.guards is None else ("guards",))

    @property
    def timesteps(self) -> int:
        """Steps T of a decision."""
        return int(self.values[0].shape[0])

    @property
    def sizes(self) -> tuple[int, ...]:
        """Neurons of every hidden layer."""
        return tuple(int(v.shape[1]) if v.ndim == 2 else 0 for v in self.values)


Code: TypeAlias = RateCode | StagedCode | RadixCode | DigitsCode
_NAMES: dict[str, type[RateCode] | type[StagedCode] | type[RadixCode] | type[DigitsCode]] = {
    "rate": RateCode,
    "staged": StagedCode,
    "radix": RadixCode,
    "digits": DigitsCode,
}

ExitKind = Literal["calibrated", "certified"]


def code_name(code: Code) -> str:
    """ "rate", "staged", "radix" or "digits"."""
    return next(name for name, kind in _NAMES.items() if type(code) is kind)


@dataclasses.dataclass(frozen=True, eq=False)
class EarlyExit:
    """When a decision may stop before its last step. Each sample of a batch stops by itself.

    Args:
        kind: ``"calibrated"``: after the first step t whose margin, the largest running output less the second, is
            above ``bounds[t]`` (``RateCode``, ``DigitsCode``). ``"certified"``: after the first step from which nothing
            that may still come can change the decision (``RadixCode``: that of all its bits; ``DigitsCode``: that of
            the original ReLU network; a decision where a neuron is driven above its range is not certified, and runs to
            the end).
        bounds: (T,), of "calibrated"; infinity where the decision must go on. ``None`` otherwise.

    Source: for margins Wu et al. 2023, arXiv 2301.09522 (cutoff); the certificates: docs/conversion.md.
    """

    kind: ExitKind
    bounds: FloatArray | None = None

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ExitKind)
        if (self.bounds is None) != (self.kind == "certified"):
            raise ValueError(f"bounds must be given for kind 'calibrated' and for no other, got kind {self.kind!r}")
        if self.bounds is not None:
            given = plain_array("bounds", self.bounds)
            if given.dtype.kind not in "fiu":
                raise TypeError(f"bounds must hold real numbers, got {given.dtype}")
            with np.errstate(over="ignore"):
                bounds = np.array(given, dtype=np.float32)
            if bounds.ndim != 1 or not len(bounds) or np.isnan(bounds).any() or bounds.min() < 0:
                raise ValueError("bounds must be one number per step, none negative or not a number")
            bounds.flags.writeable = False
            object.__setattr__(self, "bounds", bounds)


def code_to_json(code: Code | None) -> tuple[dict[str, Any] | None, dict[str, FloatArray]]:
    """A code as JSON, and the arrays that go with it by name: what a checkpoint holds of it."""
    if code is None:
        return None, {}
    if isinstance(code, DigitsCode):
        arrays = {f"digits.{name}.{i}": a for name in code.tables() for i, a in enumerate(getattr(code, name))}
        return {"name": "digits", "layers": len(code.values), "tables": list(code.tables())}, arrays
    return {"name": code_name(code), **dataclasses.asdict(code)}, {}


def code_from_json(about: dict[str, Any] | None, arrays: dict[str, Any]) -> Code | None:
    """What :func:`code_to_json` was given.

    Raises:
        KeyError, TypeError, ValueError: if it describes no code.
    """
    if about is None:
        return None
    options = dict(about)
    name = options.pop("name")
    if name not in _NAMES:
        raise ValueError(f"code must be one of {', '.join(map(repr, _NAMES))}, got {name!r}")
    if name == "digits":
        layers = check_count("layers", options["layers"], maximum=4096)
        tables = {t: tuple(arrays[f"digits.{t}.{i}"] for i in range(layers)) for t in options["tables"]}
        return DigitsCode(**tables)
    return _NAMES[name](**options)
