# SPDX-License-Identifier: Apache-2.0
"""Torch modules in evaluation mode for a while, whoever else uses them meanwhile."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from torch import nn

from snnfast.callers import Callers, Token, Turn

_asked: dict[nn.Module, Callers] = {}  # modules that were training and are not for now, and who asked for that
_turn = Turn()


def _tidy() -> None:
    """Modules that nobody asks for any more train again."""
    for module, callers in list(_asked.items()):
        if not callers.threads():
            module.training = True
            _asked.pop(module, None)


def _after_fork() -> None:
    global _turn
    _turn = Turn()  # another thread of the parent may have held it
    for callers in _asked.values():
        callers.forget_others()
    _tidy()


os.register_at_fork(after_in_child=_after_fork)


@contextlib.contextmanager
def evaluation_mode(*roots: nn.Module) -> Iterator[None]:
    """Modules and all in them in evaluation mode (no dropout, fixed batch statistics), each as before afterwards.

    Where several threads ask for it, until the last of them leaves.
    """
    modules, token = [module for root in roots for module in root.modules()], Token()
    try:
        _turn.take(token)
        _tidy()
        for module in modules:
            if module.training or module in _asked:
                _asked.setdefault(module, Callers()).enter(token)
                module.training = False
        _turn.give(token)
        yield
    finally:
        _turn.take(token)
        for module in modules:
            if module in _asked:
                _asked[module].leave(token)
        _tidy()
        _turn.give(token)
