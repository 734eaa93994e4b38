# SPDX-License-Identifier: Apache-2.0
"""Tables of signed digits, made backwards from the last step: what an early digit gets wrong, a later one repairs.

All hidden layers send at once (:class:`snnfast.DigitsCode`). A neuron's first digits answer to a drive that still
moves, because the layer before is still sending. How far it can still move is known beforehand: no further than the
digits to come are worth. So the worth of every digit is chosen such that the digits after it can repair the most that
it can get wrong, and every neuron ends within half its last digit of its target, whatever the input.

Per neuron, with activations from 0 to 1, ``C[t]`` what the digits after step t can still repair and ``U[t]`` how far
the target may still move after step t, the rule is, backwards from the last step T::

    C[T] = w[T] / 2      w[t] = max(0, (C[t] - U[t]) / tau)      C[t-1] = C[t] + w[t]      until C reaches 1

with threshold ``tau w[t]``. If a neuron is silent at step t, its target is less than ``tau w + U = C[t]`` away. If it
sends, the target was at most ``C[t-1]`` away, so at most ``C[t]`` is left on that side; on the other side it is at
least ``tau w`` away before, so at most ``(1 - tau) w + U <= C[t]`` after, for tau of at least 1/2.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from snnfast.conversion.reading import LinearLayer
from snnfast.conversion.scaling import Float64Array
from snnfast.spec import DigitsCode, FloatArray, check_count, check_float
from snnfast.spec.checks import as_array

#: More steps than this add nothing that float32 could hold.
MAX_STEPS = 1024
#: No last digit is smaller: the worth of every digit must be a normal float32 number.
SMALLEST_DIGIT = 2.0**-64
#: Halvings, in the exponent, that find the last digit of :func:`schedule` to the last bit of float32.
_BISECTIONS = 34
_INFINITY = np.float32(np.inf)
#: Shares of replay states and of the layer's largest sensitivity below which digits per neuron do not follow them:
#: a neuron that hardly fires on a replay may fire more elsewhere.
ACTIVITY_FLOOR = 1e-3
SENSITIVITY_FLOOR = 1e-4


def schedule(
    weights: Sequence[npt.ArrayLike],
    timesteps: int,
    *,
    tau: float = 0.5,
    first_steps: int | None = None,
    kappa: float | None = None,
    guard: bool = False,
) -> DigitsCode:
    """The tables of overlapped signed digits for a network whose hidden activations are from 0 to 1.

    The last digit of every neuron is the smallest one with which its digits reach from 1 to it. It falls by about
    a factor 3 per step; a layer on top of another costs about log3 of its largest row sum of magnitudes in steps.

    Args:
        weights: per layer (n_out, n_in), the last one included, as :func:`scale_network` with "neuron" gives them.
        timesteps: steps T of a decision, all layers together.
        tau: thresholds as a share of what a digit is worth, 1/2 to 1. Above 1/2 there are fewer spikes, and coarser
            last digits. The last step's is 1/2 in any case.
        first_steps: let the first hidden layer stop after this many steps, so that the others' targets stand still
            from there on; ``None`` for ``timesteps``. One to three less saves spikes, and often makes the last digits
            finer.
        kappa: take the most that a target moves to be no more than ``kappa`` standard deviations of a sum whose terms
            have random signs. Finer digits for wide layers (1 to 1.5 for 256 neurons), but a promise no more: a neuron
            may end further than half a digit from its target. Not for fewer than about 64 inputs per neuron.
        guard: binary spikes only. A neuron lowers its drive by the most that it may still fall, and so never sends what
            it would have to take back. Needs about four steps more.

    Returns:
        The code. Its ``remaining`` holds for every input, also with ``kappa``: it is computed from the finished,
        rounded tables for the most that targets can move, so it is then well above half a digit at the end.

    Raises:
        TypeError, ValueError: naming the argument, what was required and what arrived.

    Source: the rule above (balanced ternary numbers where nothing moves; compare redundant digits of on-line
    arithmetic, Ercegovac and Lang, and Canonic Signed Spikes, arXiv 2408.17245). With guard
    ``w[t] = C[t] - U[t] + w[T] / 2``, threshold ``C[t] - U[t]``, where U is what the drive may still rise and what it
    was lowered by.
    """
    matrices = _matrices(weights)
    steps = check_count("timesteps", timesteps, maximum=MAX_STEPS)
    first = steps if first_steps is None else check_count("first_steps", first_steps, maximum=steps)
    if not isinstance(guard, bool):
        raise TypeError(f"guard must be True or False, got {guard!r}")
    tau = _check_tau(tau)
    if guard and tau != 0.5:
        raise ValueError(f"tau must be 0.5 with guard=True, which has thresholds of its own, got {tau!r}")
    if kappa is not None and not (kappa := check_float("kappa", kappa)) > 0:
        raise ValueError(f"kappa must be positive, or None for the worst case, got {kappa!r}")
    layers: list[_Layer] = []
    for matrix in matrices[:-1]:
        before = layers[-1] if layers else None
        window = steps if layers else first
        planned = _moves(matrix, before, window, guard, kappa)
        last = _smallest_last(planned, tau, guard)
        values, thresholds = _backwards(last, planned, tau, guard)[:2]
        still = np.zeros((steps - window, len(matrix)))
        layers.append(
            _Layer(
                np.concatenate([values, still]),
                np.concatenate([thresholds, still]),
                np.concatenate([planned.fall, still]) if guard else None,
                _moves(matrix, before, steps, guard, None),
            )
        )
    return _code(layers)


def staged_schedule(
    weights: Sequence[npt.ArrayLike],
    activity: Sequence[npt.ArrayLike],
    sensitivity: Sequence[npt.ArrayLike],
    *,
    error: float = 3e-4,
    rho: float = 0.9,
    tau: float | None = None,
) -> DigitsCode:
    """The tables that need the fewest spikes: one hidden layer after the other, and digits per neuron.

    A digit is worth ``rho`` of the one before: many digits to choose from, of which few are sent. Neuron i ends with
    the digit ``error * sqrt(p / g)``, which for a given error of the output makes the sum of ``p log(1 / digit)``
    smallest, hence about the number of spikes.

    Args:
        weights: as for :func:`schedule`.
        activity: per hidden layer (n,): p, the share of states in which the neuron is active. At least 0.001 is taken.
        sensitivity: per hidden layer (n,): g, the mean square of the output's derivative by the neuron's activation. At
            least 0.0001 of the layer's largest is taken. Both from :func:`activity_and_sensitivity`.
        error: what one neuron's last digit may change the output by, in the unit of ``sensitivity``.
        rho: what a digit is worth, as a share of the one before, 1/3 to 1 (1 excluded). Near 1: few spikes, many steps
            (CartPole: 44 spikes in 79 steps with 0.8, 37 in 165 with 0.9).
        tau: thresholds as a share of what a digit is worth; ``None`` for ``2 rho / (1 + rho)``, by which every spike
            divides what is left by at least ``(1 + rho) / (1 - rho)``. The last digit's is 1/2 in any case.

    Returns:
        The code; its ``timesteps`` follow from ``error`` and ``rho``.

    Raises:
        TypeError, ValueError: naming the argument, what was required and what arrived.
    """
    matrices = _matrices(weights)
    hidden = [len(m) for m in matrices[:-1]]
    shares, gains = (
        _per_neuron(name, given, hidden) for name, given in (("activity", activity), ("sensitivity", sensitivity))
    )
    for i, share in enumerate(shares):
        if share.max() > 1:
            raise ValueError(f"activity[{i}] must be shares from 0 to 1, got {share.max()}")
    if not (error := check_float("error", error)) > 0:
        raise ValueError(f"error must be positive, got {error!r}")
    rho = check_float("rho", rho)
    if not 1 / 3 <= rho < 1:
        raise ValueError(f"rho must be from 1/3 to 1 (1 excluded), got {rho!r}")
    tau = _check_tau(2 * rho / (1 + rho) if tau is None else tau)
    if tau > 1.5 * rho:
        raise ValueError(
            f"tau must be at most 1.5 * rho = {1.5 * rho:.6g}, so that the last digit can repair what the one before "
            f"left, got {tau!r}"
        )
    # The threshold of a digit before the first would be 1, so this is the digit that is nearest to 1.
    top = min(1.0, rho / tau)
    tables: list[tuple[Float64Array, Float64Array]] = []
    for share, gain in zip(shares, gains, strict=True):
        gain = np.maximum(gain, SENSITIVITY_FLOOR * gain.max())
        with np.errstate(divide="ignore"):
            wanted = error * np.sqrt(np.maximum(share, ACTIVITY_FLOOR) / gain)
        last = np.clip(wanted, SMALLEST_DIGIT, top)
        counts = 1 + np.ceil(np.log(top / last) / -math.log(rho)).astype(int)
        after = np.arange(counts.max())[::-1, None]
        if len(after) * len(hidden) > MAX_STEPS:
            raise ValueError(
                f"error must be larger or rho smaller: a layer would need {len(after)} steps, got error={error!r} "
                f"and rho={rho!r}"
            )
        worth = np.where(after < counts, np.minimum(last * rho ** -after.astype(float), top), 0.0)
        worth = worth.astype(np.float32).astype(np.float64)
        tables.append((worth, _down(np.where(after == 0, 0.5, tau) * worth)))
    steps, start = sum(len(worth) for worth, _ in tables), 0
    layers: list[_Layer] = []
    for matrix, (worth, threshold) in zip(matrices[:-1], tables, strict=True):
        around = ((start, steps - start - len(worth)), (0, 0))
        values, thresholds = np.pad(worth, around), np.pad(threshold, around)
        layers.append(_Layer(values, thresholds, None, _moves(matrix, layers[-1] if layers else None, steps, False)))
        start += len(worth)
    return _code(layers)


def activity_and_sensitivity(
    layers: Sequence[LinearLayer], observations: npt.ArrayLike
) -> tuple[list[Float64Array], list[Float64Array]]:
    """How often hidden neurons are active, and how much the decision depends on them: for :func:`staged_schedule`.

    The output that counts is the margin, the largest output less the second, in units of its root mean square.

    Args:
        layers: the network, in the units in which its activations are sent.
        observations: states (N, n_in) that it meets.

    Returns:
        Per hidden layer (n,) the share of states in which the neuron is active, and the mean square of the margin's
        derivative by the neuron's activation.

    Raises:
        ValueError: if there are fewer than two outputs, or the margin is 0 in all states.
    """
    if len(layers[-1].weight) < 2:
        raise ValueError(f"layers must end in at least two outputs, whose margin counts, got {len(layers[-1].weight)}")
    x = np.asarray(observations, dtype=np.float64)
    active: list[npt.NDArray[np.bool_]] = []
    for weight, bias in layers[:-1]:
        x = x @ weight.T.astype(np.float64) + (0.0 if bias is None else bias)
        active.append(x > 0)
        x = np.maximum(x, 0.0)
    weight, bias = layers[-1]
    outputs = x @ weight.T.astype(np.float64) + (0.0 if bias is None else bias)
    second, top = np.argsort(outputs, axis=1, kind="stable")[:, -2:].T
    states = np.arange(len(outputs))
    scale = np.mean((outputs[states, top] - outputs[states, second]) ** 2)
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(f"observations must be states where outputs differ, got a mean square margin of {scale}")
    slope = weight[top].astype(np.float64) - weight[second]
    sensitivity = []
    for i in reversed(range(len(active))):
        sensitivity.append(np.mean(slope**2, axis=0) / scale)
        slope = (slope * active[i]) @ layers[i].weight.astype(np.float64)
    return [a.mean(axis=0) for a in active], sensitivity[::-1]


@dataclasses.dataclass(frozen=True)
class _Moves:
    """Per step (T, n), how far a layer's drives may still fall and rise after it; equally far without guard."""

    fall: Float64Array
    rise: Float64Array


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A layer's finished tables (T, n), every number one of float32, and how far its drives may move, at most."""

    values: Float64Array
    thresholds: Float64Array
    guards: Float64Array | None
    moves: _Moves

    def coming(self) -> Float64Array:
        """What all digits after step t are worth together."""
        coming: Float64Array = self.values[::-1].cumsum(axis=0)[::-1] - self.values
        return np.maximum(coming, 0.0)

    def remaining(self) -> Float64Array:
        """The most that a neuron may differ from its target after each step, from the tables alone."""
        n = self.values.shape[1]
        above, below = np.ones(n), np.zeros(n)  # the target less what was sent, and the other way round
        found = np.empty_like(self.values)
        for t, (w, threshold) in enumerate(zip(self.values, self.thresholds, strict=True)):
            fall, rise = self.moves.fall[t], self.moves.rise[t]
            if self.guards is None:
                silent, sent = threshold + fall, w - threshold + fall
                higher = np.maximum(np.maximum(np.minimum(above, silent), above - w), sent)
                lower = np.maximum(np.maximum(np.minimum(below, silent), below - w), sent)
            else:
                guard = self.guards[t]
                higher = np.maximum(np.minimum(above, threshold + rise + guard), above - w)
                lower = np.maximum(below, w - threshold + np.maximum(fall - guard, 0.0))
            above, below = np.where(w > 0, higher, above), np.where(w > 0, lower, below)
            found[t] = np.maximum(above, below)
        return _up(found)


def _code(layers: Sequence[_Layer]) -> DigitsCode:
    guards = [layer.guards for layer in layers if layer.guards is not None]
    return DigitsCode(
        values=_float32(layer.values for layer in layers),
        thresholds=_float32(layer.thresholds for layer in layers),
        remaining=_float32(layer.remaining() for layer in layers),
        guards=_float32(guards) if guards else None,
    )


def _float32(tables: Iterable[Float64Array]) -> tuple[FloatArray, ...]:
    return tuple(table.astype(np.float32) for table in tables)


def _moves(matrix: Float64Array, before: _Layer | None, steps: int, guard: bool, kappa: float | None = None) -> _Moves:
    """How far the drives of a layer may still move, from what the layer ``before`` may still send.

    With guard the layer before sends nothing negative, and ``fall``, which is then a table too, is rounded up to
    float32. With ``kappa`` both are what is likely instead of what is possible.
    """
    if before is None:
        still = np.zeros((steps, len(matrix)))
        return _Moves(still, still)
    coming = before.coming()

    def most(w: Float64Array) -> Float64Array:
        possible: Float64Array = coming @ w.T
        if kappa is None:
            return possible
        likely: Float64Array = np.minimum(possible, kappa * np.sqrt(coming**2 @ (w**2).T))
        return likely

    if not guard:
        moves = most(np.abs(matrix))
        return _Moves(moves, moves)
    return _Moves(_up(most(np.maximum(-matrix, 0.0))), most(np.maximum(matrix, 0.0)))


def _backwards(
    last: Float64Array, moves: _Moves, tau: float, guard: bool, *, rounded: bool = True
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Values and thresholds (T, n) for last digits (n,), and from how far away they reach the target, at most 1.

    What is ``rounded`` to float32 is rounded to the side that keeps the promise, and the step before reckons with it.
    """
    values, thresholds = np.zeros((2, *moves.fall.shape))
    moved = moves.fall + moves.rise if guard else moves.fall
    down, up = (_down, _up) if rounded else (np.asarray, np.asarray)
    half = 0.5 * last
    reach = half
    for t in reversed(range(len(values))):
        margin = reach - moved[t]
        share = 0.5 if t == len(values) - 1 else tau
        threshold = down(margin)
        worth = down(threshold + half if guard else margin / share)
        # The first digit need not reach further than 1.
        worth = np.where(margin > 0.5 * SMALLEST_DIGIT, np.minimum(worth, np.maximum(up(1.0 - reach), 0.0)), 0.0)
        if not guard:
            threshold = down(worth * share)
        values[t], thresholds[t] = worth, np.where(worth > 0, threshold, 0.0)
        reach = reach + worth
    return values, thresholds, reach


def _smallest_last(moves: _Moves, tau: float, guard: bool) -> Float64Array:
    """Per neuron the smallest last digit (in float32) with which the digits reach from 1 to it, by bisection."""
    n = moves.fall.shape[1]
    low, high = np.full(n, SMALLEST_DIGIT), np.full(n, 2 / 3)  # 2/3 reaches by itself
    for _ in range(_BISECTIONS):
        middle = np.sqrt(low * high)
        reaches = _backwards(middle, moves, tau, guard, rounded=False)[2] > 1.0 - 2.0**-40
        low, high = np.where(reaches, low, middle), np.where(reaches, middle, high)
    last = _up(high)
    # Rounded digits reach a little less far.
    while not (reaches := _backwards(last, moves, tau, guard)[2] >= 1.0).all():
        last = np.where(reaches, last, _up(last * (1.0 + 2.0**-24)))
    return last


def _down(values: Float64Array) -> Float64Array:
    """Rounded to float32, never up."""
    return -_up(-values)


def _up(values: Float64Array) -> Float64Array:
    """Rounded to float32, never down."""
    with np.errstate(over="ignore"):  # what does not fit is infinite, or the largest there is
        rounded = values.astype(np.float32)
    up: Float64Array = np.where(rounded < values, np.nextafter(rounded, _INFINITY), rounded).astype(np.float64)
    return up


def _check_tau(tau: object) -> float:
    share = check_float("tau", tau)
    if not 0.5 <= share <= 1:
        raise ValueError(f"tau must be from 0.5 to 1, got {tau!r}")
    return share


def _matrices(weights: Any) -> list[Float64Array]:
    """Weights in float64, checked to be those of a network with hidden layers."""
    if isinstance(weights, np.ndarray) or not isinstance(weights, Sequence):
        raise TypeError(f"weights must be a sequence of arrays, one per layer, got {type(weights).__name__}")
    if len(weights) < 2:
        raise ValueError(f"weights must have at least two layers: it is the hidden ones that fire, got {len(weights)}")
    matrices = [as_array(f"weights[{i}]", w, 2).astype(np.float64) for i, w in enumerate(weights)]
    for i, (before, after) in enumerate(itertools.pairwise(matrices)):
        if after.shape[1] != len(before):
            raise ValueError(
                f"weights[{i + 1}] must have {len(before)} columns, the outputs of layer {i}, got shape {after.shape}"
            )
    return matrices


def _per_neuron(name: str, given: Any, hidden: list[int]) -> list[Float64Array]:
    """One non-negative number per hidden neuron."""
    if isinstance(given, np.ndarray) or not isinstance(given, Sequence):
        raise TypeError(f"{name} must be a sequence of arrays, one per hidden layer, got {type(given).__name__}")
    arrays = [as_array(f"{name}[{i}]", a, 1).astype(np.float64) for i, a in enumerate(given)]
    if [len(a) for a in arrays] != hidden:
        raise ValueError(f"{name} must have one number per hidden neuron, {hidden}, got {[len(a) for a in arrays]}")
    for i, array in enumerate(arrays):
        if array.min() < 0:
            raise ValueError(f"{name}[{i}] must not be negative, got {array.min()}")
    return arrays
