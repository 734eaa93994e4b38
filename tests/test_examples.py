# SPDX-License-Identifier: Apache-2.0
"""The examples run as a newcomer runs them, shortened, and their tables hold what they promise."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NEEDS_BOX2D = pytest.mark.skipif(importlib.util.find_spec("Box2D") is None, reason="needs Box2D")


def run(name: str, *arguments: str) -> str:
    """What an example prints, run in a process of its own."""
    # Box2D's own classes raise warnings, which as errors would end the interpreter: hence not this process.
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def row(table: str, name: str) -> list[float]:
    """The numbers in the row of that name."""
    (line,) = [line for line in table.splitlines() if re.match(re.escape(name) + r" {2,}", line + "  ")]
    return [float(number) for number in re.findall(r"[-+]?\d+(?:\.\d+)?", line.removeprefix(name))]


def test_digits() -> None:
    table = run("digits.py", "--quick")
    (original,) = row(table, "original")
    assert original > 85  # an untrained network has 10 %
    rows = {steps: row(table, f"T = {steps}") for steps in (2, 4, 8, 16, 32)}
    for accuracy, loss, _, _ in rows.values():
        assert abs(original - accuracy - loss) < 0.011  # rounded to two places
    assert abs(rows[32][1]) <= 0.3
    assert rows[32][2] >= 99.5
    assert rows[32][2] >= rows[2][2]
    spikes = [rows[steps][3] for steps in sorted(rows)]
    assert spikes == sorted(spikes)


@pytest.mark.parametrize(
    ("name", "least_return", "least_similarity", "steps"),
    [
        ("acrobot.py", -200.0, 99.0, (100, 24, 12)),
        pytest.param("lunarlander.py", -100.0, 95.0, (100, 28, 12), marks=NEEDS_BOX2D),
    ],
)
def test_cloned_policies(
    name: str, least_return: float, least_similarity: float, steps: tuple[float, float, float]
) -> None:
    table = run(name, "--quick")
    (original,) = row(table, "original")
    assert original > least_return  # falling down, or never swinging up, has less
    for label, total in zip(("rate, 4 copies, signed", "radix", "digits"), steps, strict=True):
        mean_return, difference, _, similarity, taken, spikes = row(table, label)
        assert abs(mean_return - difference - original) < 0.11  # rounded to one place
        assert similarity >= least_similarity
        assert taken == total
        assert spikes > 0
    exact, early = row(table, "digits"), row(table, "digits, certified exit")
    assert early[3] >= exact[3] - 1
    assert early[4] < exact[4]
    assert early[5] < exact[5]
