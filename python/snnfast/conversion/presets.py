# SPDX-License-Identifier: Apache-2.0
"""Named sets of conversion settings."""

from __future__ import annotations

import dataclasses
from typing import Literal

from snnfast.conversion.scaling import ScalingMethod
from snnfast.spec import Order

Readout = Literal["final", "mean"]


@dataclasses.dataclass(frozen=True)
class Preset:
    """Every setting of a conversion; the arguments of :func:`snnfast.convert` of the same names override them."""

    scaling: ScalingMethod
    percentile: float
    shift: bool
    timesteps: int
    order: Order
    initial_potential: float
    readout: Readout


PRESETS: dict[str, Preset] = {
    # The 2020 thesis system: Rueckauer's robust normalisation, one-step synaptic delay, final membrane potential.
    "thesis": Preset(
        scaling="robust",
        percentile=99.0,
        shift=False,
        timesteps=100,
        order="delayed",
        initial_potential=0.0,
        readout="final",
    ),
    # Per-neuron ranges use the whole range of firing rates; a potential of half the threshold at the start turns the
    # spike count from a floor into a rounding; the time-averaged potential averages the membrane's residue away.
    "rate": Preset(
        scaling="neuron",
        percentile=99.9,
        shift=True,
        timesteps=100,
        order="immediate",
        initial_potential=0.5,
        readout="mean",
    ),
}
DEFAULT_PRESET = "rate"


def get_preset(name: str) -> Preset:
    """The preset of that name; a ``ValueError`` that lists the names if there is none."""
    if not isinstance(name, str):
        raise TypeError(f"preset must be a name, got {name!r} ({type(name).__name__})")
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(map(repr, PRESETS))}, got {name!r}")
    return PRESETS[name]
