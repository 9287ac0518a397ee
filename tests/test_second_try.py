"""A second attempt begins where the first is not answered, and the better one is kept."""

from __future__ import annotations

import numpy as np
import pytest
from igtl_peers import fresh

from stages.base import Buffer
from stages.sources.feed import Arrival, FeedError
from stages.sources.second_try import ANSWER_S, SecondTry


class Attempt:
    """A connection that does as it is told."""

    def __init__(self) -> None:
        self.answered = False
        self.closed = False
        self.description: str | None = None
        self.next: Arrival | FeedError | None = None

    def read(self, buffer: Buffer, timeout_s: float) -> Arrival | None:
        assert not self.closed
        if isinstance(self.next, FeedError):
            raise self.next
        return self.next

    def close(self) -> None:
        self.closed = True


class Rig:
    """Attempts as they are dialled, and a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.made: list[Attempt] = []
        self.feed = SecondTry(self._dial, lambda: self.now)

    def _dial(self) -> Attempt:
        self.made.append(Attempt())
        return self.made[-1]

    def read(self, after_s: float = 0.0) -> Arrival | None:
        self.now += after_s
        return self.feed.read(fresh, 0.1)


def a_picture() -> Arrival:
    return Arrival(np.zeros((2, 2), np.uint8), 0)


@pytest.mark.parametrize("winner", [0, 1])
def test_the_first_to_give_a_picture_is_kept(winner: int) -> None:
    rig = Rig()
    assert rig.read(ANSWER_S - 0.1) is None
    assert len(rig.made) == 1
    assert rig.read(0.2) is None
    assert rig.read(100) is None
    assert len(rig.made) == 2
    rig.made[winner].next, rig.made[winner].description = a_picture(), "this one"
    assert rig.read() is rig.made[winner].next
    assert [one.closed for one in rig.made] == [winner != 0, winner != 1]
    assert rig.feed.description == "this one"
    rig.made[winner].next = FeedError("over")
    with pytest.raises(FeedError, match="over"):
        rig.read()


def test_who_answers_is_waited_for() -> None:
    rig = Rig()
    rig.made[0].answered = True
    assert rig.read(100) is None
    assert len(rig.made) == 1


@pytest.mark.parametrize("first", [0, 1])
def test_it_fails_when_both_have(first: int) -> None:
    rig = Rig()
    assert rig.read(ANSWER_S) is None
    rig.made[first].next = FeedError("one")
    assert rig.read() is None
    assert rig.made[first].closed
    rig.made[1 - first].next = FeedError("the other")
    with pytest.raises(FeedError, match="the other"):
        rig.read()
    rig.feed.close()
    assert all(one.closed for one in rig.made)


def test_an_attempt_that_fails_at_once_is_over() -> None:
    rig = Rig()
    rig.made[0].next = FeedError("refused")
    with pytest.raises(FeedError, match="refused"):
        rig.read()
    assert len(rig.made) == 1
