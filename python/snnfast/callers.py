# SPDX-License-Identifier: Apache-2.0
"""Who is inside a stretch of code at the moment, in which threads.

The exception of a signal may strike between any two lines, those that leave included. So callers are noted by weak
tokens: whoever did not come to leave is forgotten when its call is gone.
"""

from __future__ import annotations

import threading
import time
import weakref


class Token:
    """One caller; goes with the call that made it."""


class Turn:
    """A lock for stretches of code that any exception of a signal may strike in.

    With a lock of Python's it may strike when that is taken and not guarded yet: since Python 3.14 also between the two
    steps of a ``with``. This one, not given back, lets its own thread through, and others when the call that took it
    is gone.
    """

    def __init__(self) -> None:
        self._taken: dict[str, tuple[int, weakref.ref[Token]]] = {}

    def take(self, token: Token) -> None:
        """Wait for it. Does nothing if a call of this thread has it."""
        taken, mine = self._taken, threading.get_ident()

        def gone(reference: weakref.ref[Token]) -> None:
            if "by" in taken and taken["by"][1] is reference:
                del taken["by"]

        wanted = (mine, weakref.ref(token, gone))
        while taken.setdefault("by", wanted)[0] != mine:  # one step that no other thread can come between
            time.sleep(1e-4)

    def give(self, token: Token) -> None:
        """To whoever waits, if it is this call's."""
        by = self._taken.get("by")
        if by is not None and by[1]() is token:
            del self._taken["by"]


class Callers:
    """Those inside. Not safe by itself: whoever shares it waits for a :class:`Turn`."""

    def __init__(self) -> None:
        self._threads: dict[weakref.ref[Token], int] = {}

    def enter(self, token: Token) -> None:
        self._threads[weakref.ref(token)] = threading.get_ident()

    def leave(self, token: Token) -> None:
        """Does nothing if it is not inside."""
        self._threads.pop(weakref.ref(token), None)

    def threads(self) -> set[int]:
        """The threads that somebody is inside in."""
        for token in [token for token in self._threads if token() is None]:
            self._threads.pop(token, None)
        return set(self._threads.values())

    def forget_others(self) -> None:
        """In the child of a fork, which has no thread but this one."""
        for token, thread in list(self._threads.items()):
            if thread != threading.get_ident():
                del self._threads[token]
