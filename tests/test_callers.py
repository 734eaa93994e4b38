# SPDX-License-Identifier: Apache-2.0
"""Locks that survive what takes them: who waits, who does not, and what is left of a call that is gone."""

from __future__ import annotations

import gc
import threading
import time

from snnfast.callers import Token, Turn


def elsewhere(turn: Turn) -> threading.Event:
    """Another thread takes the turn, says so, and gives it back."""
    taken = threading.Event()

    def take() -> None:
        token = Token()
        turn.take(token)
        taken.set()
        turn.give(token)

    threading.Thread(target=take, daemon=True).start()
    return taken


def others_wait_for(turn: Turn, token: Token) -> None:
    taken = elsewhere(turn)
    assert not taken.wait(0.05)
    turn.give(token)
    assert taken.wait(30)


def test_one_thread_at_a_time() -> None:
    turn, inside, most = Turn(), 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(100):
            token = Token()
            turn.take(token)
            inside += 1
            most = max(most, inside)
            time.sleep(1e-6)  # others come to run
            inside -= 1
            turn.give(token)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (inside, most) == (0, 1)


def test_others_wait_until_it_is_given() -> None:
    turn, token = Turn(), Token()
    turn.take(token)
    others_wait_for(turn, token)


def test_not_given_back_it_is_free_for_its_own_thread_and_with_its_call_for_others() -> None:
    turn, token = Turn(), Token()
    turn.take(token)
    turn.take(Token())  # does not wait, and changes nothing about whose it is
    taken = elsewhere(turn)
    assert not taken.wait(0.05)
    del token
    gc.collect()
    assert taken.wait(30)


def test_a_call_that_gave_it_back_takes_nothing_with_it() -> None:
    turn, first, second = Turn(), Token(), Token()
    turn.take(first)
    turn.give(first)
    turn.take(second)
    del first
    gc.collect()
    others_wait_for(turn, second)


def test_a_call_within_the_call_does_not_give_it_away() -> None:
    turn, outer, inner = Turn(), Token(), Token()
    turn.take(outer)
    turn.take(inner)
    turn.give(inner)
    others_wait_for(turn, outer)
