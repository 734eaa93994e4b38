# SPDX-License-Identifier: Apache-2.0
"""How far ahead a decision must be before it may stop: learned from the wrong ones on the replay.

After every step a spiking network has a running output, and with it a decision and a margin: the largest output less
the second. Of the replay's states it is known what the original decides, so it is known which running decisions are
wrong, and how large their margins are. A decision may stop where its margin is larger than all of those, of that step
and every later one, times a factor for the states that the replay does not hold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from snnfast.network import SpikingNetwork
from snnfast.spec import FloatArray, NetworkSpec, RateCode, check_float

#: Fewer states than this learn too small a bound: with 5,000 states and a factor near 1, CartPole lost 0.3 points.
ENOUGH_STATES = 10_000
#: A replay larger than this holds outliers, whose margins would hold up every other decision: per so many states one
#: of each step is left out of account. From 60,000 states such bounds are closer to what other states need than the
#: largest margin of 20,000: on CartPole 0.01 points more alike at 2 % fewer steps.
STATES_PER_OUTLIER = 20_000
#: Numbers to record at once, about: 16 MiB. With so few, memory is used again instead of asked for anew.
_BUDGET = 2**22


@dataclasses.dataclass(frozen=True, eq=False)
class ExitBounds:
    """What a replay says about stopping early.

    Attributes:
        bounds: (T,), float32: the margin that must be exceeded after each step; never rising, and 0 once no decision
            of the replay is wrong any more.
        wrong: (T,), float32: the largest margin among the wrong running decisions of each step, outliers excepted; 0
            where none is wrong.
        states: how many states it was learned from.
    """

    bounds: FloatArray
    wrong: FloatArray
    states: int


def running_outputs(network: SpikingNetwork, observations: FloatArray) -> Iterator[FloatArray]:
    """What a network without an early exit would answer after every step, in batches of states: (T, B, n_out).

    The numbers are those that the network with an early exit compares, bit for bit: the last layer's membrane
    potential U_t, divided by t; with mean read-out ``sum_{s<=t} U_s / (t (t+1) / 2)``, with the parabolic one
    ``sum_{s<=t} s U_s / (t (t+1) (2t+1) / 6)``; with digits U_t itself.

    Args:
        network: of plain neurons, ``RateCode`` or ``DigitsCode``, without early exit.
        observations: (N, n_in).
    """
    spec = network.spec
    size = max(1, _BUDGET // (spec.timesteps * sum(spec.sizes[1:])))
    for start in range(0, len(observations), size):
        potentials = network.simulate(observations[start : start + size], record="potentials").potentials
        assert potentials is not None
        yield _running(spec, potentials[-1].cpu().numpy())


def _running(spec: NetworkSpec, potential: FloatArray) -> FloatArray:
    if spec.code is not None and not isinstance(spec.code, RateCode):
        return potential
    # Sums of float32 in the order of the steps, as the network takes them.
    total: FloatArray = potential
    if spec.decoding != "potential":
        weighted = potential * spec.running_weights[:, None, None]
        total = np.add.accumulate(weighted, axis=0, dtype=np.float32).astype(np.float32)
    running: FloatArray = total / spec.running_divisors[:, None, None]
    return running


def margins(outputs: FloatArray) -> FloatArray:
    """The largest output less the second, along the last axis, in float32."""
    if outputs.shape[-1] == 2:  # the same number, without sorting
        two: FloatArray = np.abs(outputs[..., 0] - outputs[..., 1])
        return two
    best = np.partition(outputs, -2, axis=-1)
    margin: FloatArray = best[..., -1] - best[..., -2]
    return margin


def learn_bounds(
    network: SpikingNetwork,
    observations: FloatArray,
    decisions: npt.NDArray[np.int64],
    factor: float = 1.5,
) -> ExitBounds:
    """Learn the bounds of a calibrated early exit.

    With m_t the largest margin among the wrong running decisions after step t (0 if none is wrong)::

        bound_t = factor * max_{t' >= t} m_t'

    With a factor of at least 1 no decision of these states that stops early is wrong; where the decision after the
    last step is wrong, it stays so. That is so of up to 20,000 states. Of more, m_t is the second largest margin, of
    more than 40,000 the third, and so on.

    Args:
        network: as for :func:`running_outputs`, with at least two outputs.
        observations: (N, n_in), float32, states that the policy meets; at least 10,000 should be there.
        decisions: (N,), what the original network decides.
        factor: positive; 1.5 leaves room for other states, 1 is the quickest that is right on these.

    Raises:
        ValueError: if the factor is not positive.

    Source: Wu et al. 2023, arXiv 2301.09522 (cutoff by the gap of the best two outputs).
    """
    if not check_float("factor", factor) > 0:
        raise ValueError(f"factor must be positive, got {factor!r}")
    spared = max(0, len(observations) - 1) // STATES_PER_OUTLIER
    largest = np.zeros((network.timesteps, spared + 1), np.float32)
    seen = 0
    for outputs in running_outputs(network, observations):
        expected = decisions[seen : seen + outputs.shape[1]]
        differs = outputs.argmax(axis=2) != expected
        found = np.concatenate([largest, np.where(differs, margins(outputs), np.float32(0))], axis=1)
        largest = np.partition(found, -1 - spared, axis=1)[:, -1 - spared :]
        seen += outputs.shape[1]
    wrong = largest.min(axis=1)
    later = np.maximum.accumulate(wrong[::-1])[::-1].astype(np.float64)
    # Rounding to float32 keeps the order, so a factor of 1 or more keeps every wrong margin within its bound.
    bounds = np.minimum(factor * later, float(np.finfo(np.float32).max)).astype(np.float32)
    return ExitBounds(bounds, wrong, seen)
