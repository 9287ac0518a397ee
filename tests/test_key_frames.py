"""Key frames."""

from __future__ import annotations

from stages.key_frames import KeyFrames, Switch


def test_the_first_of_a_view_then_every_so_many() -> None:
    key = KeyFrames(3)
    assert [key.has_next("a") for _ in range(7)] == [True, False, False] * 2 + [True]
    assert [key.has_next("b") for _ in range(2)] == [True, False]
    key.restart()
    assert key.has_next("b")


def test_every_frame() -> None:
    key = KeyFrames(1)
    assert all(key.has_next(0) for _ in range(5))


def test_a_switch_holds_from_the_next_frame_on_and_says_which() -> None:
    switch = Switch()
    assert switch.is_on(4)
    off, on = switch.set(False), switch.set(True)
    off_again = switch.set(False)
    assert not off.done()
    assert not switch.is_on(7)
    assert [told.result(0) for told in (off, on, off_again)] == [7, 7, 7]
    assert not switch.is_on(8)
    assert switch.set(True).done() is False
    assert switch.is_on(9)


def test_who_heard_of_a_frame_changes_the_next_one() -> None:
    """Asked in the moment of the answer, which another thread may well do."""
    switch, later = Switch(), []
    switch.set(False).add_done_callback(lambda _: later.append(switch.set(True)))
    assert not switch.is_on(3), "as was answered"
    assert not later[0].done()
    assert switch.is_on(4)
    assert later[0].result(0) == 4
