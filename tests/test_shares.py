# SPDX-License-Identifier: Apache-2.0
"""A share of decisions in words: never all where one differs, never none where one does not."""

from __future__ import annotations

import pytest

from snnfast.report.page import percent as page_percent
from snnfast.shares import between, in_percent, percent, rough_percent


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (1.0, "100.00 %"),
        (0.0, "0.00 %"),
        (0.98765, "98.77 %"),
        (0.99994, "99.99 %"),
        (1 - 1 / 50_000, "99.998 %"),
        (1 - 2 / 50_000, "99.996 %"),
        (1 - 2 / 500_000, "99.9996 %"),
        (1e-6, "0.0001 %"),
        (1e-20, "1e-18 %"),
    ],
)
def test_nearly_all_is_not_all_and_nearly_none_not_none(share: float, words: str) -> None:
    assert percent(share) == words


@pytest.mark.parametrize("decimals", [0, 2, 3])
def test_larger_shares_are_never_written_as_smaller_numbers(decimals: int) -> None:
    shares = sorted([1 - 10.0**-d * f for d in range(1, 16) for f in (1, 3, 5, 6, 9)] + [1.0])
    written = [float(in_percent(share, decimals)) for share in shares]
    assert written == sorted(written)
    assert [w >= 100 for w in written] == [share >= 1 for share in shares]


def test_other_forms() -> None:
    assert between((0.5, 1 - 1e-6)) == "50.00 to 99.9999"
    assert page_percent(1 - 2 / 500_000) == "99.9996 %"
    assert page_percent(0.99912) == "99.912 %"
    assert rough_percent(0.000123456) == "0.0123 %"
    assert rough_percent(0.99996) == "99.996 %"
    assert [rough_percent(share, 2) for share in (0.0, 0.995, 0.99999, 1.0)] == ["0 %", "99.5 %", "99.999 %", "100 %"]
