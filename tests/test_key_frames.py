"""Key frames."""

from __future__ import annotations

from stages.key_frames import KeyFrames


def test_the_first_of_a_view_then_every_so_many() -> None:
    key = KeyFrames(3)
    assert [key.has_next("a") for _ in range(7)] == [True, False, False] * 2 + [True]
    assert [key.has_next("b") for _ in range(2)] == [True, False]
    key.restart()
    assert key.has_next("b")


def test_every_frame() -> None:
    key = KeyFrames(1)
    assert all(key.has_next(0) for _ in range(5))
