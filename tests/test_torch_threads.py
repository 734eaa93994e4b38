# SPDX-License-Identifier: Apache-2.0
"""Torch restricted to one thread: nested, by several threads at once, and always given back."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

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
