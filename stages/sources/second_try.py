"""Another attempt beside one that is not answered: `SecondTry`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

from stages.base import Buffer
from stages.sources.feed import Arrival, Feed, FeedError

ANSWER_S: Final = 4.0
"""A server that has said nothing for so long may have been gone when it was called."""


class AnsweredFeed(Feed, Protocol):
    """A feed that knows whether anybody is there."""

    @property
    def answered(self) -> bool:
        """Whether anything of the stream came."""

    @property
    def description(self) -> str | None:
        """How the stream is sent, once there was a picture."""


class SecondTry:
    """A `Feed` of whichever of two attempts gives the first picture.

    A call that got lost on the way is not answered though the server be back, and TCP repeats it
    ever more rarely; a slow server answers in its own time. So after `ANSWER_S` without an answer
    a second attempt begins, and the first is not given up. It is over when both are.
    """

    def __init__(
        self, dial: Callable[[], AnsweredFeed], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._dial = dial
        self._clock = clock
        self._feeds = [dial()]
        self._second_s: float | None = clock() + ANSWER_S

    @property
    def description(self) -> str | None:
        """Of the attempt that gave pictures."""
        return self._feeds[0].description

    def read(self, buffer: Buffer, timeout_s: float) -> Arrival | None:
        """See `stages.sources.feed.Feed.read`."""
        self._consider()
        for feed in tuple(self._feeds):
            try:
                arrival = feed.read(buffer, timeout_s / len(self._feeds))
            except FeedError:
                if len(self._feeds) == 1:
                    raise
                self._end(feed)
            else:
                if arrival is not None:
                    self._keep(feed)
                    return arrival
        return None

    def close(self) -> None:
        """See `stages.sources.feed.Feed.close`."""
        for feed in self._feeds:
            feed.close()

    def _consider(self) -> None:
        if self._second_s is None:
            return
        if self._feeds[0].answered:
            self._second_s = None
        elif self._clock() >= self._second_s:
            self._second_s = None
            self._feeds.append(self._dial())

    def _keep(self, feed: AnsweredFeed) -> None:
        for other in tuple(self._feeds):
            if other is not feed:
                self._end(other)

    def _end(self, feed: AnsweredFeed) -> None:
        feed.close()
        self._feeds.remove(feed)
