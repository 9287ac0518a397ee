"""Handing the newest of something from one thread to another."""

from __future__ import annotations

import threading

from stages.sinks.newest import Newest


def test_the_newest_takes_the_place_of_the_one_before() -> None:
    newest: Newest[int] = Newest()
    assert newest.take(wait=False) is None
    for value in range(3):
        newest.put(value)
    assert newest.replaced == 2
    assert newest.take(wait=False) == 2
    assert newest.take(wait=False) is None
    newest.put(7)
    assert newest.replaced == 2


def test_who_waits_gets_it_and_then_the_end() -> None:
    newest: Newest[int] = Newest()
    got: list[int | None] = []

    def take() -> None:
        while True:
            got.append(newest.take(wait=True))
            if got[-1] is None:
                return

    thread = threading.Thread(target=take)
    thread.start()
    newest.put(1)
    while not got:
        thread.join(0.005)
    newest.close()
    thread.join(20.0)
    assert got == [1, None]


def test_what_was_put_before_the_end_comes_first() -> None:
    newest: Newest[int] = Newest()
    newest.put(1)
    newest.close()
    assert newest.take(wait=True) == 1
    assert newest.take(wait=True) is None
