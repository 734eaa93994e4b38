# SPDX-License-Identifier: Apache-2.0
"""From a trained ReLU network to a spiking one: read its layers, scale its activations, set up the neurons."""

from snnfast.conversion.convert import convert, output_gain
from snnfast.conversion.presets import (
    ABOUT,
    DEFAULT_PRESET,
    PRESETS,
    Method,
    Preset,
    Readout,
    describe_presets,
)
from snnfast.conversion.reading import LinearLayer, read_network
from snnfast.conversion.scaling import ScaledNetwork, ScalingMethod, scale_network

__all__ = [
    "ABOUT",
    "DEFAULT_PRESET",
    "PRESETS",
    "LinearLayer",
    "Method",
    "Preset",
    "Readout",
    "ScaledNetwork",
    "ScalingMethod",
    "convert",
    "describe_presets",
    "output_gain",
    "read_network",
    "scale_network",
]
