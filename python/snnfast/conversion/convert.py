# SPDX-License-Identifier: Apache-2.0
"""A trained ReLU policy becomes a spiking network."""

from __future__ import annotations

import dataclasses
import functools
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from snnfast._version import __version__
from snnfast.conversion import digits
from snnfast.conversion.calibration import calibrate_biases, fine_tune
from snnfast.conversion.choice import choose
from snnfast.conversion.early_exit import ENOUGH_STATES, learn_bounds
from snnfast.conversion.grid import check_bits, snap_to_grid, whole_multiples
from snnfast.conversion.presets import Budget, Calibration, Method, Preset, Readout
from snnfast.conversion.reading import LinearLayer, read_network
from snnfast.conversion.scaling import STATES, Float64Array, ScaledNetwork, ScalingMethod, activations, scale_network
from snnfast.conversion.settings import resolve
from snnfast.network import SpikingNetwork
from snnfast.spec import (
    Code,
    Decoding,
    DigitsCode,
    EarlyExit,
    FloatArray,
    NetworkSpec,
    NeuronSpec,
    Order,
    RadixCode,
    RateCode,
    StagedCode,
    check_seed,
    plain_array,
)
from snnfast.spec.codes import ExitKind

_DECODING: dict[str, Decoding] = {
    "final": "potential",
    "mean": "mean_potential",
    "parabolic": "parabolic_potential",
}


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
    method: Method | None = None,
    scaling: ScalingMethod | None = None,
    percentile: float | None = None,
    shift: bool | None = None,
    headroom: float | None = None,
    timesteps: int | None = None,
    order: Order | None = None,
    initial_potential: float | None = None,
    readout: Readout | None = None,
    copies: int | None = None,
    signed: bool | None = None,
    ramp: bool | None = None,
    tau: float | None = None,
    first_steps: int | None = None,
    kappa: float | None = None,
    guard: bool | None = None,
    spike_error: float | None = None,
    early_exit: ExitKind | Literal["none"] | None = None,
    exit_factor: float | None = None,
    calibrate: Calibration | Literal["none"] | None = None,
    split_inputs: bool = False,
    weight_grid: int | None = None,
    target_similarity: float | None = None,
    budget: Budget | None = None,
    seed: int = 1,
    backend: str = "auto",
    exact: bool = True,
) -> SpikingNetwork:
    """Convert a trained ReLU network into a network of integrate-and-fire neurons that computes the same outputs.

    Every argument that is left out comes from the preset; without a preset from the one of the method's name, and
    without either from "rate".

    Args:
        policy: a chain of Linear layers with ReLU between them; not modified. See :func:`read_network`.
        replay: states that the policy meets: a ``Replay``, or an array or tensor of observations (N, n_in). May be
            ``None`` with ``scaling="model"``.
        preset: a name in :data:`snnfast.PRESETS`; ``snnfast convert --presets`` describes them.
        method: how hidden neurons tell each other a number: "rate" (:class:`snnfast.RateCode`, all layers at every
            step), "staged" (:class:`snnfast.StagedCode`, one layer after the other), "radix"
            (:class:`snnfast.RadixCode`, spikes that halve) or "digits" (:class:`snnfast.DigitsCode`, signed digits of
            falling worth, all layers at once). All but "rate" need "neuron" scaling.
        scaling: where activation scales come from: "model", "data", "robust" or "neuron".
        percentile: of "robust" and "neuron" scaling, in percent, 0 < percentile <= 100. Without it "rate" with "neuron"
            scaling and a calibrated exit, but not with "qcfs", takes the one of 99.99, 99.95, 99.9 and 99.85 with which
            decisions on the replay stop earliest: four conversions, for a small network on compiled kernels a second
            each from 60,000 states.
        shift: with "neuron" scaling, begin each neuron's range at its lower percentile instead of at 0.
        headroom: with "neuron" scaling, how many times as wide as on the replay every neuron's range is: 1.5 to 2
            where the spiking network may meet states beyond the replay's.
        timesteps: steps T per decision; with "staged" and "radix" (at most 20) those of one hidden layer. With an
            early exit it is the most there can be.
        order: order of the neuron's update, "immediate" or "delayed"; see :class:`NeuronSpec`.
        initial_potential: of hidden neurons, as a fraction of the threshold; 0 with "digits".
        readout: "final" or "mean" membrane potential of the last layer (decoding "potential" or "mean_potential"), or
            "parabolic", its currents weighted with a falling parabola, which is a little better. Of "rate"; the others
            have "final".
        copies: with "rate" and "staged", how many staggered copies there are of every hidden neuron. With "rate" and 3
            to 16 copies the weights behind them are rounded, by 2**-20 of themselves at most, so that a count of
            spikes times a weight is exact, which is quicker; see :func:`snnfast.conversion.grid.whole_multiples`.
        signed: with "rate", let a neuron take a spike back that came too early.
        ramp: with "staged", let early spikes weigh more, which averages the membrane's residue away.
        tau, first_steps, kappa, guard: of "digits"; see :func:`snnfast.conversion.digits.schedule`. Without
            ``first_steps`` the first of several hidden layers stops two steps before the end if there are 12 or more.
        spike_error: of "digits", in place of ``timesteps`` and the four before: fewest spikes, layer after layer, with
            digits per neuron down to this share of the outputs' margin; 1e-4 to 3e-4 for a policy. See
            :func:`snnfast.conversion.digits.staged_schedule`.
        early_exit: when a decision may stop before its last step: "calibrated" ("rate" and "digits"; bounds from the
            replay, see :mod:`snnfast.conversion.early_exit`), or "certified" ("radix" and "digits"; nothing that may
            still come can change it); "none" where the preset has one that is not wanted.
        exit_factor: with "calibrated", how many times as far ahead as any wrong decision of the replay was.
        calibrate: with "rate", "staged" and "radix" and very few steps, make good in the biases what the neurons' few
            levels are off by on average ("bias"), or train the scaled network on with those levels ("qcfs", seconds;
            needs order "immediate" and no ``weight_grid``). See :mod:`snnfast.conversion.calibration`. What they
            bring is in docs/conversion.md: up to 16 steps, 0.1 to 9 points with "qcfs", two thirds of one at most with
            "bias".
        seed: of the training of "qcfs".
        split_inputs: feed positive and negative parts of the observations separately.
        weight_grid: bits per weight, 2 to 16, or ``None`` for none of this: round the weights of every layer but the
            first to multiples of a power of two per neuron, so that sums of them are exact in any order and the
            quickest methods keep the exact contract. The rounded network is another network, with spikes of its
            own; 16 bits move a weight by 2**-15 of its row's largest, about. See ``docs/numerics.md``. What is
            certified is then the rounded network's decision.
        target_similarity: in place of all settings above but the last two: take the cheapest network that decides like
            the policy in at least this share of held-out states, with 95 % certainty. See
            :func:`snnfast.conversion.choice.choose`; ``conversion["choice"]`` says what was tried.
        budget: with ``target_similarity``, what is to be small: "steps" (the default), "spikes" or "latency".
        backend, exact: as for :class:`SpikingNetwork`.

    Returns:
        The network. Its ``output_scale`` turns outputs into the policy's units; its ``conversion`` says how it was
        made, and can be written as JSON.

    Warns:
        UserWarning: if the bounds of a calibrated exit come from fewer than 10,000 states: others need larger ones.

    Raises:
        TypeError, ValueError: naming the argument, what was required and what arrived.
        NotImplementedError: naming the layer of ``policy`` that has no spiking equivalent.
        TargetNotReached: a ``ValueError``; if no network meets ``target_similarity``, with the best that there is.

    Source: Rueckauer et al. 2017, Frontiers in Neuroscience 11:682; Bu et al. 2022, AAAI (initial potential 1/2); for
    the methods see their codes.
    """
    given = dict(
        method=method,
        scaling=scaling,
        percentile=percentile,
        shift=shift,
        headroom=headroom,
        timesteps=timesteps,
        order=order,
        initial_potential=initial_potential,
        readout=readout,
        copies=copies,
        signed=signed,
        ramp=ramp,
        tau=tau,
        first_steps=first_steps,
        kappa=kappa,
        guard=guard,
        spike_error=spike_error,
        early_exit=early_exit,
        exit_factor=exit_factor,
        calibrate=calibrate,
    )
    if target_similarity is not None or budget is not None:
        check_free({"preset": preset, **given}, target_similarity)
        fixed: dict[str, Any] = dict(split_inputs=split_inputs, weight_grid=weight_grid, backend=backend, exact=exact)
        return choose(convert, policy, replay, target_similarity, "steps" if budget is None else budget, **fixed)
    name, settings = resolve(preset, **given)
    observations = None if replay is None else _observations(replay, read_network(policy)[0].weight.shape[1])
    with_settings = functools.partial(
        _convert,
        policy,
        replay,
        observations,
        name,
        split_inputs=split_inputs,
        weight_grid=weight_grid,
        seed=seed,
        backend=backend,
        exact=exact,
    )
    if percentile is None and observations is not None and _looks_for_a_percentile(settings):
        network = _earliest(with_settings, settings, observations)
    else:
        network = with_settings(settings)
    if settings.early_exit == "calibrated" and observations is not None and len(observations) < ENOUGH_STATES:
        warnings.warn(
            f"early_exit='calibrated' learns its bounds from {len(observations)} states of the replay; with fewer than "
            f"{ENOUGH_STATES} they are too small for states that it does not hold: record a larger replay, or raise "
            "exit_factor",
            UserWarning,
            stacklevel=2,
        )
    return network


#: Of these a calibrated exit takes the percentile with which it stops earliest. Narrow ranges make steps fine, but what
#: exceeds them is wrong by a margin that does not fall, and holds the bounds up. Each is the best of some policies: ten
#: of CartPole took 5.57 steps on average with 99.99 for all, 8.52 with 99.85 for all, and 5.36 with their own.
EXIT_PERCENTILES = (99.99, 99.95, 99.9, 99.85)
#: States of the replay that they are compared on, about.
_COMPARED = 20_000


def _looks_for_a_percentile(settings: Preset) -> bool:
    """Whether ranges are told apart by when decisions stop; not where a training of seconds ("qcfs") hangs on each."""
    return (
        settings.early_exit == "calibrated"
        and settings.method == "rate"
        and settings.scaling == "neuron"
        and settings.calibrate != "qcfs"
    )


def _earliest(
    with_settings: Callable[[Preset], SpikingNetwork], settings: Preset, observations: FloatArray
) -> SpikingNetwork:
    """The network with the percentile with which decisions on the replay stop earliest."""
    states = observations[:: max(1, len(observations) // _COMPARED)]
    networks: list[SpikingNetwork] = []
    steps: list[float] = []
    for percentile in EXIT_PERCENTILES:
        network = with_settings(dataclasses.replace(settings, percentile=percentile))
        taken = network.simulate(states).steps
        assert taken is not None
        networks.append(network)
        steps.append(float(taken.double().mean()))
    return networks[int(np.argmin(steps))]


def _convert(
    policy: nn.Module,
    replay: ReplayLike | npt.ArrayLike | Tensor | None,
    observations: FloatArray | None,
    name: str,
    settings: Preset,
    *,
    split_inputs: bool,
    weight_grid: int | None,
    seed: int,
    backend: str,
    exact: bool,
) -> SpikingNetwork:
    """:func:`convert` with all settings known; ``name``: of the preset; ``observations``: the replay's."""
    bits = check_bits(weight_grid)
    neuron = NeuronSpec(order=settings.order, initial_potential=settings.initial_potential)
    decoding = _DECODING[settings.readout]
    if settings.method != "rate" or settings.early_exit is not None:
        gain = 1.0
    else:
        gain = output_gain(neuron, settings.timesteps, decoding, backend=backend)
    layers = read_network(policy)
    _check_layers(settings, layers)
    scaled = scale_network(
        layers,
        observations,
        settings.scaling,
        percentile=settings.percentile,
        shift=settings.shift,
        headroom=settings.headroom,
    )
    weights = scaled.weights if bits is None else _on_grid(scaled.weights, bits)
    code = _code(settings, weights, scaled.biases, observations)
    if isinstance(code, DigitsCode):  # the fewest spikes take as many steps as they need
        settings = dataclasses.replace(settings, timesteps=code.timesteps)

    biases = scaled.biases

    def make(
        weights: Sequence[FloatArray], biases: Sequence[FloatArray | None], leave: EarlyExit | None = None, **about: Any
    ) -> SpikingNetwork:
        if settings.method == "rate" and bits is None:
            weights = [weights[0], *(whole_multiples(w, settings.copies) for w in weights[1:])]
        return SpikingNetwork(
            weights,
            biases,
            neuron,
            settings.timesteps,
            decoding=decoding,
            backend=backend,
            exact=exact,
            split_inputs=split_inputs,
            code=code,
            early_exit=leave,
            **about,
        )

    calibration: dict[str, Any] | None = None
    if settings.calibrate is not None:
        states = _needed(observations, f"calibrate={settings.calibrate!r}")
        if settings.calibrate == "bias":
            wanted = _in_range(activations(layers, states)[:-1], scaled)
            biases = calibrate_biases(make, weights, biases, wanted, states)
            calibration = {"kind": "bias", "states": min(len(states), STATES)}
        else:
            if bits is not None:
                raise ValueError(f"weight_grid must be None with calibrate='qcfs', which moves weights, got {bits}")
            seed = check_seed(seed)
            tuned = fine_tune(
                make,
                weights,
                biases,
                lambda x: activations(layers, x)[-1],
                states,
                scaled.output_scale,
                seed,
            )
            weights, biases = tuned.weights, tuned.biases
            calibration = {
                "kind": "qcfs",
                "seed": seed,
                "kept": tuned.kept,
                "before": tuned.before,
                "after": tuned.after,
            }
    build = functools.partial(make, weights, biases)
    leave, leaving = None, None
    if settings.early_exit is not None:
        bounds = None
        if settings.early_exit == "calibrated":
            states = _needed(observations, "early_exit='calibrated'")
            bounds = learn_bounds(build(), states, _decisions(layers, states), settings.exit_factor)
        leave = EarlyExit(settings.early_exit, None if bounds is None else bounds.bounds)
        leaving = None if bounds is None else {"bounds": bounds.bounds.tolist(), "states": bounds.states}
    return build(
        leave,
        output_scale=scaled.output_scale / gain,
        conversion={
            "preset": name,
            "settings": dataclasses.asdict(settings),
            "scales": [_jsonable(scale) for scale in scaled.scales],
            "shifts": _shifts(scaled),
            "gain": gain,
            "early_exit": leaving,
            "calibration": calibration,
            "weight_grid": None
            if bits is None
            else {"bits": bits, "largest_change": _changes(scaled.weights, weights)},
            "replay": _provenance(replay, observations),
            "version": __version__,
        },
    )


def check_free(given: Mapping[str, Any], target_similarity: float | None) -> None:
    """With a target there is nothing else to set; without one, no budget."""
    if target_similarity is None:
        raise ValueError("budget needs target_similarity: what the network must reach")
    names = [name for name, value in given.items() if value is not None]
    if names:
        raise ValueError(f"target_similarity chooses the settings itself: leave {' and '.join(names)} out")


def _check_layers(settings: Preset, layers: Sequence[LinearLayer]) -> None:
    """What the settings need of the policy, before anything below speaks of weights that the user has not passed."""
    if settings.method != "rate" and len(layers) < 2:
        raise ValueError(
            f"policy must have a hidden layer with method={settings.method!r}, whose hidden neurons fire, got none"
        )
    outputs = len(layers[-1].weight)
    for name in ("early_exit", "spike_error"):
        value = getattr(settings, name)
        if value is not None and outputs < 2:
            raise ValueError(
                f"policy must have at least two outputs with {name}={value!r}, which looks at their difference, "
                f"got {outputs}"
            )


def _code(
    settings: Preset, weights: list[FloatArray], biases: list[FloatArray | None], observations: FloatArray | None
) -> Code | None:
    """How hidden neurons tell each other a number, in these settings; ``None`` for plain neurons."""
    if settings.method == "staged":
        return StagedCode(ramp=settings.ramp, copies=settings.copies)
    if settings.method == "radix":
        return RadixCode()
    if settings.method == "digits" and settings.spike_error is not None:
        scaled = [LinearLayer(w, b) for w, b in zip(weights, biases, strict=True)]
        states = _needed(observations, "spike_error")
        try:
            return digits.staged_schedule(
                weights, *digits.activity_and_sensitivity(scaled, states), error=settings.spike_error
            )
        except ValueError as error:
            raise ValueError(f"spike_error={settings.spike_error!r} is not possible: {error}") from None
    if settings.method == "digits":
        return digits.schedule(
            weights,
            settings.timesteps,
            tau=settings.tau,
            first_steps=first_layers_steps(settings, len(weights) - 1),
            kappa=settings.kappa,
            guard=settings.guard,
        )
    code = RateCode(copies=settings.copies, signed=settings.signed)
    return None if code == RateCode() else code


def first_layers_steps(settings: Preset, hidden_layers: int) -> int | None:
    """Steps of the first layer's digits. Those of its last two digits are spared where others come after it.

    From 12 steps on that is measured to cost nothing (10 % fewer spikes on CartPole, 99.996 instead of 99.995 % at 12
    steps); below, the similarity falls with every digit that is left out.
    """
    if settings.first_steps is None and not settings.guard and hidden_layers > 1 and settings.timesteps >= 12:
        return settings.timesteps - 2
    return settings.first_steps


def output_gain(neuron: NeuronSpec, timesteps: int, decoding: Decoding, *, backend: str = "auto") -> float:
    """Decoded response of one output neuron to a constant input current of 1.

    It is found by running that neuron, so it holds for every combination of decays, order, decoding and number of
    steps: 100 for 100 steps, "immediate" order and final potential; 99 in "delayed" order; 50.5 for the mean. Of the
    parabolic read-out it is the sum of its weights.

    Raises:
        ValueError: if there is no response: in "delayed" order the first current arrives at the second step.
    """
    if decoding == "parabolic_potential":
        weights = NetworkSpec(
            (np.ones((1, 1), np.float32),), (None,), neuron, timesteps, decoding=decoding
        ).step_weights
        return float(weights.sum(dtype=np.float64))
    one = SpikingNetwork([np.ones((1, 1), np.float32)], None, neuron, timesteps, decoding=decoding, backend=backend)
    gain = float(one(np.ones((1, 1), np.float32))[0, 0])
    if not (np.isfinite(gain) and gain > 0):
        raise ValueError(
            f"timesteps must be at least 2 in {neuron.order!r} order: with {timesteps} the output never sees a current"
        )
    return gain


def _needed(observations: FloatArray | None, what: str) -> FloatArray:
    if observations is None:
        raise ValueError(f"{what} needs a replay: the states to learn from")
    return observations


def _in_range(hidden: Sequence[Float64Array], scaled: ScaledNetwork) -> list[Float64Array]:
    """The original's hidden activations in units of the neurons' ranges."""
    return [
        (r - (0.0 if low is None else low)) / scale
        for r, scale, low in zip(hidden, scaled.scales, scaled.shifts, strict=False)
    ]


def _decisions(layers: Sequence[LinearLayer], observations: FloatArray) -> npt.NDArray[np.int64]:
    """What the original network decides."""
    decisions: npt.NDArray[np.int64] = activations(layers, observations)[-1].argmax(axis=1)
    return decisions


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
    try:
        array = plain_array("replay", values)
    except ValueError as error:  # rows of several lengths
        raise ValueError(
            f"replay must hold observations of shape (N, {n_in}), got {type(replay).__name__}: {error}"
        ) from None
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
