# SPDX-License-Identifier: Apache-2.0
"""Which implementation really runs, and what happens if one is asked for that cannot."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import snnfast as sf
from conftest import implementations, random_spec
from snnfast import backends


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("implementation", implementations(), ids=lambda i: i.name)
def test_the_forced_implementation_is_the_one_that_runs(implementation: object) -> None:
    method = implementation.compile(random_spec(0)).method()  # type: ignore[attr-defined]
    assert method["isa"] == (implementation.isa or "torch")  # type: ignore[attr-defined]


def test_kernels_of_every_instruction_set_are_built() -> None:
    # Which of them run here depends on the machine; that all are in the build does not.
    with pytest.raises(ValueError, match="must be one of baseline, avx2, avx512, amx, of which this machine supports"):
        backends._core.cap_isa("nonsense")


def test_the_best_supported_set_is_the_default() -> None:
    supported = backends.instruction_sets()
    assert supported[-1] == "baseline"
    if not os.environ.get("SNNFAST_ISA"):
        assert sf.info()["isa"] == supported[0]


@pytest.mark.parametrize("isa", backends.instruction_sets())
def test_environment_variable_caps_the_instruction_set(isa: str) -> None:
    result = run_python("import snnfast as s; print(s.SpikingNetwork([[[1.0]]]).method()['isa'])", SNNFAST_ISA=isa)
    assert result.stdout.strip() == isa, result.stderr


def test_unknown_instruction_set_is_an_error_at_import() -> None:
    result = run_python("import snnfast", SNNFAST_ISA="sse9")
    assert result.returncode == 1
    assert "ValueError: SNNFAST_ISA: the instruction set must be one of baseline, avx2, avx512, amx" in result.stderr
    assert "got 'sse9'" in result.stderr


@pytest.mark.skipif("avx512" in backends.instruction_sets(), reason="this machine has AVX-512")
def test_unsupported_instruction_set_is_an_error_at_import() -> None:
    result = run_python("import snnfast", SNNFAST_ISA="avx512")
    assert result.returncode == 1
    assert "of which this machine supports" in result.stderr


@pytest.mark.parametrize("threads", ["0", "two", "-1", "1.5", "5000"])
def test_bad_number_of_threads_in_the_environment_is_an_error_at_import(threads: str) -> None:
    result = run_python("import snnfast", SNNFAST_NUM_THREADS=threads)
    assert result.returncode == 1
    assert f"SNNFAST_NUM_THREADS must be an integer from 1 to 1024, got '{threads}'" in result.stderr


def test_number_of_threads() -> None:
    assert run_python("import snnfast as s; print(s.num_threads())", SNNFAST_NUM_THREADS="3").stdout.strip() == "3"
    before = sf.num_threads()
    try:
        sf.set_num_threads(5)
        assert sf.num_threads() == 5 == sf.info()["threads"]
    finally:
        sf.set_num_threads(before)
    for bad in (0, -1, 10**6):
        with pytest.raises(ValueError, match="n must be from 1 to 1024"):
            sf.set_num_threads(bad)
    for bad in (1.0, "2", True, None):
        with pytest.raises(TypeError, match="n must be an integer"):
            sf.set_num_threads(bad)  # type: ignore[arg-type]


def test_backends_by_name() -> None:
    weights = [torch.ones(1, 1)]
    assert sf.SpikingNetwork(weights).backend == "cpu"
    assert sf.SpikingNetwork(weights, backend="reference").method()["isa"] == "torch"
    with pytest.raises(ValueError, match="backend must be one of 'auto', 'reference', 'cpu', 'cuda', got 'gpu'"):
        sf.SpikingNetwork(weights, backend="gpu")
    with pytest.raises(NotImplementedError, match=r"'cuda' is not available: .*Available here: 'reference', 'cpu'"):
        sf.SpikingNetwork(weights, backend="cuda")


def test_info_says_what_runs_and_why_not() -> None:
    facts = sf.info()
    assert facts["snnfast"] == sf.__version__
    assert facts["backends"]["cpu"] is None
    assert "CUDA" in facts["backends"]["cuda"]
    assert facts["isa"] in facts["supported_isas"]
