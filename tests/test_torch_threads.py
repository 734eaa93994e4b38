# SPDX-License-Identifier: Apache-2.0
"""Torch restricted to one thread: nested, by several threads at once, and always given back."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest
import torch

from snnfast import torch_threads
from snnfast.torch_threads import one_thread


@pytest.fixture(autouse=True)
def three() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_one_inside_and_as_before_outside() -> None:
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


def test_given_back_after_an_error() -> None:
    with pytest.raises(KeyError), one_thread():
        raise KeyError
    assert torch.get_num_threads() == 3


def test_nested() -> None:
    with one_thread():
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1, "the outer one is not through"
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("first", ["this thread", "the other"])
def test_overlapping_threads(first: str) -> None:
    """Whoever leaves first, both threads and those made later have the old count at the end."""
    entered, leave, counts = threading.Event(), threading.Event(), []

    def other() -> None:
        with one_thread():
            counts.append(torch.get_num_threads())
            entered.set()
            assert leave.wait(30)
            counts.append(torch.get_num_threads())
        counts.append(torch.get_num_threads())

    thread = threading.Thread(target=other)
    with one_thread():
        thread.start()
        assert entered.wait(30)
        if first == "the other":
            leave.set()
            thread.join(30)
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    leave.set()
    thread.join(30)
    assert counts == [1, 1, 3]
    late = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    late.start()
    late.join(30)
    assert counts[-1] == torch.get_num_threads() == 3


class Struck(Exception):
    pass


def test_given_back_wherever_a_signal_strikes() -> None:
    def strike(*_: object) -> None:
        raise Struck

    before, struck = signal.signal(signal.SIGALRM, strike), 0
    try:
        for delay in range(1, 400):
            try:
                signal.setitimer(signal.ITIMER_REAL, delay * 2e-6)
                while True:
                    with one_thread(), one_thread():
                        pass
            except Struck:
                struck += 1
    finally:
        signal.signal(signal.SIGALRM, before)
    assert struck == 399
    with one_thread():  # the next one to leave puts all in order
        pass
    assert torch.get_num_threads() == 3


def test_a_child_of_fork_may_enter_whatever_other_threads_did() -> None:
    stop = threading.Event()

    def enter_and_leave() -> None:
        while not stop.is_set():
            with one_thread():
                pass

    threads = [threading.Thread(target=enter_and_leave) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                torch.set_num_threads(2)
                with one_thread():
                    pass
                os._exit(0 if torch.get_num_threads() == 2 and not torch_threads._inside.threads() else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
