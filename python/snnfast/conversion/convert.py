# SPDX-License-Identifier: Apache-2.0
"""A trained ReLU policy becomes a spiking network."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from snnfast._version import __version__
from snnfast.conversion.grid import check_bits, snap_to_grid
from snnfast.conversion.presets import DEFAULT_PRESET, Preset, Readout, get_preset
from snnfast.conversion.reading import read_network
from snnfast.conversion.scaling import ScaledNetwork, ScalingMethod, check_percentile, scale_network
from snnfast.network import SpikingNetwork
from snnfast.spec import Decoding, FloatArray, NeuronSpec, Order, check_choice, check_count

_DECODING: dict[str, Decoding] = {"final": "potential", "mean": "mean_potential"}


class ReplayLike(Protocol):
    """What :func:`convert` needs of a replay memory: states (N, n_in), and how they were recorded."""

    @property
    def observations(self) -> Any: ...

    @property
    def metadata(self) -> Any: ...


def convert(
    policy: nn.Module,
    replay: ReplayLike | npt.ArrayLike | Tensor | None,
    *,
    preset: str | None = None,
    scaling: ScalingMethod | None = None,
    percentile: float | None = None,
    shift: bool | None = None,
    timesteps: int | None = None,
    order: Order | None = None,
    initial_potential: float | None = None,
    readout: Readout | None = None,
    split_inputs: bool = False,
    weight_grid: int | None = None,
    backend: str = "auto",
    exact: bool = True,
) -> SpikingNetwork:
    """Convert a trained ReLU network into a network of integrate-and-fire neurons that computes the same outputs.

    Every argument that is left out comes from the preset, and without a preset from "rate".

    Args:
        policy: a chain of Linear layers with ReLU between them; not modified. See :func:`read_network`.
        replay: states that the policy meets: a ``Replay``, or an array or tensor of observations (N, n_in). May be
            ``None`` with ``scaling="model"``.
        preset: "thesis" (the 2020 thesis system) or "rate" (same budget, far closer to the original).
        scaling: where activation scales come from: "model", "data", "robust" or "neuron".
        percentile: of "robust" and "neuron" scaling, in percent, 0 < percentile <= 100.
        shift: with "neuron" scaling, begin each neuron's range at its lower percentile instead of at 0.
        timesteps: steps T per decision.
        order: order of the neuron's update, "immediate" or "delayed"; see :class:`NeuronSpec`.
        initial_potential: of hidden neurons, as a fraction of the threshold.
        readout: "final" or "mean" membrane potential of the last layer (decoding "potential" or "mean_potential").
        split_inputs: feed positive and negative parts of the observations separately.
        weight_grid: bits per weight, 2 to 16, or ``None`` for none of this: round the weights of every layer but the
            first to multiples of a power of two per neuron, so that sums of them are exact in any order and the
            quickest methods keep the exact contract. The rounded network is another network, with spikes of its
            own; 16 bits move a weight by 2**-15 of its row's largest, about. See ``docs/numerics.md``.
        backend, exact: as for :class:`SpikingNetwork`.

    Returns:
        The network. Its ``output_scale`` turns outputs into the policy's units; its ``conversion`` says how it was
        made, and can be written as JSON.

    Raises:
        TypeError, ValueError: naming the argument, what was required and what arrived.
        NotImplementedError: naming the layer of ``policy`` that has no spiking equivalent.

    Source: Rueckauer et al. 2017, Frontiers in Neuroscience 11:682; Bu et al. 2022, AAAI (initial potential 1/2).
    """
    settings = _settings(
        get_preset(DEFAULT_PRESET if preset is None else preset),
        scaling=scaling,
        percentile=percentile,
        shift=shift,
        timesteps=timesteps,
        order=order,
        initial_potential=initial_potential,
        readout=readout,
    )
    bits = check_bits(weight_grid)
    neuron = NeuronSpec(order=settings.order, initial_potential=settings.initial_potential)
    decoding = _DECODING[settings.readout]
    gain = output_gain(neuron, settings.timesteps, decoding, backend=backend)
    layers = read_network(policy)
    observations = None if replay is None else _observations(replay, layers[0].weight.shape[1])
    scaled = scale_network(layers, observations, settings.scaling, percentile=settings.percentile, shift=settings.shift)
    weights = scaled.weights if bits is None else _on_grid(scaled.weights, bits)
    return SpikingNetwork(
        weights,
        scaled.biases,
        neuron,
        settings.timesteps,
        decoding=decoding,
        backend=backend,
        exact=exact,
        split_inputs=split_inputs,
        output_scale=scaled.output_scale / gain,
        conversion={
            "preset": preset if preset is not None else DEFAULT_PRESET,
            "settings": dataclasses.asdict(settings),
            "scales": [_jsonable(scale) for scale in scaled.scales],
            "shifts": _shifts(scaled),
            "gain": gain,
            "weight_grid": None
            if bits is None
            else {"bits": bits, "largest_change": _changes(scaled.weights, weights)},
            "replay": _provenance(replay, observations),
            "version": __version__,
        },
    )


def output_gain(neuron: NeuronSpec, timesteps: int, decoding: Decoding, *, backend: str = "auto") -> float:
    """Decoded response of one output neuron to a constant input current of 1.

    It is found by running that neuron, so it holds for every combination of decays, order, decoding and number of
    steps: 100 for 100 steps, "immediate" order and final potential; 99 in "delayed" order; 50.5 for the mean.

    Raises:
        ValueError: if there is no response: in "delayed" order the first current arrives at the second step.
    """
    one = SpikingNetwork([np.ones((1, 1), np.float32)], None, neuron, timesteps, decoding=decoding, backend=backend)
    gain = float(one(np.ones((1, 1), np.float32))[0, 0])
    if not (np.isfinite(gain) and gain > 0):
        raise ValueError(
            f"timesteps must be at least 2 in {neuron.order!r} order: with {timesteps} the output never sees a current"
        )
    return gain


def _settings(preset: Preset, **given: Any) -> Preset:
    """The preset with the given arguments in the place of its own; contradictions are errors."""
    given = {name: value for name, value in given.items() if value is not None}
    if "shift" in given and not isinstance(given["shift"], bool):
        raise TypeError(f"shift must be True or False, got {given['shift']!r}")
    settings = dataclasses.replace(preset, **given)
    check_choice("scaling", settings.scaling, ScalingMethod)
    check_choice("readout", settings.readout, Readout)
    check_choice("order", settings.order, Order)
    timesteps = check_count("timesteps", settings.timesteps)
    percentile = check_percentile(settings.percentile)
    if settings.scaling != "neuron":
        if given.get("shift"):
            raise ValueError(f"shift=True needs scaling='neuron', got scaling={settings.scaling!r}")
        settings = dataclasses.replace(settings, shift=False)
    if settings.scaling in ("model", "data"):
        if given.get("percentile", 100.0) != 100.0:
            raise ValueError(
                f"percentile has no meaning with scaling={settings.scaling!r}, got {given['percentile']!r}; "
                "use scaling='robust' or 'neuron'"
            )
        percentile = 100.0
    return dataclasses.replace(settings, timesteps=timesteps, percentile=percentile)


def _on_grid(weights: list[FloatArray], bits: int) -> list[FloatArray]:
    """The first layer as it is, because its inputs are no spikes; the others on the grid."""
    snapped = weights[:1]
    for number, w in enumerate(weights[1:], start=2):
        try:
            snapped.append(snap_to_grid(w, bits).weights)
        except ValueError as error:
            raise ValueError(
                f"weight_grid={bits} is not possible for layer {number} of {len(weights)}: {error}"
            ) from None
    return snapped


def _changes(before: list[FloatArray], after: list[FloatArray]) -> list[float]:
    """Per layer the most that a weight has moved."""
    return [float(np.abs(b.astype(np.float64) - a).max()) for a, b in zip(before, after, strict=True)]


def _observations(replay: ReplayLike | npt.ArrayLike | Tensor, n_in: int) -> FloatArray:
    values: Any = replay if isinstance(replay, (Tensor, np.ndarray)) else getattr(replay, "observations", replay)
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"replay must be a Replay or hold real numbers, got {type(replay).__name__} of {array.dtype}")
    if array.ndim != 2 or array.shape[1] != n_in:
        raise ValueError(
            f"replay must hold observations of shape (N, {n_in}), as many features as the policy takes, "
            f"got {array.shape}"
        )
    if len(array) == 0:
        raise ValueError("replay must hold at least one observation, got none")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise ValueError(f"replay must hold finite observations, got {array[bad[0]]} at index {bad[0]}")
    return array


def _provenance(replay: object, observations: FloatArray | None) -> dict[str, Any] | None:
    if observations is None:
        return None
    metadata = getattr(replay, "metadata", None)
    found = json.loads(json.dumps(dict(metadata), default=str)) if isinstance(metadata, Mapping) else {}
    return {"states": len(observations), **{k: v for k, v in found.items() if k != "states"}}


def _jsonable(scale: float | npt.NDArray[np.float64]) -> float | list[float]:
    return [float(x) for x in scale] if isinstance(scale, np.ndarray) else float(scale)


def _shifts(scaled: ScaledNetwork) -> list[list[float] | None]:
    return [None if shift is None else [float(x) for x in shift] for shift in scaled.shifts]
