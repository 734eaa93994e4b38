# SPDX-License-Identifier: Apache-2.0
"""The settings of one conversion: a preset with the user's own in their places, checked against each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from snnfast.conversion.presets import DEFAULT_PRESET, Calibration, Method, Preset, Readout, get_preset
from snnfast.conversion.scaling import ScalingMethod, check_headroom, check_percentile
from snnfast.spec import MAX_BITS, MAX_TIMESTEPS, Order, check_choice, check_count, check_float
from snnfast.spec.codes import MAX_COPIES, ExitKind

#: Options that only some methods have.
OPTIONS: dict[str, tuple[str, ...]] = {
    "copies": ("rate", "staged"),
    "signed": ("rate",),
    "ramp": ("staged",),
    "tau": ("digits",),
    "first_steps": ("digits",),
    "kappa": ("digits",),
    "guard": ("digits",),
    "spike_error": ("digits",),
    "calibrate": ("rate", "staged", "radix"),
}
#: Ways to stop early that a method has.
EXITS: dict[str, tuple[str, ...]] = {
    "rate": ("calibrated",),
    "staged": (),
    "radix": ("certified",),
    "digits": ("calibrated", "certified"),
}
_NEUTRAL = {f.name: f.default for f in dataclasses.fields(Preset)}


def resolve(preset: str | None, **given: Any) -> tuple[str, Preset]:
    """The preset's name, and its settings with the given ones (those that are not ``None``) in their places.

    Without a preset it is the one of the method's name, and without a method "rate".

    Raises:
        TypeError, ValueError: naming the argument; for settings that contradict each other, saying what to change.
    """
    given = {name: value for name, value in given.items() if value is not None}
    for name in ("early_exit", "calibrate"):
        if given.get(name) == "none":  # said aloud, because None leaves it to the preset
            given[name] = None
    if "method" in given:
        check_choice("method", given["method"], Method)
    name = given.get("method", DEFAULT_PRESET) if preset is None else preset
    base = get_preset(name)
    method = given.get("method", base.method)
    if method != base.method:
        raise ValueError(
            f"method={method!r} contradicts preset={name!r}, which is method {base.method!r}: leave one of them out"
        )
    settings = dataclasses.replace(base, **given)
    settings = _check_kinds(settings)
    settings = _check_scaling(settings, given)
    _check_method(settings, given)
    _check_exit(settings, given)
    return name, settings


def in_use(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of all settings of a conversion, those that mean something in it: not those of other methods, for example."""
    method, scaling = settings.get("method"), settings.get("scaling")
    silent = {name for name, methods in OPTIONS.items() if method not in methods}
    silent |= {name for name, value in settings.items() if value is None}
    if method != "rate":
        silent |= {"readout", "order"}
    if method == "digits":
        silent.add("initial_potential")
    if scaling != "neuron":
        silent |= {"shift", "headroom"}
    if scaling in ("model", "data"):
        silent.add("percentile")
    if settings.get("spike_error") is not None:
        silent |= {"tau", "guard"}
    if settings.get("early_exit") != "calibrated":
        silent.add("exit_factor")
    return {name: value for name, value in settings.items() if name not in silent}


def _check_kinds(settings: Preset) -> Preset:
    """Every setting by itself; numbers as Python's own, because numpy's cannot be saved as JSON."""
    for name in ("shift", "signed", "ramp", "guard"):
        value = getattr(settings, name)
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")
    for name, choices in (("scaling", ScalingMethod), ("readout", Readout), ("order", Order)):
        check_choice(name, getattr(settings, name), choices)
    for name, choices in (("early_exit", ExitKind), ("calibrate", Calibration)):
        if getattr(settings, name) is not None:
            check_choice(name, getattr(settings, name), choices)
    steps = MAX_BITS if settings.method == "radix" else MAX_TIMESTEPS
    numbers: dict[str, Any] = {
        "timesteps": check_count("timesteps", settings.timesteps, maximum=steps),
        "copies": check_count("copies", settings.copies, maximum=MAX_COPIES),
        "headroom": check_headroom(settings.headroom),
    }
    for name in ("initial_potential", "tau", "kappa", "spike_error", "exit_factor"):
        if getattr(settings, name) is not None:
            numbers[name] = check_float(name, getattr(settings, name))
    for name in ("spike_error", "exit_factor"):
        if not numbers.get(name, 1.0) > 0:
            raise ValueError(f"{name} must be positive, got {getattr(settings, name)!r}")
    if settings.first_steps is not None:
        numbers["first_steps"] = check_count("first_steps", settings.first_steps)
    return dataclasses.replace(settings, **numbers)


def _check_scaling(settings: Preset, given: dict[str, Any]) -> Preset:
    """What goes with the scaling; the preset's own shift and percentile give way to another scaling."""
    scaling, percentile = settings.scaling, check_percentile(settings.percentile)
    if scaling != "neuron":
        if settings.method != "rate":
            raise ValueError(f"method={settings.method!r} needs scaling='neuron', got scaling={scaling!r}")
        if given.get("shift"):
            raise ValueError(f"shift=True needs scaling='neuron', got scaling={scaling!r}")
        if given.get("headroom", 1.0) != 1.0:
            raise ValueError(f"headroom={settings.headroom!r} needs scaling='neuron', got scaling={scaling!r}")
        settings = dataclasses.replace(settings, shift=False, headroom=1.0)
    if scaling in ("model", "data"):
        if given.get("percentile", 100.0) != 100.0:
            raise ValueError(
                f"percentile has no meaning with scaling={scaling!r}, got {given['percentile']!r}; "
                "use scaling='robust' or 'neuron'"
            )
        percentile = 100.0
    return dataclasses.replace(settings, percentile=percentile)


def _check_method(settings: Preset, given: dict[str, Any]) -> None:
    """What goes with the method: its options, and what its neuron has to be."""
    method = settings.method
    for name, methods in OPTIONS.items():
        value = getattr(settings, name)
        if value != _NEUTRAL[name] and method not in methods:
            allowed = " or ".join(map(repr, methods))
            raise ValueError(f"{name}={value!r} needs method={allowed}, got method={method!r}")
    if method != "rate":
        if settings.readout != "final":
            raise ValueError(
                f"readout must be 'final' with method={method!r}, which adds up what has arrived, "
                f"got {settings.readout!r}"
            )
        if settings.order != "immediate":
            raise ValueError(f"order must be 'immediate' with method={method!r}, got {settings.order!r}")
    elif settings.order != "immediate":
        for name in ("copies", "signed", "early_exit"):
            if getattr(settings, name) != _NEUTRAL[name]:
                raise ValueError(f"{name}={getattr(settings, name)!r} needs order='immediate', got {settings.order!r}")
        if settings.readout == "parabolic":
            raise ValueError(f"readout='parabolic' needs order='immediate', got {settings.order!r}")
        if settings.calibrate == "qcfs":
            raise ValueError(f"calibrate='qcfs' needs order='immediate', got {settings.order!r}")
    if settings.spike_error is not None:
        if "timesteps" in given:
            raise ValueError(
                f"timesteps={settings.timesteps} cannot go with spike_error={settings.spike_error!r}, which takes as "
                "many steps as its digits need: leave timesteps out, or use method='digits' without spike_error"
            )
        for name in ("tau", "first_steps", "kappa", "guard"):
            if getattr(settings, name) != _NEUTRAL[name]:
                raise ValueError(
                    f"{name}={getattr(settings, name)!r} cannot go with spike_error, which makes its own schedule: "
                    "leave one of them out"
                )
    if method == "digits" and settings.initial_potential != 0:
        raise ValueError(
            f"initial_potential must be 0 with method='digits', whose neurons start from nothing sent, "
            f"got {settings.initial_potential!r}"
        )


def _check_exit(settings: Preset, given: dict[str, Any]) -> None:
    """What goes with an early exit."""
    method, leave = settings.method, settings.early_exit
    if leave is not None and leave not in EXITS[method]:
        possible = " or ".join(map(repr, EXITS[method])) or "None"
        raise ValueError(f"early_exit must be {possible} with method={method!r}, got {leave!r}")
    if "exit_factor" in given and leave != "calibrated":
        raise ValueError(f"exit_factor={settings.exit_factor!r} needs early_exit='calibrated', got {leave!r}")
    if leave == "certified" and method == "digits":
        if settings.shift:
            raise ValueError(
                "shift=True cannot go with early_exit='certified' and method='digits': below the shift the original "
                "would leave the range unseen; use shift=False"
            )
        if settings.kappa is not None:
            raise ValueError(
                f"kappa={settings.kappa!r} cannot go with early_exit='certified': a statistical schedule promises "
                "nothing; leave kappa out"
            )
