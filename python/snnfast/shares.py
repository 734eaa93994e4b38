# SPDX-License-Identifier: Apache-2.0
"""Shares in words: nearly all is never shown as all, nor nearly none as none."""

from __future__ import annotations

#: Decimals beyond which a share in percent is written with an exponent.
_MOST_DECIMALS = 15


def in_percent(share: float, decimals: int = 2) -> str:
    """A share from 0 to 1 in percent, as a number without its unit.

    Rounded to ``decimals``, but with as many more as it takes: below 1 it is never written as 100, above 0 never as 0.
    One decision of a million that differs would else be shown as none.
    """
    value = 100 * share
    while decimals < _MOST_DECIMALS and (
        (share < 1 and float(f"{value:.{decimals}f}") >= 100) or (share > 0 and float(f"{value:.{decimals}f}") <= 0)
    ):
        decimals += 1
    text = f"{value:.{decimals}f}"
    return f"{value:.1g}" if share > 0 and float(text) <= 0 else text


def percent(share: float, decimals: int = 2) -> str:
    """The same with its unit."""
    return f"{in_percent(share, decimals)} %"


def between(interval: tuple[float, float], decimals: int = 2) -> str:
    """An interval of shares in percent, without its unit."""
    return f"{in_percent(interval[0], decimals)} to {in_percent(interval[1], decimals)}"


def rough_percent(share: float, digits: int = 3) -> str:
    """A share, most often a small one, with so many significant digits; more where it would else be shown as all."""
    if 0.99 < share < 1:
        return percent(share, max(0, digits - 2))
    return f"{100 * share:.{digits if share < 1 else max(digits, 3)}g} %"
