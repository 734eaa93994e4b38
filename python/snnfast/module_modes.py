# SPDX-License-Identifier: Apache-2.0
"""Torch modules in evaluation mode for a while, whoever else uses them meanwhile."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from torch import nn

# Modules that were training and are not for now, with a token of everybody who asked for that.
_asked: dict[nn.Module, set[object]] = {}
_lock = threading.Lock()


def _new_lock() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_new_lock)  # another thread of the parent may have held it


@contextlib.contextmanager
def evaluation_mode(*roots: nn.Module) -> Iterator[None]:
    """Modules and all in them in evaluation mode (no dropout, fixed batch statistics), each as before afterwards.

    Where several threads ask for it, until the last of them leaves.
    """
    modules = [module for root in roots for module in root.modules()]
    token = object()
    try:
        with _lock:
            for module in modules:
                if module.training or module in _asked:
                    _asked.setdefault(module, set()).add(token)
                    module.training = False
        yield
    finally:
        with _lock:
            for module in modules:
                tokens = _asked.get(module)
                if tokens is not None:
                    tokens.discard(token)
                    if not tokens:
                        module.training = True
                        del _asked[module]
