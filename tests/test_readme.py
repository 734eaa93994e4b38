# SPDX-License-Identifier: Apache-2.0
"""The README's example runs as it stands, and its links lead somewhere."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_the_python_example_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in example.splitlines() if line]) <= 15
    check = "\nimport torch\nassert torch.equal(again(replay.observations), net(replay.observations))\n"
    check += "assert action == int(policy(replay.observations[:1]).argmax())\n"
    check += "assert report.similarity > 0.98 and report.mean_return == 500.0\n"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", example + check],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "similarity" in result.stdout


def test_links_and_pictures_exist_in_a_source_archive_too() -> None:
    targets = re.findall(r"\]\(([^)]+)\)", README) + re.findall(r"`(docs/[\w./]+|\w+\.md)`", README)
    assert len(targets) >= 4
    left_out = re.findall(
        r"^sdist\.exclude = (\[.*?\])", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL
    )
    folders = [name for names in left_out for name in ast.literal_eval(names)]
    for target in targets:
        assert (ROOT / target).exists(), target
        assert not target.startswith(tuple(folders)), target


def test_commands_that_the_readme_names_exist() -> None:
    from snnfast.cli import main

    commands = set(re.findall(r"`snnfast (\w+)", README))
    assert commands
    for command in commands:
        assert main([command, "--help"]) == 0, command


def test_no_placeholder_was_left() -> None:
    """A word in capitals on a line of its own is where a table is still to be put in."""
    placeholder = re.compile(r"^[A-Z]{6,}$", re.MULTILINE)
    assert placeholder.search("text\n\nSPEEDTABLE\n\nmore")
    assert not placeholder.findall(README)
