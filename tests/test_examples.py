# SPDX-License-Identifier: Apache-2.0
"""The examples run as a newcomer runs them, shortened, and their tables hold what they promise."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run(name: str, *arguments: str) -> str:
    """What an example prints, run in a process of its own."""
    # Box2D's own classes raise warnings, which as errors would end the interpreter: hence not this process.
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" or "Traceback" not in done.stderr
    return done.stdout


def numbers(line: str) -> list[float]:
    """The numbers of a row of a table, without the row's name."""
    return [float(n) for n in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.])", line.replace(",", ""))]


def row(table: str, name: str) -> list[float]:
    """The numbers of the row of that name."""
    (line,) = [line for line in table.splitlines() if line.startswith(f"{name} ")]
    return numbers(line.replace(name, "".ljust(len(name)), 1))


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
