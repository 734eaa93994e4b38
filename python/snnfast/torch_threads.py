# SPDX-License-Identifier: Apache-2.0
"""Torch in one thread for a while: for small networks, sharing the work out costs more than doing it.

100 observations through 4-16-16-2 took 60 us in one thread, 250 to 1300 us in two, and a hundred times more where
another process has the other core. Besides, sums then do not depend on the number of cores.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator

import torch


class _Token:
    """Somebody inside; goes with the call that made it."""


# Torch keeps a count per thread, but a thread that is new to torch takes over the count that any other set last. So
# "before" is what it was when nobody was inside, and every thread restores its own when its outermost user leaves.
# Who is inside is noted by weak tokens, and that the old count is still owed by a flag: wherever the exception of a
# signal strikes, at the latest the next one to leave puts all in order.
_lock = threading.Lock()
_inside: dict[weakref.ref[_Token], int] = {}  # of which thread
_before = 1
_owed = False


def _after_fork() -> None:
    # The child has one thread, this one; another may have held the lock.
    global _lock, _owed
    _lock = threading.Lock()
    for token, thread in list(_inside.items()):
        if thread != threading.get_ident():
            del _inside[token]
    _owed = bool(_inside)


os.register_at_fork(after_in_child=_after_fork)


def _threads_inside() -> set[int]:
    for token in [token for token in _inside if token() is None]:  # it did not come to leave
        _inside.pop(token, None)
    return set(_inside.values())


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use a single thread in here. May be nested, and entered by several threads at once, in any order.

    A thread that first uses torch while another one is in here has a single thread too, until it sets its own number.
    """
    global _before, _owed
    token, thread = _Token(), threading.get_ident()
    place = weakref.ref(token)
    try:
        with _lock:
            if not _threads_inside() and not _owed:
                _before = torch.get_num_threads()
            _owed = True
            _inside[place] = thread
            torch.set_num_threads(1)
        yield
    finally:
        with _lock:
            _inside.pop(place, None)
            inside = _threads_inside()
            if _owed and thread not in inside:
                torch.set_num_threads(_before)
                _owed = bool(inside)
