# SPDX-License-Identifier: Apache-2.0
"""Named sets of conversion settings, and what each of them is in plain words."""

from __future__ import annotations

import dataclasses
from typing import Literal

from snnfast.conversion.scaling import ScalingMethod
from snnfast.spec import Order
from snnfast.spec.codes import ExitKind

Method = Literal["rate", "staged", "radix", "digits"]
Readout = Literal["final", "mean", "parabolic"]
Calibration = Literal["bias", "qcfs"]
Budget = Literal["steps", "spikes", "latency"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """Every setting of a conversion; the arguments of :func:`snnfast.convert` of the same names override them."""

    method: Method = "rate"
    scaling: ScalingMethod = "neuron"
    percentile: float = 99.9
    shift: bool = False
    headroom: float = 1.0
    timesteps: int
    order: Order = "immediate"
    initial_potential: float = 0.5
    readout: Readout = "final"
    copies: int = 1
    signed: bool = False
    ramp: bool = False
    tau: float = 0.5
    first_steps: int | None = None
    kappa: float | None = None
    guard: bool = False
    spike_error: float | None = None
    calibrate: Calibration | None = None
    early_exit: ExitKind | None = None
    exit_factor: float = 1.5


_DIGITS_PRESET = Preset(method="digits", timesteps=12, percentile=100.0, initial_potential=0.0)

PRESETS: dict[str, Preset] = {
    # The 2020 thesis system: Rueckauer's robust normalisation, one-step synaptic delay, final membrane potential.
    "thesis": Preset(
        scaling="robust",
        percentile=99.0,
        timesteps=100,
        order="delayed",
        initial_potential=0.0,
    ),
    # Per-neuron ranges use the whole range of firing rates; a potential of half the threshold at the start turns the
    # spike count from a floor into a rounding; the time-averaged potential averages the membrane's residue away.
    "rate": Preset(shift=True, timesteps=100, readout="mean"),
    # The parabola is a little better than the mean.
    "rate-copies": Preset(shift=True, timesteps=100, readout="parabolic", copies=4),
    # Many steps cost little where few decisions need them. What exceeds its range is wrong by a margin that does not
    # fall with the steps, and would hold every bound up: hence nearly the largest activation of the replay. How near is
    # tried out where no percentile is given: EXIT_PERCENTILES in convert.py.
    "rate-early-exit": Preset(
        shift=True,
        percentile=99.99,
        timesteps=256,
        readout="parabolic",
        copies=4,
        early_exit="calibrated",
        exit_factor=1.15,
    ),
    "staged": Preset(method="staged", shift=True, timesteps=32, ramp=True),
    "radix": Preset(method="radix", timesteps=12),
    "radix-certified": Preset(method="radix", timesteps=12, early_exit="certified"),
    # A range from 0, and not from a lower percentile: below that the original would leave it unseen, and what is
    # certified would not be certain. Up to the largest activation of the replay: beyond it nothing can be certified,
    # and a range that is a little wider costs digits next to nothing (log3 of it in steps).
    "digits": _DIGITS_PRESET,
    "digits-certified": dataclasses.replace(_DIGITS_PRESET, early_exit="certified"),
    # Little is left after the first few digits, whatever the state: the bounds need less room for states that the
    # replay does not hold. With 1.5 decisions were hardly more alike, and slower than certified ones.
    "digits-calibrated": dataclasses.replace(_DIGITS_PRESET, early_exit="calibrated", exit_factor=1.3),
    # Layers one after the other, small steps from digit to digit, and no digit finer than its neuron needs. With an
    # exit the digits may be finer: most decisions are certain before the second layer has sent many of them.
    "fewest-spikes": dataclasses.replace(_DIGITS_PRESET, timesteps=1, spike_error=2.5e-4),
    "fewest-spikes-exit": dataclasses.replace(_DIGITS_PRESET, timesteps=1, spike_error=1e-4, early_exit="certified"),
}
DEFAULT_PRESET = "rate"


@dataclasses.dataclass(frozen=True)
class About:
    """A preset in plain words: what it is, what hardware could run it, and what it equals as quantisation."""

    what: str
    hardware: str
    equals: str

    def on_grid(self) -> About:
        """The same where weights are rounded to a grid first: they are another network's before it certifies."""
        rounded = {f.name: getattr(self, f.name).replace(_CERTIFIED, "the rounded network") for f in _ABOUT_FIELDS}
        return About(**rounded)


_ABOUT_FIELDS = dataclasses.fields(About)
_CERTIFIED = "the original network"
_IF = "plain integrate-and-fire neurons"
_SIGNED = "signed spikes and a table of step sizes per neuron"
_DIGITS = "a ReLU network with quantised activations, a step size per neuron"

ABOUT: dict[str, About] = {
    "thesis": About(
        "the 2020 thesis system: one scale per layer, one-step synapses",
        _IF,
        "no quantised network; about 100 levels, rounded down",
    ),
    "rate": About(
        "firing rates, a range per neuron, averaged potential",
        f"{_IF} and a second integrator at the output",
        "no quantised network; about 100 levels, rounded",
    ),
    "rate-copies": About(
        "as rate, every hidden neuron in 4 staggered copies, and a parabola in place of the mean",
        f"{_IF}, four times as many",
        "no quantised network; about 400 levels",
    ),
    "rate-early-exit": About(
        "as rate-copies, ranges as stop earliest; stops when further ahead than any wrong decision of the replay",
        f"{_IF}, four times as many, and a comparison of outputs",
        "no quantised network; as many levels as the decision needs",
    ),
    "staged": About(
        "one layer after the other, early spikes weigh more",
        "a time window per layer and a second integrator per neuron",
        "close to a ReLU network whose activations have several hundred levels",
    ),
    "radix": About(
        "one layer after the other, a spike is worth half of the one before",
        "a time window per layer, binary spikes, weights that halve from step to step",
        "exactly a ReLU network whose activations have 12 bits",
    ),
    "radix-certified": About(
        "as radix; stops once the bits to come cannot change the decision",
        "as radix, and adders over the last layer",
        "exactly the decision of radix",
    ),
    "digits": About("signed digits of falling worth, all layers at once", _SIGNED, _DIGITS),
    "digits-certified": About(
        f"as digits; stops once {_CERTIFIED}'s decision is certain",
        f"{_SIGNED}, and adders over the last layer",
        f"{_DIGITS}; what is certified is {_CERTIFIED}'s decision",
    ),
    "digits-calibrated": About(
        f"as digits; stops once it is {PRESETS['digits-calibrated'].exit_factor:g} times as far ahead as any wrong "
        "decision of the replay was",
        f"{_SIGNED}, and a comparison of outputs",
        f"{_DIGITS}, as many digits as the decision needs",
    ),
    "fewest-spikes": About(
        "signed digits, one layer after the other, no finer than each neuron needs",
        f"{_SIGNED}, and a time window per layer",
        _DIGITS,
    ),
    "fewest-spikes-exit": About(
        f"as fewest-spikes; stops once {_CERTIFIED}'s decision is certain",
        f"{_SIGNED}, a time window per layer, and adders over the last layer",
        f"{_DIGITS}; what is certified is {_CERTIFIED}'s decision",
    ),
}


def get_preset(name: str) -> Preset:
    """The preset of that name; a ``ValueError`` that lists the names if there is none."""
    if not isinstance(name, str):
        raise TypeError(f"preset must be a name, got {name!r} ({type(name).__name__})")
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(map(repr, PRESETS))}, got {name!r}")
    return PRESETS[name]


def steps_in_words(preset: Preset) -> str:
    """How many steps a decision of that preset has."""
    if preset.spike_error is not None:
        return "as many steps as that takes"
    steps = f"{'at most ' if preset.early_exit else ''}{preset.timesteps} steps"
    return f"{steps} per hidden layer" if preset.method in ("staged", "radix") else steps


def describe_presets() -> list[str]:
    """One line per preset: what it is, its steps, what hardware could run it, what it equals as quantisation."""
    return [
        f"{name}: {about.what}; {steps_in_words(PRESETS[name])}; needs {about.hardware}; equals {about.equals}"
        for name, about in ((name, ABOUT[name]) for name in PRESETS)
    ]
