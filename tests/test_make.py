# SPDX-License-Identifier: Apache-2.0
"""What `make` and `.ci/run` do before anything is compiled, with stand-ins for Python; which versions they install."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
INSTALLED = ".venv/.installed"
# `python -m venv FOLDER` makes an interpreter that reads its environment as pip does: every word is a path.
PYTHON = """#!/bin/sh
mkdir -p "$3/bin"
echo '#!/bin/sh' > "$3/bin/python"
echo 'for path in $PIP_CONSTRAINT $PIP_BUILD_CONSTRAINT; do cat "$path" || exit 1; done' >> "$3/bin/python"
chmod +x "$3/bin/python"
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`make` in a folder with a space in its name, which has the files that are looked for."""
    folder = tmp_path / "two words"
    for name in ("csrc", "python", "cmake"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").touch()
    for name in ("pyproject.toml", "CMakeLists.txt", "constraints.txt", "Makefile"):
        shutil.copy(ROOT / name, folder)

    def run(*arguments: str, python: str = PYTHON) -> subprocess.CompletedProcess[str]:
        stand_in = tmp_path / "python"
        stand_in.write_text(python)
        stand_in.chmod(0o755)
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "MAKE", "VENV"))}
        command = ["make", "-C", str(folder), f"PYTHON={stand_in}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    return run


def test_it_installs_in_a_folder_with_a_space(make: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = make(INSTALLED)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("scikit-build-core==") == 2  # for what is run with, and for what is built with


@pytest.mark.parametrize("folder", ["csrc", "python", "cmake"])
def test_it_installs_again_after_a_change(
    make: Callable[..., subprocess.CompletedProcess[str]], folder: str, tmp_path: Path
) -> None:
    assert make(INSTALLED).returncode == 0
    assert "pip install" not in make("-n", INSTALLED).stdout
    marker = (tmp_path / "two words" / INSTALLED).stat().st_mtime
    os.utime(tmp_path / "two words" / folder / "file", (marker + 1, marker + 1))
    assert "pip install" in make("-n", INSTALLED).stdout


def test_a_virtual_environment_that_failed_is_made_anew(
    make: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    # As Debian's Python does without python3-venv: the interpreter is there already, and pip is not.
    assert make(INSTALLED, python=PYTHON + "echo 'no ensurepip' >&2\nexit 1\n").returncode != 0
    assert not (tmp_path / "two words" / ".venv" / "bin" / "python").exists()
    assert make(INSTALLED).returncode == 0


@pytest.mark.parametrize("fails", ["lint", "test", "nothing"])
def test_ci_fails_with_either_and_leaves_no_virtual_environment(fails: str, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    rules = [f"{name}:\n\tmkdir -p $(VENV)/{name}\n\ttest {name} != {fails}\n" for name in ("lint", "test")]
    (tmp_path / "Makefile").write_text("\n".join(rules))
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "VENV"))}
    environment["TMPDIR"] = str(tmp_path / "tmp")
    done = subprocess.run(
        ["bash", tmp_path / ".ci" / "run"], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.returncode == 0) == (fails == "nothing"), done.stderr
    assert "mkdir -p" in done.stdout
    assert list((tmp_path / "tmp").iterdir()) == []


def test_every_version_is_one_for_the_oldest_python_too() -> None:
    requirements = pytest.importorskip("packaging.requirements")
    specifiers = pytest.importorskip("packaging.specifiers")
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = [requirements.Requirement(line) for line in lines]
    for version in ("3.10", "3.11", "3.12", "3.13", "3.14"):
        chosen = [pin for pin in pins if pin.marker is None or pin.marker.evaluate({"python_version": version})]
        assert sorted(pin.name for pin in chosen) == sorted({pin.name for pin in pins}), version
        for pin in chosen:
            try:
                found = importlib.metadata.metadata(pin.name)
            except importlib.metadata.PackageNotFoundError:
                continue
            # SpikingJelly has no such version; it is compared with where it is installed, and never needed.
            if found["Version"] in pin.specifier and pin.name != "spikingjelly":
                assert version in specifiers.SpecifierSet(found.get("Requires-Python") or ""), f"{pin} with {version}"
