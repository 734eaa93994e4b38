# SPDX-License-Identifier: Apache-2.0
"""Weights on a grid: few enough bits that a sum of them is exact in float32, in whatever order it is taken.

The exact contract prescribes one order of summation because float32 sums depend on it. Sums of integers do not, as
long as float32 can hold them: below 2**24. So if every weight that leads to a neuron is a small integer times one power
of two, the neuron's current comes out the same from any method, matrix units for integers included.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from snnfast.spec import FloatArray, check_count

#: Bits per weight, the sign included.
MIN_BITS, MAX_BITS = 2, 16
#: Two signed bytes hold an integer as 256 a + b with -128 <= a, b <= 127; for both signs alike up to 127 * 257.
LARGEST_INTEGER = 32_639
#: float32 holds every integer below this, so sums of magnitudes must stay below it.
EXACT_SUM = 2**24
_SMALLEST_STEP = -149  # exponent of the smallest float32
_FLOAT_BITS = 24
#: Bits that :func:`whole_multiples` takes from a weight at most: of a count of up to 16 copies.
_MOST_SPARED = 4


@dataclasses.dataclass(frozen=True)
class GridWeights:
    """Weights on a grid.

    Attributes:
        weights: (n_out, n_in), float32.
        steps: (n_out,), float64: per neuron the power of two that all of its weights are multiples of.
    """

    weights: FloatArray
    steps: np.ndarray[tuple[int], np.dtype[np.float64]]


def check_bits(value: object) -> int | None:
    """Return a ``weight_grid`` argument as an ``int``, or ``None`` as it is; raise otherwise."""
    return None if value is None else check_count("weight_grid", value, minimum=MIN_BITS, maximum=MAX_BITS)


def snap_to_grid(weights: FloatArray, bits: int) -> GridWeights:
    """Round every row of a layer's weights to the nearest multiples of a power of two, ties to even.

    Per row the step g is the smallest power of two, at least 2**-149, for which the integers q = weight / g, rounded,
    obey::

        |q| <= min(2**(bits - 1) - 1, 32639)     and     sum |q| < 2**24

    Then each sum of any of the weights, in any order, meets only multiples of g below 2**24 g, all of which float32
    holds: no rounding happens, so order cannot matter. That is what lets integer matrix units, and kernels that add in
    another order, keep the exact contract. The bias need not be on the grid, because it is added once, last.

    No weight is clipped, so none moves by more than g / 2. Where the first rule decides, with L on its right-hand side,
    that is at most max|w| / (L + 1/2): about 2**-15 of the row's largest weight for 16 bits. A row that is on such a
    grid already stays as it is.

    Args:
        weights: (n_out, n_in), float32, finite.
        bits: per weight, the sign included, 2 to 16.

    Raises:
        ValueError: if a sum of the row's magnitudes is beyond float32: such sums depend on the order on any grid.

    Source: the bound on exact integer sums in floating point is Higham 2002, Accuracy and Stability of Numerical
    Algorithms, 2nd ed., section 2.1 (integers up to 2**24 are float32 numbers). Power-of-two steps per output row are
    symmetric quantisation, Jacob et al. 2018, CVPR, with the scale restricted so that scaling is exact too.
    """
    limit = min(2 ** (bits - 1) - 1, LARGEST_INTEGER)
    w = weights.astype(np.float64)
    magnitudes = np.abs(w)
    largest, total = magnitudes.max(axis=1), magnitudes.sum(axis=1)
    # Start below what either rule asks for, so that no step is skipped; double until both hold.
    need = np.maximum(largest / limit, total / EXACT_SUM)
    exponents = np.maximum(np.where(need > 0, np.frexp(need)[1] - 3, _SMALLEST_STEP), _SMALLEST_STEP)
    while True:
        steps = np.ldexp(1.0, exponents)
        q = np.abs(np.rint(w / steps[:, None]))
        too_fine = (q.max(axis=1) > limit) | (q.sum(axis=1) >= EXACT_SUM)
        if not too_fine.any():
            break
        exponents = exponents + too_fine
    beyond = np.flatnonzero(q.sum(axis=1) * steps > float(np.finfo(np.float32).max))
    if len(beyond):
        raise ValueError(
            f"the weights of output {beyond[0]} add up to more than float32 holds, {total[beyond[0]]:.3g}; "
            "their sum depends on the order on any grid"
        )
    snapped = np.rint(w / steps[:, None]) * steps[:, None] + 0.0  # + 0.0: no weight is -0
    return GridWeights(snapped.astype(np.float32), steps)


def whole_multiples(weights: FloatArray, copies: int) -> FloatArray:
    """Round weights to so few bits that no count of spikes times what one of them adds is rounded.

    Of ``copies`` of a neuron, a weight sees between 0 and ``copies`` spikes at once, each of which adds its share of
    the weight. If that share has as many bits less than float32 holds as the count has, their product is exact, and a
    fused multiply-add gives the bits that a product and a sum would: kernels need half the operations. With 3 to 16
    copies the share loses 2 to 4 bits, and no weight moves by more than 2**-20 of itself. One or two copies need
    nothing (a power of two scales exactly), and of more too much would be lost; their weights stay as they are.

    Args:
        weights: (n_out, n_in), float32, finite.
        copies: of every neuron that sends spikes.
    """
    spare = (copies - 1 + copies % 2).bit_length()  # of the largest odd count
    if copies < 3 or spare > _MOST_SPARED:
        return weights
    share = weights / np.float32(copies)
    fractions, exponents = np.frexp(share)
    rounded = np.ldexp(np.rint(np.ldexp(fractions, _FLOAT_BITS - spare)), exponents - (_FLOAT_BITS - spare))
    with np.errstate(over="ignore"):  # the largest numbers stay as they are
        whole: FloatArray = rounded.astype(np.float32) * np.float32(copies)
    return np.where(np.isfinite(whole), whole, weights)
