# SPDX-License-Identifier: Apache-2.0
"""From a trained ReLU network to a spiking one: read its layers, scale its activations, set up the neurons."""

from snnfast.conversion.convert import convert, output_gain
from snnfast.conversion.presets import DEFAULT_PRESET, PRESETS, Preset, Readout
from snnfast.conversion.reading import LinearLayer, read_network
from snnfast.conversion.scaling import ScaledNetwork, ScalingMethod, scale_network

__all__ = [
    "DEFAULT_PRESET",
    "PRESETS",
    "LinearLayer",
    "Preset",
    "Readout",
    "ScaledNetwork",
    "ScalingMethod",
    "convert",
    "output_gain",
    "read_network",
    "scale_network",
]
