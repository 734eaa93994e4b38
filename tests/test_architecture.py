# SPDX-License-Identifier: Apache-2.0
"""The house rules that a machine can check: which room may know which, the stub, and nothing that runs a file."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cuda_host import build

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "python" / "snnfast"
MODULES = sorted(PACKAGE.rglob("*.py"))

# A room may import the rooms of the rows before its own (and its own), and the leaves.
LEAVES = {
    "_version",
    "spec",
    "checkpoint",
    "plots",
    "callers",
    "torch_threads",
    "module_modes",
    "input_width",
    "shares",
}
ORDER = [
    {"reference", "ops", "_core", "_cuda"},
    {"cuda_backend"},
    {"backends"},
    {"network", "layer", "info", "environments"},
    {"learning", "evaluation"},
    {"conversion"},
    {"sweep"},
    {"report"},
    {"bench", "runs"},
    {"cli"},
]
# Libraries that only some rooms may know.
KEPT_TO = {
    "gymnasium": {"environments", "learning", "evaluation"},
    "matplotlib": {"plots"},
    "PIL": {"plots"},
    "_core": {"backends"},
    "_cuda": {"cuda_backend"},
}
FORBIDDEN_CALLS = {"eval", "exec", "pickle.load", "pickle.loads", "torch.load", "torch.save", "yaml.load"}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Full names of all modules that a file imports, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rank(name: str) -> int:
    ranks = [i for i, rooms in enumerate(ORDER) if name in rooms]
    assert ranks, f"room {name!r} has no place in the order of imports: see docs/architecture.md"
    return ranks[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    own = room(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "snnfast":
            allowed = KEPT_TO.get(parts[0])
            assert allowed is None or own in allowed, f"{own} must not import {parts[0]}"
            continue
        other = parts[1]
        if own in ("__init__", "__main__") or other == own or other in LEAVES:
            continue
        if other in KEPT_TO:
            assert own in KEPT_TO[other], f"{own} must not import {other}"
        assert own not in LEAVES, f"{own} is a leaf and must not import {other}"
        assert rank(other) < rank(own), f"{own} must not import {other}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_loads_what_could_run_code(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in FORBIDDEN_CALLS
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {a.name for a in node.names} | {getattr(node, "module", None)}
            assert not names & {"pickle", "marshal", "shelve", "dill"}


INCLUDE = re.compile(r'^#include [<"]([^>"]+)[>"]', re.MULTILINE)


@pytest.mark.parametrize("path", sorted((ROOT / "csrc").rglob("*.*")), ids=lambda p: str(p.relative_to(ROOT)))
def test_includes_run_one_way(path: Path) -> None:
    layers = ["core", "cpu", "cuda", "bind"]
    own = path.relative_to(ROOT / "csrc").parts[0]
    for name in INCLUDE.findall(path.read_text()):
        first = name.split("/")[0]
        if first in layers:
            assert layers.index(first) <= layers.index(own), f"{own} must not include {name}"
            assert {own, first} != {"cpu", "cuda"}, f"{own} must not include {name}"
        assert not name.startswith("torch/")
        assert own == "bind" or not name.startswith("pybind11"), f"{own} must not know pybind11"


def test_files_compiled_with_special_flags_include_no_standard_templates() -> None:
    # The linker may keep the AVX copy of an inline function of the standard library for everyone.
    allowed = {"immintrin.h", "cstdint", "stddef.h"}
    seen, todo = set(), list((ROOT / "csrc" / "cpu").glob("kernels_*.cpp"))
    assert len(todo) == 4
    while todo:
        for name in INCLUDE.findall(todo.pop().read_text()):
            if (ROOT / "csrc" / name).exists():
                if name not in seen:
                    todo.append(ROOT / "csrc" / name)
                seen.add(name)
            else:
                assert name in allowed, name
    assert "core/neuron.h" in seen


def test_the_neuron_rule_is_written_once() -> None:
    # Comparisons with the threshold: in the rule, and nowhere else.
    pattern = re.compile(r"(at_least|above)\([^)]*threshold\)|[<>]=?\s*[\w.]*threshold\b(?!_)")
    users = {
        path.name
        for path in (ROOT / "csrc").rglob("*.*")
        if pattern.search(re.sub(r"//.*", "", path.read_text()).replace("n.threshold > 0", ""))
    }
    assert users == {"neuron.h"}


@pytest.mark.parametrize("flags", ["-O2 -ffp-contract=off", "-ffast-math", "-Ofast", "-ffinite-math-only"])
def test_fast_maths_is_refused(flags: str) -> None:
    if build.compiler() is None:
        pytest.skip("needs a C++ compiler")
    command = [build.compiler(), "-std=c++17", f"-I{ROOT / 'csrc'}", *flags.split(), "-fsyntax-only", "-x", "c++", "-"]
    source = '#include "core/neuron.h"'
    done = subprocess.run([str(c) for c in command], input=source, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == flags.startswith("-O2"), done.stderr
    assert ("build it without -ffast-math" in done.stderr) == (done.returncode != 0)


@pytest.mark.parametrize("module", ["_core", "_cuda"])
def test_the_stub_of_the_compiled_module_is_up_to_date(module: str, tmp_path: Path) -> None:
    pytest.importorskip(f"snnfast.{module}", reason="not part of this build", exc_type=ImportError)
    command = [sys.executable, "-m", "pybind11_stubgen", f"snnfast.{module}", "-o", str(tmp_path), "--exit-code"]
    subprocess.run(command, check=True, capture_output=True)
    made = (tmp_path / "snnfast" / f"{module}.pyi").read_text()
    assert made == (PACKAGE / f"{module}.pyi").read_text(), f"run: {' '.join(command[1:-3])} -o python"


def test_version_is_written_once() -> None:
    import snnfast

    version = snnfast.__version__
    found = [
        str(p.relative_to(ROOT))
        for p in [*ROOT.glob("*.toml"), *ROOT.glob("*.txt"), *MODULES, *(ROOT / "csrc").rglob("*.*")]
        if f'"{version}"' in p.read_text()
    ]
    assert found == ["python/snnfast/_version.py"]
    assert snnfast.backends.core_info()["version"] == version
    # CMake's own PROJECT_VERSION is numbers only: of 0.2.0rc1 a module would say 0.2.0.
    for path in (ROOT / "CMakeLists.txt", ROOT / "cmake" / "cuda.cmake"):
        assert re.findall(r'SNNFAST_VERSION="(.*?)"', path.read_text()) == ["${SKBUILD_PROJECT_VERSION_FULL}"]
