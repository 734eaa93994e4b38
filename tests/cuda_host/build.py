# SPDX-License-Identifier: Apache-2.0
"""Builds ``parity``: the CUDA backend and the CPU backend in one program, for the host or for a device."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
KERNELS = sorted(p for p in (ROOT / "csrc" / "cuda").glob("*.cu") if p.stem != "device")
#: Baseline kernels only: which instruction set the CPU backend takes changes no bit.
OTHER_INSTRUCTION_SETS = {"kernels_avx2", "kernels_avx512", "kernels_amx"}
CPU = [p for p in sorted((ROOT / "csrc" / "cpu").glob("*.cpp")) if p.stem not in OTHER_INSTRUCTION_SETS]
HOST = sorted((ROOT / "csrc" / "cuda").glob("*.cpp"))
COMMON = ["-std=c++17", f"-I{ROOT / 'csrc'}", f"-I{HERE}"]
EXACT = ["-ffp-contract=off", "-fno-trapping-math", "-fno-math-errno"]
SANITIZE = ["-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]


def run_all(commands: Sequence[Sequence[object]]) -> None:
    """Run commands, a few at a time; raise a RuntimeError with what one that fails has said."""

    def run(command: Sequence[object]) -> None:
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        list(pool.map(run, commands))


def compiler() -> str | None:
    """The host's C++ compiler."""
    return os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")


def cuda_compiler() -> str | None:
    """The CUDA compiler."""
    return os.environ.get("CUDACXX") or shutil.which("nvcc")


def build_for_host(folder: Path, *, sanitize_cpu: bool = False) -> Path:
    """With AddressSanitizer and UndefinedBehaviorSanitizer; kernels run on ``emulation.h``.

    The CPU backend's kernels, which are only compared with, are left out of that unless ``sanitize_cpu``: they take
    minutes to compile with it.
    """
    sources = [*KERNELS, *HOST, HERE / "emulation.cpp", HERE / "parity.cpp", *CPU]
    flags = [*COMMON, *EXACT, "-O1", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Werror"]
    objects = [folder / f"{p.parent.name}_{p.stem}.o" for p in sources]
    commands = []
    for source, made in zip(sources, objects, strict=True):
        checks = SANITIZE if sanitize_cpu or source.stem != "kernels_baseline" else []
        commands.append([compiler(), *flags, *checks, "-x", "c++", "-c", source, "-o", made])
    run_all(commands)
    program = folder / "parity"
    run_all([[compiler(), *SANITIZE, *objects, "-pthread", "-o", program]])
    return program


def build_for_device(folder: Path, architecture: str) -> Path:
    """With CUDA, for one architecture such as ``sm_90``."""
    nvcc = cuda_compiler()
    host = [*HOST, HERE / "parity.cpp", *CPU]
    objects = [folder / f"{p.parent.name}_{p.stem}.o" for p in (*KERNELS, *host)]
    device_flags = ["-O3", "-lineinfo", "-fmad=false", f"-arch={architecture}"]
    host_flags = ["-O2", "-DSNNFAST_ON_DEVICE", "-Xcompiler=" + ",".join(EXACT)]
    run_all(
        [
            [nvcc, *COMMON, *(device_flags if p.suffix == ".cu" else host_flags), "-c", p, "-o", o]
            for p, o in zip((*KERNELS, *host), objects, strict=True)
        ]
    )
    program = folder / "parity"
    run_all([[nvcc, f"-arch={architecture}", *objects, "-o", program]])
    return program
