# SPDX-License-Identifier: Apache-2.0
"""Torch modules in evaluation mode for a while, whoever else uses them meanwhile."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator

from torch import nn


class _Token:
    """Somebody who asked; goes with the call that made it."""


# Modules that were training and are not for now, with weak tokens of who asked for that, each with its thread: wherever
# the exception of a signal strikes, at the latest the next one puts all in order.
_asked: dict[nn.Module, dict[weakref.ref[_Token], int]] = {}
_lock = threading.Lock()


def _tidy(*, here_only: bool = False) -> None:
    """Modules that nobody asks for any more train again."""
    for module, tokens in list(_asked.items()):
        for token, thread in list(tokens.items()):
            if token() is None or (here_only and thread != threading.get_ident()):
                tokens.pop(token, None)
        if not tokens:
            module.training = True
            _asked.pop(module, None)


def _after_fork() -> None:
    # The child has one thread, this one; another may have held the lock.
    global _lock
    _lock = threading.Lock()
    _tidy(here_only=True)


os.register_at_fork(after_in_child=_after_fork)


@contextlib.contextmanager
def evaluation_mode(*roots: nn.Module) -> Iterator[None]:
    """Modules and all in them in evaluation mode (no dropout, fixed batch statistics), each as before afterwards.

    Where several threads ask for it, until the last of them leaves.
    """
    modules = [module for root in roots for module in root.modules()]
    token, thread = _Token(), threading.get_ident()
    place = weakref.ref(token)
    try:
        with _lock:
            _tidy()
            for module in modules:
                if module.training or module in _asked:
                    _asked.setdefault(module, {})[place] = thread
                    module.training = False
        yield
    finally:
        with _lock:
            for module in modules:
                _asked.get(module, {}).pop(place, None)
            _tidy()
