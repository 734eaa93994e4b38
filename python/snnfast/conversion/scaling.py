# SPDX-License-Identifier: Apache-2.0
"""Activation scales, and the weights that a network has once its activations are expressed in them.

A spiking neuron can fire at most once per step, so a ReLU activation must be brought into [0, 1] before it becomes a
firing rate. A layer's *activation scale* is the activation that is to become the rate 1. Dividing a layer's weights
and biases by its own scale, and multiplying its weights by the scale of the layer before, changes nothing but the
units: the rescaled ReLU network gives the original outputs divided by the last scale.

Computation is in float64; the resulting weights are rounded to float32 once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from snnfast.conversion.reading import LinearLayer
from snnfast.spec import FloatArray, check_choice, check_float

ScalingMethod = Literal["model", "data", "robust", "neuron"]
Float64Array = npt.NDArray[np.float64]

#: "data" and "robust" look at this many states of the replay, from the first on, as the 2020 thesis system does.
STATES = 20_000
#: A neuron's range is at least this share of the largest activation in its layer, so that one that never or hardly
#: fired on the replay does not get enormous weights.
RANGE_FLOOR = 1e-3


@dataclasses.dataclass(frozen=True)
class ScaledNetwork:
    """A ReLU network in units of its activation scales.

    Attributes:
        weights, biases: per layer, float32, ready for a spiking network.
        scales: per layer the activation that becomes a firing rate of 1: one number, or one per neuron (n_out,).
            The last layer's is the factor between the rescaled outputs and the original ones.
        shifts: per hidden layer the activation that becomes the rate 0, (n_out,), or ``None`` where that is 0.
    """

    weights: list[FloatArray]
    biases: list[FloatArray | None]
    scales: list[float | Float64Array]
    shifts: list[Float64Array | None]

    @property
    def output_scale(self) -> float:
        """Rescaled output times this = original output."""
        return float(np.max(self.scales[-1]))


def activations(layers: Sequence[LinearLayer], observations: npt.ArrayLike) -> list[Float64Array]:
    """Every layer's outputs on a batch of observations (N, n_in): hidden layers after ReLU, the last one raw."""
    x = np.asarray(observations, dtype=np.float64)
    outputs = []
    for i, (weight, bias) in enumerate(layers):
        x = x @ weight.T.astype(np.float64)
        if bias is not None:
            x += bias
        if i < len(layers) - 1:
            x = np.maximum(x, 0.0)
        outputs.append(x)
    return outputs


def model_scales(layers: Sequence[LinearLayer]) -> list[float]:
    """Per layer the largest activation that inputs of that layer in [0, 1] could cause; needs no data.

    That is the maximum over neurons of the sum of positive weights plus the positive part of the bias. The weights are
    the original ones, so for a deeper layer it is no bound: its inputs may exceed 1.

    Source: Diehl et al. 2015, IJCNN, model-based normalisation.
    """
    scales = []
    for i, (weight, bias) in enumerate(layers):
        reach = np.maximum(weight, 0.0).sum(axis=1, dtype=np.float64)
        if bias is not None:
            reach = reach + np.maximum(bias, 0.0)
        why = "it has no positive weight or bias, so no input from 0 to 1 gives it a positive output"
        scales.append(_checked(max(float(reach.max()), _largest_parameter(weight, bias)), i, len(layers), why))
    return scales


def percentile_scales(layers: Sequence[LinearLayer], observations: npt.ArrayLike, percentile: float) -> list[float]:
    """Per layer a percentile, over states, of the largest output in the layer ("robust"; 100 is "data").

    For each of the first 20,000 states the maximum over the layer's outputs is taken (the last layer's raw outputs);
    the n maxima are sorted, and the one at index floor(percentile / 100 * (n - 1)) is the scale, but at least the
    layer's largest single weight or bias.

    Source: Rueckauer et al. 2017, Frontiers in Neuroscience 11:682, robust normalisation; index as in the 2020 thesis.
    """
    scales = []
    outputs = activations(layers, np.asarray(observations)[:STATES])
    for i, ((weight, bias), output) in enumerate(zip(layers, outputs, strict=True)):
        maxima = np.sort(output.max(axis=1))
        index = math.floor(percentile / 100.0 * (len(maxima) - 1))
        scale = max(float(maxima[index]), _largest_parameter(weight, bias))
        scales.append(_checked(scale, i, len(layers), _INACTIVE if i < len(layers) - 1 else _NEGATIVE))
    return scales


def neuron_ranges(
    layers: Sequence[LinearLayer],
    observations: npt.ArrayLike,
    percentile: float,
    shift: bool,
    headroom: float = 1.0,
) -> tuple[list[Float64Array], list[Float64Array | None]]:
    """Per hidden layer every neuron's range and, with ``shift``, the lower end of it; over all observations.

    The upper end is the percentile of the neuron's activation, the lower end 0 or, with ``shift``, the percentile
    100 - ``percentile``. The range is at least 1/1000 of the largest upper end in the layer, and then ``headroom``
    times that, upwards.
    """
    ranges: list[Float64Array] = []
    shifts: list[Float64Array | None] = []
    for i, output in enumerate(activations(layers, observations)[:-1]):
        upper = np.quantile(output, percentile / 100.0, axis=0)
        lower = np.quantile(output, 1.0 - percentile / 100.0, axis=0) if shift else np.zeros_like(upper)
        # With a percentile below 50 the two ends would change places.
        lower = np.minimum(lower, upper)
        floor = RANGE_FLOOR * _checked(float(upper.max()), i, len(layers), _INACTIVE)
        ranges.append(np.maximum(upper - lower, floor) * headroom)
        shifts.append(lower if shift else None)
    return ranges, shifts


def rescale(
    layers: Sequence[LinearLayer],
    scales: Sequence[float | Float64Array],
    shifts: Sequence[Float64Array | None] | None = None,
) -> ScaledNetwork:
    """Express a network's activations in units of ``scales``, from ``shifts`` on.

    With scale s and shift lo of a layer, and s', lo' of the layer before (1 and 0 for the observations)::

        W <- W * s' / s        b <- (b + W * lo' - lo) / s

    Without shifts the rescaled ReLU network's outputs are the original ones divided by the last scale. With shifts a
    hidden neuron can express max(activation, lo) only: the outputs are those, divided by the last scale, of the
    original network with every hidden activation r replaced by max(r, lo), hence unchanged where r >= lo throughout.

    Args:
        layers: the original network.
        scales: per layer one positive number or one per neuron (n_out,).
        shifts: per layer (n_out,) or ``None``; the last layer's must be ``None``.
    """
    shifts = [None] * len(layers) if shifts is None else list(shifts)
    weights: list[FloatArray] = []
    biases: list[FloatArray | None] = []
    before_scale: float | Float64Array = 1.0
    before_shift: Float64Array | None = None
    for (weight, bias), scale, shift in zip(layers, scales, shifts, strict=True):
        w = weight.astype(np.float64)
        b = np.zeros(len(w)) if bias is None else bias.astype(np.float64)
        if before_shift is not None:
            b = b + w @ before_shift
        if shift is not None:
            b = b - shift
        column = scale[:, None] if isinstance(scale, np.ndarray) else scale
        weights.append(_float32(w * before_scale / column, len(weights), len(layers)))
        needs_bias = bias is not None or before_shift is not None or shift is not None
        biases.append(_float32(b / scale, len(biases), len(layers)) if needs_bias else None)
        before_scale, before_shift = scale, shift
    return ScaledNetwork(weights, biases, list(scales), shifts)


def scale_network(
    layers: Sequence[LinearLayer],
    observations: npt.ArrayLike | None,
    method: ScalingMethod,
    *,
    percentile: float = 100.0,
    shift: bool = False,
    headroom: float = 1.0,
) -> ScaledNetwork:
    """Find the activation scales of a network and express it in them.

    Args:
        layers: the network, from :func:`read_network`.
        observations: states (N, n_in) that the network meets; not needed for "model".
        method: "model", "data" (one scale per layer, the largest output), "robust" (a percentile of it) or "neuron"
            (one scale per hidden neuron; the last layer is not divided).
        percentile: of "robust" and "neuron", in percent, 0 < percentile <= 100.
        shift: for "neuron": begin each neuron's range at its lower percentile instead of at 0.
        headroom: for "neuron": how many times as wide as on these states every range is, for states beyond them.

    Raises:
        ValueError: if an argument is out of range, or an activation scale is not positive and finite.
    """
    check_choice("scaling", method, ScalingMethod)
    percentile = check_percentile(percentile)
    if shift and method != "neuron":
        raise ValueError(f"shift=True needs scaling='neuron', got scaling={method!r}")
    if check_headroom(headroom) != 1.0 and method != "neuron":
        raise ValueError(f"headroom={headroom!r} needs scaling='neuron', got scaling={method!r}")
    if method == "model":
        return rescale(layers, model_scales(layers))
    if observations is None:
        raise ValueError(f"scaling={method!r} needs a replay: the states to take activation scales from")
    if method == "neuron":
        ranges, shifts = neuron_ranges(layers, observations, percentile, shift, headroom)
        return rescale(layers, [*ranges, 1.0], [*shifts, None])
    return rescale(layers, percentile_scales(layers, observations, 100.0 if method == "data" else percentile))


def check_percentile(value: Any) -> float:
    """Return ``value`` as a float; raise unless it is a number with 0 < value <= 100."""
    percentile = check_float("percentile", value)
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile must be above 0 and at most 100 (percent), got {value!r}")
    return percentile


def check_headroom(value: Any) -> float:
    """Return ``value`` as a float; raise unless it is a positive number."""
    headroom = check_float("headroom", value)
    if not headroom > 0:
        raise ValueError(f"headroom must be positive, got {value!r}")
    return headroom


def _largest_parameter(weight: FloatArray, bias: FloatArray | None) -> float:
    return float(weight.max()) if bias is None else max(float(weight.max()), float(bias.max()))


_INACTIVE = "no neuron of it is active on these states, or on too few of them for this percentile"
_NEGATIVE = (
    "none of its outputs is positive on these states, or on too few of them for this percentile; scaling='neuron' does "
    "not divide them"
)


def _checked(scale: float, layer: int, layers: int, why_not_positive: str) -> float:
    if not (math.isfinite(scale) and scale > 0):
        why = why_not_positive if scale <= 0 else "the activations are too large"
        raise ValueError(
            f"the activation scale of layer {layer + 1} of {layers} must be positive and finite, got {scale!r}: {why}"
        )
    return scale


def _float32(values: Float64Array, layer: int, layers: int) -> FloatArray:
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32)
    if not np.isfinite(rounded).all():
        raise ValueError(f"the rescaled weights of layer {layer + 1} of {layers} do not fit into float32")
    return rounded
