# SPDX-License-Identifier: Apache-2.0
"""Random streams of an evaluation, and intervals from whole episodes."""

from __future__ import annotations

import enum
import math

import numpy as np
import numpy.typing as npt

#: Resamples of a bootstrap interval.
RESAMPLES = 10_000
#: Share of resamples that an interval covers.
CONFIDENCE = 0.95
_NORMAL = 1.959964  # how many standard deviations that is either way
_BLOCK = 1 << 21  # resampled episodes held in memory at a time


class Stream(enum.IntEnum):
    """What random numbers are drawn for. Streams of one seed are independent of each other."""

    NOOPS = 1
    EPSILON = 2
    BOOTSTRAP = 3
    AGENT = 4
    COMPARED = 5


def uniform(seed: int, stream: Stream, step: int, first: int, count: int) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1), (count, 4), for the episodes ``first``, ..., ``first + count - 1``.

    Each row is a function of seed, stream, step and episode alone, so it matters neither how many episodes run side by
    side nor which agent acts.

    Source: Philox4x64-10, Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3. SC'11. One block of the
    counter holds the four numbers of one episode.
    """
    key = np.array([seed, (int(stream) << 48) + step], dtype=np.uint64)
    counter = np.array([first, 0, 0, 0], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter)).random((count, 4))


def network_seed(seed: int, stream: Stream, first: int) -> int:
    """Seed of a network's own randomness (Poisson encoding) before the first step; each step adds one."""
    return int(np.random.SeedSequence([seed, int(stream), first]).generate_state(1, np.uint64)[0])


def bootstrap_interval(
    numerator: npt.NDArray[np.float64], denominator: npt.NDArray[np.float64], seed: int
) -> tuple[float, float]:
    """Percentile bootstrap interval of ``sum(numerator) / sum(denominator)``, resampling whole episodes.

    With a denominator of ones this is the interval of a mean. With agreements over decisions it is the interval of the
    similarity, clustered by episode: decisions within an episode follow each other and are far from independent.
    The interval always contains the point estimate; for a single episode it is that point.

    Args:
        numerator: (episodes,).
        denominator: (episodes,), not negative, with a positive sum.
        seed: of the resampling.

    Source: Efron 1979, Bootstrap methods: another look at the jackknife; Field and Welsh 2007 (clustered data).
    """
    episodes = len(numerator)
    estimate = float(numerator.sum() / denominator.sum())
    rng = np.random.default_rng(np.random.SeedSequence([seed, int(Stream.BOOTSTRAP)]))
    rows = max(1, _BLOCK // episodes)
    parts = []
    for start in range(0, RESAMPLES, rows):
        drawn = rng.integers(0, episodes, size=(min(rows, RESAMPLES - start), episodes), dtype=np.int32)
        below = denominator[drawn].sum(axis=1)
        kept = below > 0  # a resample made up of episodes without a single decision has no similarity
        parts.append(numerator[drawn].sum(axis=1)[kept] / below[kept])
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(np.concatenate(parts), [tail, 100 - tail])
    return min(float(low), estimate), max(float(high), estimate)


def share_interval(
    equal: npt.NDArray[np.float64], decisions: npt.NDArray[np.float64], seed: int
) -> tuple[float, float]:
    """95 % interval of a share of decisions: of whole episodes resampled, and of Wilson's, the wider at each end.

    The first knows that decisions of an episode are alike; the second that no difference in N decisions is no proof of
    none, and alone has a width where no episode differs from another.

    Args:
        equal: decisions of each episode that count, (episodes,).
        decisions: all decisions of each episode, (episodes,), with a positive sum.
        seed: of the resampling.

    Source: Wilson 1927, Journal of the American Statistical Association 22(158).
    """
    n, z = float(decisions.sum()), _NORMAL
    share = float(equal.sum()) / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = bootstrap_interval(equal, decisions, seed)
    # At a share of 0 or 1 that end of Wilson's is the share itself, but for rounding.
    return max(0.0, min(low, middle - half, share)), min(1.0, max(high, middle + half, share))
