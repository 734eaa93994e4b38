# SPDX-License-Identifier: Apache-2.0
"""What a user downloads: less than 3 MB. A kernel for one more case is easily in it once per instruction set, or once
per architecture, so what each of them is made into has a limit of its own; the three add up to 3 MB. That is with gcc
12, or with clang, whose code is smaller; other releases of gcc write up to 8 % more."""

from __future__ import annotations

import importlib.metadata
import re
import zlib
from pathlib import Path

import pytest

import snnfast
from snnfast import _core, cuda_backend

_PYTHON, _CORE, _CUDA = 288_000, 1_112_000, 1_600_000
_MORE = 1.0 if re.match("clang|gcc 12", str(snnfast.info()["compiler"])) else 1.08


def packed(path: Path) -> int:
    """Bytes, as a wheel's archive holds them."""
    return len(zlib.compress(path.read_bytes()))


def installed() -> bool:
    """Whether this is an installed wheel, whose modules hold no symbols; not a working tree."""
    try:
        files = importlib.metadata.files("snnfast") or []
    except importlib.metadata.PackageNotFoundError:
        return False
    return any(Path(str(f.locate())) == Path(_core.__file__) for f in files)


of_a_wheel = pytest.mark.skipif(not installed(), reason="not installed from a wheel")


def test_the_python_files_pack_to_288_kilobytes() -> None:
    folder = Path(snnfast.__file__).parent
    sizes = {
        path.relative_to(folder).as_posix(): packed(path)
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so"
    }
    assert len(sizes) > 50
    assert sum(sizes.values()) < _PYTHON, sorted(sizes.items(), key=lambda item: -item[1])[:5]


@of_a_wheel
def test_the_cpu_module_packs_to_1112_kilobytes() -> None:
    assert packed(Path(_core.__file__)) < _CORE * _MORE


@of_a_wheel
@pytest.mark.skipif(
    int(str(cuda_backend.info().get("cuda", 0))) < 13_000,
    reason="without a CUDA module, or with one that a CUDA compiler before 13 has packed, less tightly",
)
def test_the_cuda_module_packs_to_1600_kilobytes() -> None:
    from snnfast import _cuda

    assert packed(Path(_cuda.__file__)) < _CUDA
