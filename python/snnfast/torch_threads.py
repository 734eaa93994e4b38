# SPDX-License-Identifier: Apache-2.0
"""Torch in one thread for a while: for small networks, sharing the work out costs more than doing it.

100 observations through 4-16-16-2 took 60 us in one thread, 250 to 1300 us in two, and a hundred times more where
another process has the other core. Besides, sums then do not depend on the number of cores.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

# Torch keeps a count per thread, but a thread that is new to torch takes over the count that any other set last. So
# "before" is what it was when nobody was inside, and every thread restores its own when its outermost user leaves.
_lock = threading.Lock()
_inside = 0
_before = 1
_depth = threading.local()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use a single thread in here. May be nested, and entered by several threads at once, in any order."""
    global _inside, _before
    with _lock:
        if _inside == 0:
            _before = torch.get_num_threads()
        _inside += 1
        _depth.value = getattr(_depth, "value", 0) + 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            _depth.value -= 1
            if _depth.value == 0:
                torch.set_num_threads(_before)
