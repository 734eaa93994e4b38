# SPDX-License-Identifier: Apache-2.0
"""A converted network once more, with other steps or without its early exit, from what it says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from snnfast.conversion import digits
from snnfast.conversion.convert import first_layers_steps, output_gain
from snnfast.conversion.hidden import made_with
from snnfast.conversion.presets import Preset
from snnfast.network import SpikingNetwork
from snnfast.spec import DigitsCode


def bound_to_steps(settings: Mapping[str, Any]) -> str | None:
    """Why a conversion with these settings has one number of steps and no other; ``None`` if it may have others."""
    if settings["spike_error"] is not None:
        return "a network with spike_error has the steps that its digits need, and no other number"
    if settings["calibrate"] is not None:
        return "a calibrated network's biases and weights are made for its own number of steps, and no other"
    return None


def rebuilt(network: SpikingNetwork, timesteps: int | None = None) -> SpikingNetwork:
    """The same conversion without early exit, of another number of steps if one is given; output in the same units.

    Raises:
        ValueError: if the network was not converted, or can have no other number of steps (:func:`bound_to_steps`).
    """
    spec, settings = network.spec, made_with(network)
    if timesteps is None or timesteps == spec.timesteps:
        if spec.early_exit is None:
            return network
        timesteps = spec.timesteps
    if (reason := bound_to_steps(settings)) is not None and timesteps != spec.timesteps:
        raise ValueError(reason)
    backend = network._backend  # with the index of its device
    code, scale, gain = spec.code, network.output_scale, network.conversion["gain"]
    if isinstance(code, DigitsCode) and timesteps != spec.timesteps:
        first = settings["first_steps"]
        if first is None:
            made = Preset(**{**settings, "timesteps": timesteps})
            first_steps = first_layers_steps(made, len(spec.weights) - 1)
        else:  # as many steps before the end as in this network
            first_steps = max(1, timesteps - (spec.timesteps - first))
        code = digits.schedule(
            spec.weights,
            timesteps,
            tau=settings["tau"],
            first_steps=first_steps,
            kappa=settings["kappa"],
            guard=settings["guard"],
        )
    elif settings["method"] == "rate":
        # An early exit divides by the steps itself; without one the output grows with them.
        had, gain = gain, output_gain(spec.neuron, timesteps, spec.decoding, backend=backend)
        scale *= had / gain
    return SpikingNetwork(
        spec.weights,
        spec.biases,
        spec.neuron,
        timesteps,
        decoding=spec.decoding,
        backend=backend,
        exact=network.exact,
        split_inputs=spec.split_inputs,
        code=code,
        output_scale=scale,
        conversion={**network.conversion, "gain": gain, "settings": {**settings, "timesteps": timesteps}},
    )
