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
#: The same for a standard deviation that is itself estimated: Student's t with 1, 2, 3 and 4 degrees of freedom.
_STUDENT = (12.70620, 4.30265, 3.18245, 2.77645)
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
    """Bootstrap interval of ``sum(numerator) / sum(denominator)``, resampling whole episodes, made wide enough for few.

    With a denominator of ones this is the interval of a mean. With agreements over decisions it is the interval of the
    similarity, clustered by episode: decisions within an episode follow each other and are far from independent.

    Percentiles of resamples alone are too narrow for few episodes, as an interval of a mean would be that divides by n
    in place of n - 1, and takes the normal distribution in place of Student's: with 3 episodes they hold the truth 70
    to 85 times in 100, not 95 times. So both ends are moved away from the estimate by what that makes up: 2.7 times as
    far with 3 episodes, 1.6 times with 5, 1.2 times with 10, hardly with 100. Simulated, it then holds the truth 92 to
    95 times in 100 from 3 episodes on, where episodes are about alike; 84 to 92 times with up to 10 very uneven ones
    (exponential returns, shares near 1). No formula knows of a kind of episode that has not occurred. The ends may lie
    where no truth can, such as at a share above 1.

    The interval always contains the point estimate; for a single episode, or a single one with a positive denominator,
    it is that point.

    Args:
        numerator: (episodes,).
        denominator: (episodes,), not negative, with a positive sum.
        seed: of the resampling.

    Source: Efron 1979, Bootstrap methods: another look at the jackknife; Field and Welsh 2007 (clustered data);
    Hesterberg 2015, What teachers should know about the bootstrap, The American Statistician 69(4) (few samples).
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
    wider = _few(int(np.count_nonzero(denominator)))
    return estimate - wider * max(0.0, estimate - float(low)), estimate + wider * max(0.0, float(high) - estimate)


def _few(episodes: int) -> float:
    """How many times as wide an interval of so many episodes must be as their resamples are.

    From 5 degrees of freedom on Student's t is the first terms of a series in their inverse, to 0.0003; Abramowitz and
    Stegun 1964, 26.7.5.
    """
    if episodes < 2:
        return 1.0
    free, z = episodes - 1, _NORMAL
    if free <= len(_STUDENT):
        t = _STUDENT[free - 1]
    else:
        terms = (
            (z**3 + z) / 4,
            (5 * z**5 + 16 * z**3 + 3 * z) / 96,
            (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
            (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
        )
        t = z + sum(term / free**power for power, term in enumerate(terms, start=1))
    return math.sqrt(episodes / free) * t / z


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
