# SPDX-License-Identifier: Apache-2.0
"""The CUDA backend on machines without a device: its kernels compiled for the host under sanitizers, its compile, its
import, and what it says when it cannot run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import snnfast as sf
from cuda_host import build
from snnfast import backends, cuda_backend

NO_DEVICE = bool(cuda_backend.unavailable())


@pytest.fixture(scope="module")
def parity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if build.compiler() is None:
        pytest.skip("needs a C++ compiler")
    return build.build_for_host(tmp_path_factory.mktemp("parity"))


def run_parity(program: Path, first: int, count: int) -> None:
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1"}
    done = subprocess.run(
        [program, str(first), str(count)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pattern = r"^networks (\d+), different (\d+), coded (\d+), events (\d+), slices (\d+), tiny (\d+)$"
    summary = re.search(pattern, done.stdout, re.MULTILINE)
    assert summary, done.stdout
    networks, different, coded, events, slices, tiny = map(int, summary.groups())
    assert (networks, different) == (count, 0)
    assert coded + events + slices + tiny == 3 * count
    assert slices >= count // 4, "too few networks met the products of matrices"
    assert coded >= count // 2, "too few networks had a code"
    assert tiny >= count // 20, "too few networks met the method for small ones"


def test_200_random_networks_on_the_host_have_the_bits_of_the_cpu_backend(parity: Path) -> None:
    run_parity(parity, 0, 200)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_2000_random_networks_on_the_host_have_the_bits_of_the_cpu_backend(tmp_path: Path) -> None:
    if build.compiler() is None:
        pytest.skip("needs a C++ compiler")
    run_parity(build.build_for_host(tmp_path, sanitize_cpu=True), 1000, 2000)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("architecture", ["sm_75", "sm_90"])
@pytest.mark.parametrize("kernel", [p.stem for p in build.KERNELS])
def test_no_kernel_spills_registers(kernel: str, architecture: str, tmp_path: Path) -> None:
    nvcc = build.cuda_compiler()
    if nvcc is None:
        pytest.skip("needs a CUDA compiler")
    source = build.ROOT / "csrc" / "cuda" / f"{kernel}.cu"
    command = [nvcc, *build.COMMON, "-O3", "-fmad=false", f"-arch={architecture}", "-Xptxas", "-v", "-c", source]
    done = subprocess.run(
        [str(c) for c in [*command, "-o", tmp_path / "kernel.o"]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr
    spilled = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    assert spilled, done.stderr
    assert set(spilled) == {("0", "0")}, done.stderr


@pytest.mark.skipif(build.cuda_compiler() is None, reason="needs a CUDA compiler")
def test_a_launch_is_not_told_of_an_error_that_was_reported_before(tmp_path: Path) -> None:
    program, device = tmp_path / "kept_errors", build.ROOT / "csrc" / "cuda" / "device.cu"
    instead = "DeviceGetAttribute", "FuncGetAttributes", "FuncSetAttribute", "GetDevice", "GetLastError"
    wrapped = [part for name in instead for part in ("-Xlinker", f"--wrap=cuda{name}")]
    source = build.HERE / "kept_errors.cu"
    build.run_all([[build.cuda_compiler(), *build.COMMON, "-arch=sm_90", *wrapped, source, device, "-o", program]])
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("cmake") is None or build.compiler() is None, reason="needs cmake and a C++ compiler")
@pytest.mark.parametrize(
    ("nvcc", "reason"),
    [
        (None, "no CUDA compiler was found (CUDACXX, PATH)"),
        ("echo 'error: unsupported GNU version!'; exit 1", "/c++: error: unsupported GNU version!"),
        ("exit 3", "/c++: it ended with 3"),
        # It compiles with the host compiler that the build has, not with whatever comes first; CMake finds no toolkit.
        ("case \"$*\" in *'-ccbin '*/c++*) exit 0;; *) exit 1;; esac", "CMake cannot use "),
    ],
)
def test_the_build_says_why_it_has_no_cuda_module(nvcc: str | None, reason: str, tmp_path: Path) -> None:
    project = f'project(tried LANGUAGES CXX)\ninclude("{build.ROOT}/cmake/cuda.cmake")\n'
    (tmp_path / "CMakeLists.txt").write_text(f"cmake_minimum_required(VERSION 3.18...4.1)\n{project}")
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in Path("/usr/bin").iterdir():  # all that a build may need, but no CUDA compiler
        if tool.name not in ("nvcc", "c++"):
            (tools / tool.name).symlink_to(tool)
    compiler = build.compiler()
    assert compiler is not None
    (tools / "c++").symlink_to(compiler if "/" in compiler else str(shutil.which(compiler)))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CUDA")}
    environment |= {"CXX": str(tools / "c++"), "PATH": str(tools)}
    if nvcc is not None:
        (tools / "nvcc").write_text(f"#!/bin/sh\n{nvcc}\n")
        (tools / "nvcc").chmod(0o755)
    command = [shutil.which("cmake"), "-S", tmp_path, "-B", tmp_path / "build", "-DSNNFAST_CUDA=ON"]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=environment, check=False)
    said = " ".join(done.stderr.split())  # CMake wraps its errors
    assert done.returncode == 1
    assert "SNNFAST_CUDA=ON, but " in said
    assert reason in said, said


@pytest.mark.skipif(shutil.which("cmake") is None or build.cuda_compiler() is None, reason="needs cmake and nvcc")
@pytest.mark.parametrize("wanted", ["AUTO", "ON"])
def test_a_compiler_without_its_runtime_is_no_surprise(wanted: str, tmp_path: Path) -> None:
    project = f'project(tried LANGUAGES CXX)\ninclude("{build.ROOT}/cmake/cuda.cmake")\n'
    (tmp_path / "CMakeLists.txt").write_text(f"cmake_minimum_required(VERSION 3.18...4.1)\n{project}")
    options = {
        "SNNFAST_CUDA": wanted,
        "CMAKE_CUDA_COMPILER": build.cuda_compiler(),
        "CMAKE_CUDA_ARCHITECTURES": "90",
        "CMAKE_DISABLE_FIND_PACKAGE_CUDAToolkit": "ON",  # as where nvcc came by itself
    }
    command = [shutil.which("cmake"), "-S", tmp_path, "-B", tmp_path / "build"]
    command += [f"-D{key}={value}" for key, value in options.items()]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    said = " ".join((done.stdout + done.stderr).split())
    assert "CMake finds no static CUDA runtime (cudart_static) that belongs to" in said, said
    assert done.returncode == (0 if wanted == "AUTO" else 1)
    assert ("snnfast: built without the CUDA module, because" in said) == (wanted == "AUTO")


def test_the_module_is_there_where_a_cuda_compiler_is() -> None:
    if build.cuda_compiler() is None:
        pytest.skip("needs a CUDA compiler")
    assert cuda_backend.info(), "nvcc is here, but snnfast._cuda is not"
    assert cuda_backend.info()["version"] == sf.__version__


@pytest.mark.skipif(not NO_DEVICE, reason="this machine has what it takes")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7"])
def test_without_a_device_the_reason_names_what_is_missing(name: str) -> None:
    with pytest.raises(NotImplementedError, match=r"'cuda.*' is not available: .*Available here: .*'cpu'") as caught:
        sf.SpikingNetwork([np.ones((1, 1))], backend=name)
    if cuda_backend.info() and not cuda_backend.info()["driver_cuda"]:
        assert re.search(r"driver 5\d\d or newer", str(caught.value))
    assert sf.info()["backends"]["cuda"] == cuda_backend.unavailable()
    network = sf.SpikingNetwork([np.ones((1, 1))])
    with pytest.raises(NotImplementedError, match="is not available"):
        network.to(name)


@pytest.mark.parametrize(
    ("compiled", "driver", "torch_cuda", "reason"),
    [
        (13000, 0, "13.0", r"no NVIDIA driver was found; it needs driver 580 or newer \(this build is for CUDA 13.0\)"),
        (13000, 12080, "13.0", "too old, it runs CUDA 12.8; it needs driver 580 or newer"),
        (13000, 13000, None, "was built without CUDA; install a CUDA build of torch"),
        # Of a version that did not exist yet when this was written.
        (99010, 13000, "13.0", "too old, it runs CUDA 13.0; it needs one that runs CUDA 99.1"),
    ],
)
def test_every_reason(
    compiled: int, driver: int, torch_cuda: str | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Module:
        @staticmethod
        def info() -> dict[str, int]:
            return {"cuda": compiled, "driver_cuda": driver}

    monkeypatch.setattr(cuda_backend, "_cuda", Module, raising=False)
    monkeypatch.setattr(cuda_backend, "_module_missing", "")
    monkeypatch.setattr(torch.version, "cuda", torch_cuda)
    assert re.search(reason, cuda_backend.unavailable())
    monkeypatch.setattr(cuda_backend, "_module_missing", "left out")
    assert cuda_backend.unavailable() == "left out"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("ModuleNotFoundError('gone')", "this build of snnfast has no CUDA module: "),
        ("ImportError('libfoo.so.1: no such file')", "_cuda cannot be imported: libfoo.so.1: no such file"),
    ],
)
def test_a_module_that_cannot_be_loaded_is_not_taken_for_one_that_was_not_built(error: str, reason: str) -> None:
    code = f"""
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "snnfast._cuda":
            raise {error}
sys.meta_path.insert(0, Broken())
from snnfast import backends, cuda_backend
assert cuda_backend.info() == {{}}
print(backends.available()["cuda"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert reason in done.stdout


@pytest.mark.parametrize("name", ["cuda:", "cuda:x", "cuda:-1", "cpu:0", "gpu", ""])
def test_a_name_that_is_no_backend_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="backend must be one of"):
        backends.resolve(name)


def test_moving_to_where_it_is_gives_the_same_network() -> None:
    network = sf.SpikingNetwork([np.ones((1, 1))])
    assert network.to("cpu") is network
    assert network.to(torch.device("cpu")) is network
    assert network.device == torch.device("cpu")
    with pytest.raises(ValueError, match="device must be 'cpu', 'cuda' or 'cuda:<index>', got 'meta'"):
        network.to("meta")


def test_asking_for_the_cpu_does_not_wake_the_driver() -> None:
    code = """
import snnfast.cuda_backend as c
c.unavailable = lambda: (_ for _ in ()).throw(AssertionError("asked"))
import snnfast as sf
from snnfast import backends
backends._UNAVAILABLE["cuda"] = c.unavailable
sf.SpikingNetwork([[[1.0]]], backend="auto"), sf.SpikingNetwork([[[1.0]]], backend="cpu")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(shutil.which("ldd") is None, reason="needs ldd")
def test_the_module_links_no_cuda_library() -> None:
    if not cuda_backend.info():
        pytest.skip("this build has no CUDA module")
    from snnfast import _cuda

    linked = subprocess.run(["ldd", _cuda.__file__], capture_output=True, text=True, check=True).stdout
    assert "libcuda" not in linked, linked
