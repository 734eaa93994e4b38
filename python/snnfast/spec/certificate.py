# SPDX-License-Identifier: Apache-2.0
"""What may still change after a step: the tables with which a decision is certified before its last step.

All of them are computed in float64 and widened by what float32 may round, on both sides: in the spiking network and in
the original one that it is compared with.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from snnfast.spec.checks import FloatArray
from snnfast.spec.codes import DigitsCode, RadixCode, RateCode, StagedCode, code_name
from snnfast.spec.network import NetworkSpec

_Doubles = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Tables of a certified exit.

    With the running output o, its largest index a, and any other b, a decision is certain if
    ``(o[a] - o[b]) + worst(a, b) > slack`` for every b, where the worst that may come is

    * radix: ``left[t] * overtake[a, b]``;
    * digits: ``sum_j min(D_j (low_j - x_j), D_j (high_j - x_j))`` with ``D_j = W[a,j] - W[b,j]`` of the last layer,
      ``low_j = max(0, z_j - drift_j)`` and ``high_j = max(0, z_j + drift_j)``: between them lies the activation in the
      original network of the last hidden neuron j, which has sent x_j and whose drive is z_j so far. Where
      ``drift = drift[t] + terms * rounding``, and ``terms = sum_k largest[k] |x[k]|`` of the features: the first
      layer's sums may be small and their terms not, whose rounding then counts.
      It is void while a drive is above 1, where a neuron cannot follow it; and unless ``z + drift <= 1`` for all
      neurons of earlier layers, which send what the last one's drift is made of, and ``<= MOST_ACTIVATION`` for those
      of the last one, up to which rounding is taken. (The first layer's drive is constant: its drift is the rounding.)

    Attributes:
        slack: rounding of outputs and sums; infinite, so that nothing is certain, where sums may overflow.
        left: radix, (K,): what the bits to come may add, in whole smallest spikes.
        overtake: radix, (n_out, n_out): ``sum_j min(0, W[a,j] - W[b,j])`` per smallest spike.
        drift: digits, per hidden layer (T, n): the most that the original's drive may differ from the one so far, but
            for the rounding of the first layer's terms.
        rounding: digits, per hidden layer (n,): the most that that adds, per unit of ``terms``.
        largest: digits, (features,): the largest magnitude of each input's weights, at least the smallest normal
            number.
    """

    slack: np.float32
    left: FloatArray | None = None
    overtake: FloatArray | None = None
    drift: tuple[FloatArray, ...] | None = None
    rounding: tuple[FloatArray, ...] | None = None
    largest: FloatArray | None = None


def code_arguments(spec: NetworkSpec) -> dict[str, Any] | None:
    """The code as the compiled module's Plan takes it, or ``None`` for plain neurons."""
    code, leave = spec.code, spec.early_exit
    if code is None:
        return None
    arguments: dict[str, Any] = {
        "kind": code_name(code),
        "signed": isinstance(code, RateCode) and code.signed,
        "ramp": isinstance(code, StagedCode) and code.ramp,
        "offset": float(spec.neuron.initial_membrane),
        "exit": "none" if leave is None else leave.kind,
        "slack": 0.0,
    }
    if isinstance(code, (RateCode, StagedCode)):
        arguments |= {"start": spec.copies_start(code.copies), "levels": spec.copies_levels(code.copies)}
    if isinstance(code, RateCode):
        if spec.decoding == "parabolic_potential":
            arguments["step_weights"] = spec.step_weights if leave is None else spec.running_weights
        if leave is not None:
            arguments["divisors"] = spec.running_divisors
    if isinstance(code, DigitsCode):
        arguments |= {"values": list(code.values), "thresholds": list(code.thresholds)}
        if code.guards is not None:
            arguments["guards"] = list(code.guards)
    if leave is not None and leave.bounds is not None:
        arguments["bounds"] = leave.bounds
    tables = certificate(spec)
    if tables is not None:
        names = [f.name for f in dataclasses.fields(tables) if getattr(tables, f.name) is not None]
        arguments |= {name: getattr(tables, name) for name in names}
        arguments["slack"] = float(tables.slack)
        arguments |= {name: list(arguments[name]) for name in ("drift", "rounding") if name in arguments}
    return arguments


#: Half an ulp of 1 in float32, twice: for the rounding of either network.
_UNIT = 2.0 * 2.0**-24
#: Of a last hidden neuron in the original network, up to which a certificate of digits holds (kMostActivation of
#: csrc/core/code.h). The neuron itself sends no more than 1; more than 2 would make certificates hardly earlier.
MOST_ACTIVATION = 2.0

#: What a product next to zero may lose, twice; and the least float32 that is as precise as others: a weight below it
#: was rounded as if it were that.
_SMALLEST = 2.0 * 2.0**-149
_NORMAL = 2.0**-126


def certificate(spec: NetworkSpec) -> Certificate | None:
    """The tables that ``spec.early_exit`` needs, or ``None`` if it is no certified exit."""
    if spec.early_exit is None or spec.early_exit.kind != "certified":
        return None
    magnitudes = [np.abs(w).astype(np.float64) for w in spec.weights]
    most = [1.0] * (len(magnitudes) - 1) + [MOST_ACTIVATION if isinstance(spec.code, DigitsCode) else 1.0]
    sums = [
        m * w.sum(axis=1) + (0.0 if b is None else np.abs(b))
        for m, w, b in zip(most, magnitudes, spec.biases, strict=True)
    ]  # of a layer's terms, while its inputs are from 0 to `most`
    # A sum of n terms, arriving in T parts, in either network; the decision adds one more sum of n.
    errors = [
        _UNIT * (w.shape[1] + spec.timesteps + 4) * s + _SMALLEST * w.shape[1]
        for w, s in zip(magnitudes, sums, strict=True)
    ]
    slack = np.float32(_up(np.array(4.0 * errors[-1].max())))
    # Sums that may overflow prove nothing: where a drive is minus infinity, a neuron seems silent. (Of the
    # first layer it shows, as its terms overflow too. Spikes of both signs may send some times as much as remains.)
    if not 16.0 * max(s.max() for s in sums[1:]) < np.finfo(np.float32).max:
        slack = np.float32(np.inf)
    last = spec.weights[-1].astype(np.float64)
    if isinstance(spec.code, RadixCode):
        bits = spec.timesteps
        difference = np.minimum(last[:, None, :] - last[None, :, :], 0.0).sum(axis=2) / (2**bits - 1)
        left = np.array([2.0 ** (bits - k) - 1.0 for k in range(1, bits + 1)])
        return Certificate(slack, left=left.astype(np.float32), overtake=-_up(-difference))
    assert isinstance(spec.code, DigitsCode)
    # The first layer's inputs are observations, of any size: its terms are taken of every decision, its bias is known.
    first = np.abs(spec.synapse_weights[0]).astype(np.float64)
    factor = _UNIT * (first.shape[1] + 4)
    errors[0] = factor * (0.0 if spec.biases[0] is None else np.abs(spec.biases[0]).astype(np.float64))
    grows: _Doubles = np.full(magnitudes[0].shape[0], factor)
    drift: list[FloatArray] = []
    rounding = [_up(grows)]
    reach: _Doubles = np.zeros((spec.timesteps, magnitudes[0].shape[1]))
    for w, error, remaining in zip(magnitudes[:-1], errors[:-1], spec.code.remaining, strict=True):
        moved = reach @ w.T + error
        drift.append(_up(moved))
        reach = remaining + moved[-1]
    for w in magnitudes[1:-1]:
        grows = w @ grows
        rounding.append(_up(grows))
    return Certificate(
        slack, drift=tuple(drift), rounding=tuple(rounding), largest=_up(np.maximum(first.max(axis=0), _NORMAL))
    )


def _up(values: _Doubles) -> FloatArray:
    """Rounded to float32, never down; what does not fit is infinite."""
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32)
    up: FloatArray = np.where(rounded < values, np.nextafter(rounded, np.float32(np.inf)), rounded).astype(np.float32)
    return up
