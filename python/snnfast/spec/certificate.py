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
      ``low_j = max(0, z_j - drift[t,j])`` and ``high_j = max(0, z_j + drift[t,j])``: between them lies the activation
      in the original network of the last hidden neuron j, which has sent x_j and whose drive is z_j so far.
      It is void while a neuron of an earlier hidden layer may end above 1: ``z + drift > 1`` (the first layer's drive
      is constant, so its drift is the rounding alone).

    Attributes:
        slack: rounding of outputs and sums.
        left: radix, (K,): what the bits to come may add, in whole smallest spikes.
        overtake: radix, (n_out, n_out): ``sum_j min(0, W[a,j] - W[b,j])`` per smallest spike.
        drift: digits, per hidden layer (T, n): the most that the original's drive may differ from the one so far.
    """

    slack: np.float32
    left: FloatArray | None = None
    overtake: FloatArray | None = None
    drift: tuple[FloatArray, ...] | None = None


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
        arguments["starts"] = spec.copy_starts(code.copies)
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
        if tables.drift is not None:
            arguments["drift"] = list(tables.drift)
    return arguments


#: Half an ulp of 1 in float32, twice: for the rounding of either network.
_UNIT = 2.0 * 2.0**-24


def certificate(spec: NetworkSpec) -> Certificate | None:
    """The tables that ``spec.early_exit`` needs, or ``None`` if it is no certified exit."""
    if spec.early_exit is None or spec.early_exit.kind != "certified":
        return None
    magnitudes = [np.abs(w).astype(np.float64) for w in spec.weights]
    sums = [
        w.sum(axis=1) + (0.0 if b is None else np.abs(b)) for w, b in zip(magnitudes, spec.biases, strict=True)
    ]  # of a layer's terms, while its inputs are from 0 to 1
    # A sum of n terms, arriving in T parts, in either network; the decision adds one more sum of n.
    rounding = [_UNIT * (w.shape[1] + spec.timesteps + 4) * s for w, s in zip(magnitudes, sums, strict=True)]
    slack = np.float32(_up(np.array(4.0 * rounding[-1].max())))
    last = spec.weights[-1].astype(np.float64)
    if isinstance(spec.code, RadixCode):
        bits = spec.timesteps
        difference = np.minimum(last[:, None, :] - last[None, :, :], 0.0).sum(axis=2) / (2**bits - 1)
        left = np.array([2.0 ** (bits - k) - 1.0 for k in range(1, bits + 1)])
        return Certificate(slack, left=left.astype(np.float32), overtake=-_up(-difference))
    assert isinstance(spec.code, DigitsCode)
    # The first layer's inputs are observations, of any size: its rounding is taken for inputs up to what makes a drive
    # of 1 with the largest weight, which is generous by the width of the layer.
    rounding[0] = _UNIT * (magnitudes[0].shape[1] + 4) * 16.0 * np.maximum(sums[0], 1.0)
    drift: list[FloatArray] = []
    reach: _Doubles = np.zeros((spec.timesteps, magnitudes[0].shape[1]))
    for w, error, remaining in zip(magnitudes[:-1], rounding[:-1], spec.code.remaining, strict=True):
        moved = reach @ w.T + error
        drift.append(_up(moved))
        reach = remaining + moved[-1]
    return Certificate(slack, drift=tuple(drift))


def _up(values: _Doubles) -> FloatArray:
    """Rounded to float32, never down."""
    rounded = values.astype(np.float32)
    up: FloatArray = np.where(rounded < values, np.nextafter(rounded, np.float32(np.inf)), rounded).astype(np.float32)
    return up
