# SPDX-License-Identifier: Apache-2.0
"""Where a conversion's errors come from, layer by layer and stage by stage, and what to change.

A decision goes wrong in stages: weights may have been rounded, neurons cut off what exceeds their ranges, their spikes
are too few to tell a number finely, the last layer reads them out in some way, and the decision may have stopped early.
Each stage is run by itself on the same states, so what it adds is measured.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from torch import nn

from snnfast.conversion.comparison import HeldOut, ask_about
from snnfast.conversion.grid import MAX_BITS
from snnfast.conversion.hidden import (
    best_two,
    changed_weights,
    clipped_activations,
    in_ranges,
    lead,
    lowest_activations,
    made_with,
    original_units,
    spiking_activations,
)
from snnfast.conversion.reading import read_network
from snnfast.conversion.rebuilding import rebuilt
from snnfast.conversion.scaling import Float64Array, activations
from snnfast.learning import Replay
from snnfast.network import SpikingNetwork
from snnfast.shares import rough_percent

#: An activation this little beyond its range is rounding (weights are float32), not an excess.
_ROUNDING = 1e-5
#: A stage that makes at least this share of the decisions differ is worth a word.
_WORTH_A_WORD = 2e-4
#: More headroom than this makes the numbers of all other states coarse.
_MOST_HEADROOM = 4.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerDiagnosis:
    """What is wrong in one hidden layer.

    Attributes:
        neurons: how many it has.
        dead: neurons at which the original is 0 in every state.
        silent: others that never tell the next layer anything but 0.
        saturated: neurons at which the original exceeds the range in some state.
        saturated_states: share of the states in which at least one does.
        clipping_share: share of all activations, states times neurons, that exceed their range.
        excess: the largest activation over the upper end of its neuron's range; at most 1 if none exceeds it.
        below: neurons at which the original is below the lower end of the range in some state (``shift``).
        below_states: share of the states in which at least one is.
        error: mean difference between what the spikes tell and the clipped activation, as a share of the range, over
            the neurons that are not dead.
        largest_error: the largest such difference.
    """

    neurons: int
    dead: int
    silent: int
    saturated: int
    saturated_states: float
    clipping_share: float
    excess: float
    below: int
    below_states: float
    error: float
    largest_error: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """The network up to one stage, compared with the policy.

    Attributes:
        name: "weights", "ranges", "spikes", "read-out" or "early exit".
        error: mean size of the error of the lead (the policy's best output less its second), in the policy's units.
        largest_error: the largest one.
        differing: share of the decisions that differ from the policy's.
    """

    name: str
    error: float
    largest_error: float
    differing: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The result of :func:`diagnose`.

    Attributes:
        states: that it was made on.
        layers: the hidden layers, from the first on.
        stages: in their order, each with all of those before it; there is no "early exit" without one, and no
            "weights" where they are the policy's own.
        advice: what is wrong, and what to change, in sentences; what costs most comes first.
    """

    states: int
    layers: tuple[LayerDiagnosis, ...]
    stages: tuple[Stage, ...]
    advice: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """All attributes as plain JSON values."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def __str__(self) -> str:
        head = ("layer", "neurons", "dead", "silent", "saturated", "in states", "error", "largest")
        rows = [
            (
                f"{number}",
                f"{layer.neurons}",
                f"{layer.dead}",
                f"{layer.silent}",
                f"{layer.saturated}",
                rough_percent(layer.saturated_states),
                rough_percent(layer.error),
                rough_percent(layer.largest_error),
            )
            for number, layer in enumerate(self.layers, start=1)
        ]
        stages = [
            (stage.name, rough_percent(stage.differing), f"{stage.error:.3g}", f"{stage.largest_error:.3g}")
            for stage in self.stages
        ]
        return "\n".join(
            [
                *(_table([head, *rows])),
                "errors are shares of a neuron's range: what its spikes tell less what they should",
                "",
                *(_table([("up to", "decisions differ", "error of the lead", "largest"), *stages])),
                f"on {self.states:,} states",
                "",
                *(f"- {sentence}" for sentence in self.advice),
            ]
        )


def diagnose(net: SpikingNetwork, policy: nn.Module, replay: Replay) -> Diagnosis:
    """Measure where a converted network's errors come from.

    The stages are: "weights", exact activations with the network's own weights, where those were rounded to a grid or
    calibrated; "ranges", hidden activations exact but cut off outside their ranges; "spikes", hidden activations as the
    spikes tell them, added up by an exact last layer; "read-out", the network without early exit; "early exit", the
    network.

    Args:
        net: from :func:`snnfast.convert`.
        policy: the network that it was made from.
        replay: states, best those that the conversion has not seen.

    Returns:
        The diagnosis. Printing it gives tables, and sentences that say what to change.

    Raises:
        TypeError, ValueError: if ``net`` was not converted, or ``policy`` or ``replay`` do not fit it.
    """
    settings = made_with(net)
    held_out = ask_about(net, policy, replay)
    states = replay.observations.numpy()
    whole = rebuilt(net)
    exact = clipped_activations(net.spec, states)
    told = spiking_activations(whole, states)
    wanted, lowest = in_ranges(net, activations(read_network(policy), states)[:-1]), lowest_activations(net)
    layers = tuple(_layer(*of) for of in zip(wanted, exact[:-1], told, lowest, strict=True))
    outputs = {}
    if changed_weights(net):
        outputs["weights"] = clipped_activations(net.spec, states, lowest)[-1] * original_units(net)
    outputs["ranges"] = exact[-1] * original_units(net)
    if told:
        weight, bias = net.spec.weights[-1].astype(np.float64), net.spec.biases[-1]
        outputs["spikes"] = (told[-1] @ weight.T + (0.0 if bias is None else bias)) * original_units(net)
    outputs["read-out"] = held_out.ask(whole).outputs
    if net.spec.early_exit is not None:
        outputs["early exit"] = held_out.ask(net).outputs
    stages = tuple(_stage(name, found, held_out) for name, found in outputs.items())
    grid = net.conversion.get("weight_grid")
    advice = _advice(settings, layers, stages, None if grid is None else grid["bits"])
    return Diagnosis(states=len(states), layers=layers, stages=stages, advice=advice)


def _layer(wanted: Float64Array, exact: Float64Array, told: Float64Array, lowest: Float64Array) -> LayerDiagnosis:
    above, below = wanted > 1 + _ROUNDING, wanted < -_ROUNDING
    dead = (wanted <= lowest).all(axis=0)
    error = np.abs(told - exact)[:, ~dead]
    return LayerDiagnosis(
        neurons=wanted.shape[1],
        dead=int(dead.sum()),
        silent=int(((told == 0).all(axis=0) & ~dead).sum()),
        saturated=int(above.any(axis=0).sum()),
        saturated_states=float(above.any(axis=1).mean()),
        clipping_share=float(above.mean()),
        excess=float(wanted.max()),
        below=int(below.any(axis=0).sum()),
        below_states=float(below.any(axis=1).mean()),
        error=float(error.mean()) if error.size else 0.0,
        largest_error=float(error.max()) if error.size else 0.0,
    )


def _stage(name: str, outputs: Float64Array, held_out: HeldOut) -> Stage:
    of = best_two(held_out.outputs)
    error = np.abs(lead(outputs, of) - lead(held_out.outputs, of))
    return Stage(
        name=name,
        error=float(error.mean()),
        largest_error=float(error.max()),
        differing=float((outputs.argmax(axis=1) != held_out.decisions).mean()),
    )


def _advice(
    settings: dict[str, Any], layers: tuple[LayerDiagnosis, ...], stages: tuple[Stage, ...], bits: int | None
) -> tuple[str, ...]:
    """Sentences, in the order of what the stages add to the differing decisions, then what is wrong in layers."""
    by_name = {stage.name: stage for stage in stages}
    added: dict[str, float] = {}
    before = 0.0
    for stage in stages:
        added[stage.name], before = stage.differing - before, stage.differing
    without_exit = by_name["read-out"].differing
    # Calibrated weights are wrong without the spikes whose errors they make good: with those they are one cause.
    weights = 0.0 if settings["calibrate"] is not None else added.get("weights", 0.0)
    # What a read-out averages away was no fault of the spikes: the two are one cause, the number of steps.
    causes = {
        "weights": weights,
        "ranges": added["ranges"],
        "steps": without_exit - added["ranges"] - weights,
        "early exit": added.get("early exit", 0.0),
    }
    sentences = []
    for cause in sorted((c for c in causes if causes[c] >= _WORTH_A_WORD), key=lambda c: -causes[c]):
        share = rough_percent(causes[cause])
        if cause == "weights":
            assert bits is not None
            ways = "" if bits == MAX_BITS else f"raise weight_grid from {bits} to {min(MAX_BITS, bits + 2)}, or "
            sentences.append(
                f"weights rounded to {bits} bits alone make {share} of the decisions differ: {ways}leave the grid out"
            )
        elif cause == "ranges":
            alone = "alone make" if causes["weights"] <= 0 else "make"
            sentences.append(f"the neurons' ranges {alone} {share} of the decisions differ; see the layers below")
        elif cause == "steps":
            more = " more" if causes["weights"] > 0 or causes["ranges"] > 0 else ""
            sentences.append(f"too few steps make {share}{more} of the decisions differ: {_finer(settings, by_name)}")
        else:
            sentences.append(
                f"stopping early makes {share} more of the decisions differ: raise exit_factor to "
                f"{2 * settings['exit_factor']:g}, or take a larger replay to learn from"
                if settings["early_exit"] == "calibrated"
                else f"stopping early makes {share} more of the decisions differ: use early_exit='none'"
            )
    beyond = any(layer.saturated or layer.below for layer in layers)
    if beyond and causes["ranges"] < _WORTH_A_WORD:
        sentences.append(
            f"the neurons' ranges cut activations off, which by itself makes "
            f"{rough_percent(max(0.0, causes['ranges']))} of the decisions differ: it "
            "matters for the outputs, and for a certified exit"
        )
    for number, layer in enumerate(layers, start=1):
        sentences += _layer_advice(number, layer, settings)
    if not sentences:
        differing = stages[-1].differing
        sentences.append(
            "nothing to change: every decision is the policy's"
            if differing == 0
            else f"nothing to change: {rough_percent(differing)} of the decisions differ, and no stage stands out"
        )
    return tuple(sentences)


def _finer(settings: dict[str, Any], stages: dict[str, Stage]) -> str:
    """How to tell numbers more finely with the method at hand."""
    method, steps = settings["method"], settings["timesteps"]
    if settings["spike_error"] is not None:
        return f"lower spike_error to {settings['spike_error'] / 2:g}"
    if method in ("radix", "digits"):
        return f"raise timesteps from {steps} to {steps + 2}"
    words = f"raise timesteps from {steps} to {2 * steps}"
    if settings["order"] == "delayed":
        return f"use order='immediate' and initial_potential=0.5, whose spikes come in time, or {words}"
    words += f", or copies from {settings['copies']} to {4 * settings['copies']}"
    if method == "rate" and settings["readout"] == "final":
        return f"use readout='mean', which averages the membranes' residues away, or {words}"
    if method == "staged" and not settings["ramp"]:
        return f"use ramp=True, which averages the membranes' residues away, or {words}"
    return words


def _layer_advice(number: int, layer: LayerDiagnosis, settings: dict[str, Any]) -> list[str]:
    found = []
    if layer.saturated:
        words = (
            f"layer {number}: {layer.saturated} of {layer.neurons} neurons exceed{'s' * (layer.saturated == 1)} "
            f"{'its' if layer.saturated == 1 else 'their'} range in {rough_percent(layer.saturated_states)} of the "
            f"states, by a factor of up to {layer.excess:.3g}: "
        )
        found.append(words + _wider(layer, settings))
    if layer.below:
        found.append(
            f"layer {number}: {layer.below} of {layer.neurons} neurons fall{'s' * (layer.below == 1)} below "
            f"{'its' if layer.below == 1 else 'their'} range in {rough_percent(layer.below_states)} of the states: "
            "raise percentile, or use shift=False"
        )
    if layer.silent:
        found.append(
            f"layer {number}: {layer.silent} of {layer.neurons} neurons never say{'s' * (layer.silent == 1)} anything "
            "though the original's activations are not 0: they are too small for the number of steps"
        )
    if layer.dead:
        found.append(
            f"layer {number}: {layer.dead} of {layer.neurons} neurons {'is' if layer.dead == 1 else 'are'} dead, 0 in "
            "every state: a smaller network would do"
        )
    return found


def _wider(layer: LayerDiagnosis, settings: dict[str, Any]) -> str:
    if settings["scaling"] == "model":
        return "use scaling='neuron' with a replay"
    percentile = settings["percentile"]
    ways = [f"raise percentile from {percentile:g} to 100"] if percentile < 100 else []
    # Half a unit at a time: a range that just holds these states will not hold others.
    headroom = max(1.5, math.ceil(2 * settings["headroom"] * layer.excess) / 2)
    if settings["scaling"] == "neuron" and headroom <= _MOST_HEADROOM:
        ways.append(f"raise headroom from {settings['headroom']:g} to {headroom:g}")
    return ", or ".join(ways or ["convert with a larger replay, which has states like these"])


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
