# SPDX-License-Identifier: Apache-2.0
"""States that a spiking network would meet by its own decisions, from a model of the recorded transitions.

Recorded states are the original's. A spiking network that decides differently now and then drifts to others, where it
may differ more often, or less. A recording also tells how one state follows another, so the change of the state is
fitted, action by action, with polynomials of the second degree; the network then acts in that model, from the recorded
first states on. That is no substitute for the environment: a model is used only if it foretells recorded transitions
that it was not fitted to, and if the original, acting in it, meets the similarity that was counted.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from snnfast.conversion.scaling import Float64Array
from snnfast.spec import FloatArray

#: Share of the variance of every feature's change that a model may leave unexplained, on episodes it has not seen.
UNEXPLAINED = 1e-3
#: Episodes that are played in a model, about, and the longest.
_PLAYED, _LONGEST = 120, 500
#: First states are played more than once, each time moved by this share of the features' spread.
_MOVED = 0.01
#: Features beyond this many have too many products for a recording to tell apart.
_MOST_FEATURES = 16
#: How far beyond the recorded states a model is believed, in spreads of a feature.
_BELIEVED = 3.0

_Decide = Callable[[FloatArray], npt.NDArray[np.int64]]


@dataclasses.dataclass(frozen=True, eq=False)
class Dynamics:
    """How states follow each other: per action a polynomial of the second degree for every feature's change.

    Attributes:
        centre, spread: of the features.
        coefficients: per action (products, features).
        low, high: the states where it is believed; what goes beyond stays there.
    """

    centre: Float64Array
    spread: Float64Array
    coefficients: tuple[Float64Array, ...]
    low: Float64Array
    high: Float64Array

    def change(self, states: Float64Array, actions: npt.NDArray[np.int64]) -> Float64Array:
        """What is added to the states (N, n) by these actions (N,)."""
        products = _products((states - self.centre) / self.spread)
        changes = np.zeros_like(states)
        for action, coefficients in enumerate(self.coefficients):
            rows = actions == action
            changes[rows] = products[rows] @ coefficients
        return changes

    def next(self, states: Float64Array, actions: npt.NDArray[np.int64]) -> Float64Array:
        """The states (N, n) after these actions."""
        moved: Float64Array = np.clip(states + self.change(states, actions), self.low, self.high)
        return moved


def learn_dynamics(
    observations: FloatArray, actions: npt.NDArray[np.int64], lengths: list[int], n_actions: int
) -> Dynamics | None:
    """A model of recorded transitions, or ``None`` if they do not make one that holds.

    Args:
        observations: (N, n), episode after episode.
        actions: (N,), what was done there.
        lengths: of the episodes.
        n_actions: how many actions there are; one that was never taken has no model, and then there is none.
    """
    if len(lengths) < 2 or observations.shape[1] > _MOST_FEATURES:
        return None
    ends = np.cumsum(lengths)
    follows = np.ones(len(observations), dtype=np.bool_)
    follows[ends - 1] = False
    first = np.flatnonzero(follows)
    half = ends[len(lengths) // 2 - 1]
    states = observations.astype(np.float64)
    tried = _fit(states, actions, first[first < half], n_actions)
    later = first[first >= half]
    if tried is None or len(later) < 2:
        return None
    wanted = states[later + 1] - states[later]
    left = (wanted - tried.change(states[later], actions[later])).var(axis=0)
    if not (left <= UNEXPLAINED * wanted.var(axis=0)).all():
        return None
    return _fit(states, actions, first, n_actions)


def play(dynamics: Dynamics, first: FloatArray, length: int, acts: _Decide, other: _Decide, seed: int) -> Float64Array:
    """Where two agents decide alike while one of them acts: (episodes, steps), ones and zeros.

    Args:
        dynamics: the model.
        first: recorded first states (episodes, n).
        length: steps of an episode, at most 500 of them are played.
        acts: whose decisions are taken.
        other: who is asked as well.
        seed: of the small moves of first states.
    """
    states = np.repeat(first.astype(np.float64), max(1, _PLAYED // len(first)), axis=0)
    states += np.random.default_rng(seed).normal(size=states.shape) * _MOVED * dynamics.spread
    alike = []
    for _ in range(min(length, _LONGEST)):
        observations = states.astype(np.float32)
        actions = acts(observations)
        alike.append(actions == other(observations))
        states = dynamics.next(states, actions)
    return np.stack(alike, axis=1).astype(np.float64)


def _fit(
    states: Float64Array, actions: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], n_actions: int
) -> Dynamics | None:
    centre, spread = states.mean(axis=0), states.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    coefficients = []
    for action in range(n_actions):
        here = rows[actions[rows] == action]
        products = _products((states[here] - centre) / spread)
        if len(here) < 2 * products.shape[1]:
            return None
        coefficients.append(np.linalg.lstsq(products, states[here + 1] - states[here], rcond=None)[0])
    margin = _BELIEVED * spread
    return Dynamics(centre, spread, tuple(coefficients), states.min(axis=0) - margin, states.max(axis=0) + margin)


def _products(states: Float64Array) -> Float64Array:
    """1, every feature, and every product of two: (N, 1 + n + n (n + 1) / 2)."""
    pairs = itertools.combinations_with_replacement(range(states.shape[1]), 2)
    squares = [states[:, i] * states[:, j] for i, j in pairs]
    return np.column_stack([np.ones(len(states)), states, *squares])
