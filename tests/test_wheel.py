# SPDX-License-Identifier: Apache-2.0
"""What a user downloads."""

from __future__ import annotations

import zlib
from pathlib import Path

import snnfast

_MOST_BYTES = 3_000_000


def test_the_package_packs_to_less_than_3_megabytes() -> None:
    # As a wheel's archive does it; a kernel for one more case is easily in it once per instruction set or architecture.
    folder = Path(snnfast.__file__).parent
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    packed = {str(path.relative_to(folder)): len(zlib.compress(path.read_bytes())) for path in files}
    largest = sorted(packed.items(), key=lambda item: -item[1])[:5]
    assert sum(packed.values()) < _MOST_BYTES, f"the largest files, packed: {largest}"
