# SPDX-License-Identifier: Apache-2.0
"""Who is inside a stretch of code at the moment, in which threads.

The exception of a signal may strike between any two lines, those that leave included. So callers are noted by weak
tokens: whoever did not come to leave is forgotten when its call is gone.
"""

from __future__ import annotations

import threading
import weakref


class Token:
    """One caller; goes with the call that made it."""


class Callers:
    """Those inside. Not safe by itself: whoever shares it holds a lock."""

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
