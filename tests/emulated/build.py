# SPDX-License-Identifier: Apache-2.0
"""Build the parity program from the sources and flags of the wheel; static, so that it runs in any emulated machine."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
MAIN = "parity_main.cpp"
# What CMake adds for C++17 without extensions and for the build type Release, which is that of the wheel.
STANDARD = ("-std=c++17", "-O3", "-DNDEBUG", "-pthread")
X86 = ("-DSNNFAST_X86",)
#: Debian's compiler for another processor than this machine's.
ARM_COMPILER = "aarch64-linux-gnu-g++"


@dataclasses.dataclass(frozen=True)
class Project:
    """What ``CMakeLists.txt`` says of the CPU backend. Read, not repeated, so that the two cannot drift apart."""

    flags: tuple[str, ...]
    sources: tuple[Path, ...]
    flags_of: Mapping[str, tuple[str, ...]]  # by file name


def read_project() -> Project:
    text = re.sub(r"#.*", "", (ROOT / "CMakeLists.txt").read_text())
    common = re.search(r"target_compile_options\(snnfast_flags INTERFACE([^)]*)\)", text)
    assert common, "CMakeLists.txt: no common flags found"
    flags = tuple(common.group(1).split())
    assert "-ffp-contract=off" in flags, flags
    of = {
        Path(source).name: tuple(options.split(";"))
        for source, options in re.findall(r'\((\S+\.cpp) PROPERTIES COMPILE_OPTIONS\s+"([^"]+)"\)', text)
    }
    assert {"kernels_avx2.cpp", "kernels_avx512.cpp", "kernels_amx.cpp"} <= set(of), of
    sources = sorted(set(re.findall(r"csrc/cpu/\w+\.cpp", text)))
    return Project(flags, tuple(ROOT / s for s in sources), of)


def compiler() -> str:
    """The C++ compiler to use, or an empty string."""
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++") or ""


def missing(cxx: str | None = None) -> str:
    """What is missing for a static build, as the reason of a skip; empty if nothing is."""
    cxx = compiler() if cxx is None else shutil.which(cxx) or ""
    if not cxx:
        return "needs a C++ compiler (Debian: apt install g++ g++-aarch64-linux-gnu)"
    for library in ("libc.a", "libstdc++.a"):
        found = subprocess.run(
            [*cxx.split(), f"-print-file-name={library}"], capture_output=True, text=True, check=True
        )
        if not Path(found.stdout.strip()).is_absolute():
            return f"needs {library} for static linking (Debian: apt install g++ libc6-dev)"
    return ""


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def build(
    directory: Path,
    *,
    reuse: Path | None = None,
    changed: Mapping[str, Sequence[str]] | None = None,
    for_arm: bool = False,
) -> Path:
    """Compile and link into ``directory``; return the program.

    Args:
        directory: made if need be; keeps the object files.
        reuse: an earlier build's directory; all files but those in ``changed`` come from there.
        changed: file name -> flags to add for that file.
        for_arm: for 64-bit ARM, which has the baseline's kernels only.

    Raises:
        RuntimeError: if the compiler fails, with what it said.
    """
    directory.mkdir(parents=True, exist_ok=True)
    project, extra = read_project(), dict(changed or {})
    cxx, standard = ([ARM_COMPILER], STANDARD) if for_arm else (compiler().split(), (*STANDARD, *X86))
    objects, commands = [], []
    for source in (HERE / MAIN, *project.sources):
        name = source.name
        if for_arm and any(flag.startswith("-mavx") for flag in project.flags_of.get(name, ())):
            continue
        if reuse is not None and name not in extra:
            objects.append(str(reuse / f"{name}.o"))
            continue
        objects.append(str(directory / f"{name}.o"))
        flags = [*standard, *project.flags, *project.flags_of.get(name, ()), *extra.pop(name, ())]
        commands.append([*cxx, *flags, f"-I{ROOT / 'csrc'}", "-c", str(source), "-o", objects[-1]])
    assert not extra, f"no such files: {sorted(extra)}"
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_run, commands))
    program = directory / "parity"
    _run([*cxx, *objects, "-static", "-pthread", "-o", str(program)])
    return program


def build_guest_init(directory: Path) -> Path:
    """The first process of an emulated machine; see guest_init.cpp."""
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / "init"
    _run([*compiler().split(), "-std=c++17", "-O2", "-static", str(HERE / "guest_init.cpp"), "-o", str(program)])
    return program
