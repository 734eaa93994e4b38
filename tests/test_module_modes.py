# SPDX-License-Identifier: Apache-2.0
"""Modules in evaluation mode for a while: around threads (test_evaluation.py), signals and forks."""

from __future__ import annotations

import os
import signal
import threading

import torch

from snnfast import module_modes
from snnfast.module_modes import evaluation_mode


def layers() -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Dropout()).train()


class Struck(Exception):
    pass


def test_given_back_wherever_a_signal_strikes() -> None:
    def strike(*_: object) -> None:
        raise Struck

    module, before, struck = layers(), signal.signal(signal.SIGALRM, strike), 0
    try:
        for delay in range(1, 400):
            try:
                signal.setitimer(signal.ITIMER_REAL, delay * 2e-6)
                while True:
                    with evaluation_mode(module), evaluation_mode(module):
                        assert not module.training
            except Struck:
                struck += 1
    finally:
        signal.signal(signal.SIGALRM, before)
    assert struck == 399
    with evaluation_mode(module):  # the next one to leave puts all in order
        assert [m.training for m in module.modules()] == [False] * 3
    assert [m.training for m in module.modules()] == [True] * 3
    assert not module_modes._asked


def test_in_a_child_of_fork_other_threads_ask_for_nothing() -> None:
    module = layers()
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with evaluation_mode(module):
            entered.set()
            assert leave.wait(30)

    thread = threading.Thread(target=other)
    thread.start()
    assert entered.wait(30)
    child = os.fork()
    if child == 0:
        was = module.training
        with evaluation_mode(module):
            within = module.training
        os._exit(0 if (was, within, module.training) == (True, False, True) else 1)
    assert os.waitpid(child, 0)[1] == 0
    leave.set()
    thread.join()
    assert module.training
