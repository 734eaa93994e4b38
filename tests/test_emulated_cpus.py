# SPDX-License-Identifier: Apache-2.0
"""The same bits on processors that this machine is not: older ones, those with AVX-512, and 64-bit ARM.

One static program (``emulated/parity_main.cpp``) runs random networks on every instruction set that the processor has
and prints a hash over all bits of all results. The hashes of this machine and of emulated ones must be the same.
"""

from __future__ import annotations

import dataclasses
import platform
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from emulated import build, run_bochs
from snnfast import backends

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="emulates x86-64 on x86-64"),
]

NETWORKS = 300
EXIT_BY_SIGNAL = 128  # what emulators and shells add to the number of the signal


@dataclasses.dataclass(frozen=True)
class Result:
    """What the program printed."""

    hashes: dict[str, str]  # by instruction set, best first
    by_tables: int
    trained: int  # with a table of the first layer's spike trains
    summed: int  # by prefix sums as well, which left other bits
    certain: int  # and by those that are made certain, which may not
    on_two_threads: int


def parse(text: str) -> Result:
    lines = re.findall(r"^isa=(\w+) networks=(\d+) hash=([0-9a-f]{16})\s*$", text, re.MULTILINE)
    assert lines, text
    assert {int(n) for _, n, _ in lines} == {NETWORKS}
    counts = r"^by_tables=(\d+) trained=(\d+) summed=(\d+) certain=(\d+) on_two_threads=(\d+) problems=(\d+)\s*$"
    summary = re.search(counts, text, re.MULTILINE)
    assert summary, text
    *numbers, problems = map(int, summary.groups())
    assert problems == 0, text
    return Result({isa: state for isa, _, state in lines}, *numbers)


@pytest.fixture(scope="module")
def arm_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if build.missing(build.ARM_COMPILER):
        pytest.skip(build.missing(build.ARM_COMPILER))
    return build.build(tmp_path_factory.mktemp("arm"), for_arm=True)


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=900, check=False)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if build.missing():
        pytest.skip(build.missing())
    return build.build(tmp_path_factory.mktemp("parity"))


@pytest.fixture(scope="module")
def host(program: Path) -> Result:
    done = run(program, NETWORKS)
    assert done.returncode == 0, done.stdout + done.stderr
    return parse(done.stdout)


def emulator(least: tuple[int, int], processor: str = "x86_64") -> str:
    """qemu for programs of another processor, or a skip."""
    path = shutil.which(f"qemu-{processor}") or shutil.which(f"qemu-{processor}-static")
    if path is None:
        pytest.skip(f"needs qemu-{processor} (Debian: apt install qemu-user)")
    version = re.search(r"version (\d+)\.(\d+)", run(path, "--version").stdout)
    assert version
    if (int(version.group(1)), int(version.group(2))) < least:
        pytest.skip(f"needs qemu-{processor} {least[0]}.{least[1]} or later, found {version.group(0)}")
    return path


def test_all_sets_of_this_machine_agree_in_every_bit(host: Result) -> None:
    assert list(host.hashes) == list(backends.instruction_sets())
    assert len(set(host.hashes.values())) == 1, host.hashes
    # Not vacuous: all methods ran, and the pool did.
    assert NETWORKS // 5 < host.by_tables < NETWORKS // 2
    assert host.trained >= NETWORKS // 20 * len(host.hashes)
    assert host.summed >= NETWORKS // 20 * len(host.hashes)
    assert host.certain >= NETWORKS // 30 * len(host.hashes)
    assert host.on_two_threads >= NETWORKS // 20 * len(host.hashes)


def test_one_set_alone_has_the_same_hash(program: Path, host: Result) -> None:
    done = run(program, "--only", "baseline", NETWORKS)
    assert parse(done.stdout).hashes == {"baseline": host.hashes["baseline"]}


@pytest.mark.skipif("avx2" not in backends.instruction_sets(), reason="this machine has no AVX2")
def test_a_fused_multiply_add_in_one_set_is_found(program: Path, tmp_path: Path) -> None:
    # The control of this file: the mistake that the build flags prevent makes hashes differ.
    flags = {"kernels_avx2.cpp": ["-mfma", "-ffp-contract=fast"]}
    done = run(build.build(tmp_path, reuse=program.parent, changed=flags), NETWORKS)
    assert done.returncode == 1
    hashes = dict(re.findall(r"^isa=(\w+) networks=\d+ hash=(\w+)$", done.stdout, re.MULTILINE))
    assert hashes["avx2"] != hashes["baseline"]
    assert "PROBLEM" in done.stdout


def test_files_of_one_instruction_set_define_nothing_that_the_linker_may_share(program: Path) -> None:
    # An inline function or template that several files define is kept once, from any of them: from one with AVX, say.
    for isa in ("baseline", "avx2", "avx512"):
        symbols = run("nm", "--defined-only", program.parent / f"kernels_{isa}.cpp.o").stdout.splitlines()
        public = [line.split()[-2:] for line in symbols if line.split()[-2] not in "bdrt"]
        assert [(kind in "BDR", f"kernels_{isa}" in name) for kind, name in public] == [(True, True)], public


def test_the_mode_that_threads_are_in_does_not_matter(program: Path, host: Result) -> None:
    done = run(program, "--other-mode", NETWORKS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert parse(done.stdout).hashes == host.hashes


@pytest.mark.parametrize("options", [(), ("--other-mode",)])
def test_64_bit_arm_gives_the_same_bits(arm_program: Path, host: Result, options: tuple[str, ...]) -> None:
    done = run(emulator((5, 0), "aarch64"), arm_program, *options, NETWORKS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert parse(done.stdout).hashes == {"baseline": host.hashes["baseline"]}


def test_a_processor_without_avx_gives_the_same_bits(program: Path, host: Result) -> None:
    done = run(emulator((5, 0)), "-cpu", "Nehalem-v1", program, NETWORKS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert parse(done.stdout).hashes == {"baseline": host.hashes["baseline"]}


def test_a_processor_with_avx2_gives_the_same_bits(program: Path, host: Result) -> None:
    done = run(emulator((7, 2)), "-cpu", "Haswell-v1", program, NETWORKS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert parse(done.stdout).hashes == dict.fromkeys(("avx2", "baseline"), host.hashes["baseline"])


def test_avx_code_outside_of_the_kernels_would_be_found(program: Path, tmp_path: Path) -> None:
    # The control of the test without AVX: compiled with -mavx2 as a whole, the program dies there.
    qemu = emulator((5, 0))
    portable = ("parity_main.cpp", "plan.cpp", "dispatch.cpp", "thread_pool.cpp")
    whole = build.build(tmp_path, reuse=program.parent, changed={name: ["-mavx2"] for name in portable})
    done = run(qemu, "-cpu", "Nehalem-v1", whole, NETWORKS)
    assert done.returncode in (-signal.SIGILL, EXIT_BY_SIGNAL + signal.SIGILL), (done.returncode, done.stdout)
    assert "isa=" not in done.stdout


def test_a_processor_with_avx512_gives_the_same_bits(program: Path, host: Result, tmp_path: Path) -> None:
    if run_bochs.missing():
        pytest.skip(run_bochs.missing())
    init = build.build_guest_init(tmp_path / "build")
    machine = tmp_path / "machine"
    machine.mkdir()
    start = time.monotonic()
    status, text = run_bochs.run_in_bochs(program, init, [str(NETWORKS)], machine, time_limit=1500)
    print(f"emulated AVX-512: {NETWORKS} networks in {time.monotonic() - start:.0f} s\n{text}")
    assert status == 0, text
    assert parse(text).hashes == dict.fromkeys(("avx512", "avx2", "baseline"), host.hashes["baseline"])
