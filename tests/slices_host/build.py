# SPDX-License-Identifier: Apache-2.0
"""Builds a program that runs layers by slices with the vectors of every instruction set, on plain tiles. Processors
with AMX alone have the kernels that do so with AVX-512's vectors; this tests them elsewhere. There neurons take their
steps beside the products, which the baseline leaves for later."""

from __future__ import annotations

from pathlib import Path

from cuda_host.build import COMMON, EXACT, compiler, run_all

HERE = Path(__file__).resolve().parent
FLAGS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma", "-mbmi", "-mpopcnt", "-DSNNFAST_STEPS_BESIDE"],
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mbmi", "-mpopcnt", "-DSNNFAST_STEPS_BESIDE"],
}


def build_for_slices(folder: Path) -> Path:
    """For x86; it runs on any, with the instruction sets that there are."""
    command = [compiler(), *COMMON, f"-I{HERE}", *EXACT, "-O1", "-Wall", "-Wextra", "-Werror"]
    objects = [folder / f"{isa}.o" for isa in FLAGS]
    run_all(
        [
            [*command, *flags, f"-DSCAN=scan_{isa}", "-c", HERE / "scan.cpp", "-o", made]
            for (isa, flags), made in zip(FLAGS.items(), objects, strict=True)
        ]
    )
    program = folder / "slices"
    run_all([[*command, HERE / "main.cpp", *objects, "-o", program]])
    return program
