# SPDX-License-Identifier: Apache-2.0
"""What hidden neurons say in spikes, beside what they should say: the two that a conversion's errors are split with.

Between the original network and the spiking one stands the *clipped* network: the spiking network's own weights, with
activations that are exact within the neurons' ranges and cut off outside. What it lacks to the original no number of
steps mends; what the spiking network lacks to it is due to its spikes being few. Before it comes the network with the
same weights that cuts nothing off: it is the original, unless weights were rounded to a grid or calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from snnfast.conversion.scaling import Float64Array
from snnfast.network import SpikingNetwork
from snnfast.spec import DigitsCode, FloatArray, NetworkSpec, RadixCode, RateCode, StagedCode

#: Numbers to record at once, about: 64 MiB.
_BUDGET = 2**24


def clipped_activations(
    spec: NetworkSpec, observations: FloatArray, lowest: Sequence[Float64Array] | None = None
) -> list[Float64Array]:
    """Every layer's outputs if hidden activations were exact from 0 to 1 and cut off there, in scaled units.

    Args:
        spec: of a converted network.
        observations: (N, n_in).
        lowest: per hidden layer what an activation of 0 is in scaled units (:func:`lowest_activations`); activations
            are then not cut off anywhere else.
    """
    x = observations.astype(np.float64)
    if spec.split_inputs:
        x = np.concatenate([np.maximum(x, 0.0), np.maximum(-x, 0.0)], axis=1)
    outputs = []
    for i, (weight, bias) in enumerate(zip([spec.encoded_weights, *spec.weights[1:]], spec.biases, strict=True)):
        x = x @ weight.T.astype(np.float64)
        if bias is not None:
            x += bias
        if i < len(spec.weights) - 1:
            x = np.clip(x, 0.0, 1.0) if lowest is None else np.maximum(x, lowest[i])
        outputs.append(x)
    return outputs


def in_ranges(network: SpikingNetwork, original: Sequence[Float64Array]) -> list[Float64Array]:
    """The original's hidden activations in units of the neurons' ranges: 0 is the lower end, 1 the upper."""
    scales, shifts = network.conversion["scales"], network.conversion["shifts"]
    return [
        (r - (0.0 if shift is None else np.asarray(shift))) / np.asarray(scale)
        for r, scale, shift in zip(original, scales[:-1], shifts[:-1], strict=True)
    ]


def lowest_activations(network: SpikingNetwork) -> list[Float64Array]:
    """What an original activation of 0 is in units of the ranges, (1, n) per hidden layer."""
    return in_ranges(network, [np.zeros((1, n)) for n in network.sizes[1:-1]])


def changed_weights(network: SpikingNetwork) -> bool:
    """Whether the weights or biases are others than the policy's in other units: rounded to a grid, or calibrated."""
    return any(network.conversion.get(name) is not None for name in ("weight_grid", "calibration"))


def spiking_activations(network: SpikingNetwork, observations: FloatArray) -> list[Float64Array]:
    """Every hidden layer's activations as its spikes tell them, (N, n) in scaled units: what the next layer adds up.

    Args:
        network: a converted one, without early exit.
        observations: (N, n_in).
    """
    spec = network.spec
    size = max(1, _BUDGET // (spec.timesteps * sum(spec.sizes[1:])))
    parts: list[list[Float64Array]] = [[] for _ in spec.weights[1:]]
    for start in range(0, len(observations), size):
        spikes = network.simulate(observations[start : start + size], record="spikes").spikes
        assert spikes is not None
        for layer, part in enumerate(parts):
            worth = spike_worth(spec, layer)
            part.append(np.einsum("tbn,tn->bn", spikes[layer].cpu().numpy().astype(np.float64), worth))
    return [np.concatenate(part) for part in parts]


def spike_worth(spec: NetworkSpec, layer: int) -> Float64Array:
    """What a spike of every step is worth to the next layer: (T, n), or (T, 1) where all neurons are alike."""
    steps, code = spec.timesteps, spec.code
    t = np.arange(1, steps + 1, dtype=np.float64)[:, None]
    if isinstance(code, DigitsCode):
        return code.values[layer].astype(np.float64)
    if isinstance(code, RadixCode):
        return 2.0 ** (steps - t) / (2.0**steps - 1.0)
    copies = code.copies if isinstance(code, (RateCode, StagedCode)) else 1
    if isinstance(code, StagedCode) and code.ramp:
        return (steps - t + 1.0) / (steps * (steps + 1) / 2.0 * copies)
    return np.full((steps, 1), spec.neuron.threshold / (steps * copies))


def made_with(network: SpikingNetwork) -> dict[str, Any]:
    """The settings of a conversion.

    Raises:
        TypeError: if it is no spiking network.
        ValueError: if it was not converted from a policy.
    """
    if not isinstance(network, SpikingNetwork):
        raise TypeError(f"net must be a SpikingNetwork, got {type(network).__name__}")
    settings = network.conversion.get("settings")
    if not isinstance(settings, dict):
        raise ValueError("net must come from convert(): this network does not say how it was converted")
    return settings


def original_units(network: SpikingNetwork) -> float:
    """Factor from the clipped network's outputs to the policy's."""
    return network.output_scale * float(network.conversion["gain"])


def lead(outputs: npt.NDArray[Any], of: npt.NDArray[np.int64] | None = None) -> Float64Array:
    """The best output less the second, (N,); with ``of`` (N, 2) of those two outputs, whichever they are here."""
    if of is None:
        of = best_two(outputs)
    pair: Float64Array = np.take_along_axis(outputs, of, axis=1).astype(np.float64)
    difference: Float64Array = pair[:, 0] - pair[:, 1]
    return difference


def best_two(outputs: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Indices of the largest and the second largest output, (N, 2); the first ones at ties, as argmax has it."""
    order: npt.NDArray[np.int64] = np.argsort(-outputs, axis=1, kind="stable")[:, :2]
    return order
