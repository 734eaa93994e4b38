# SPDX-License-Identifier: Apache-2.0
"""Torch in one thread for a while: for small networks, sharing the work out costs more than doing it.

100 observations through 4-16-16-2 took 60 us in one thread, 250 to 1300 us in two, and a hundred times more where
another process has the other core. Besides, sums then do not depend on the number of cores.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import torch

from snnfast.callers import Callers, Token, Turn

# Torch keeps a count per thread, but a thread that is new to torch takes over the count that any other set last. So
# "before" is what it was when nobody was inside, and every thread restores its own when its outermost user leaves. That
# the old count is still owed is noted: wherever the exception of a signal strikes, at the latest the next one to leave
# puts all in order.
_turn = Turn()
_inside = Callers()
_before = 1
_owed = False


def _after_fork() -> None:
    global _turn, _owed
    _turn = Turn()  # another thread of the parent may have held it
    _inside.forget_others()
    _owed = bool(_inside.threads())


os.register_at_fork(after_in_child=_after_fork)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use a single thread in here. May be nested, and entered by several threads at once, in any order.

    A thread that first uses torch while another one is in here has a single thread too, until it sets its own number.
    """
    global _before, _owed
    token = Token()
    try:
        _turn.take(token)
        if not _inside.threads() and not _owed:
            _before = torch.get_num_threads()
        _owed = True
        _inside.enter(token)
        torch.set_num_threads(1)
        _turn.give(token)
        yield
    finally:
        _turn.take(token)
        _inside.leave(token)
        inside = _inside.threads()
        if _owed and threading.get_ident() not in inside:
            torch.set_num_threads(_before)
            _owed = bool(inside)
        _turn.give(token)
