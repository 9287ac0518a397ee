"""A sender of OpenIGTLink bytes, and a feed that listens to it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from kpi.emit import current_logger
from kpi.events import ErrorRaised, Event
from stages.sources.feed import Arrival, FeedError
from stages.sources.igtl_dial import Dialer
from stages.sources.igtl_door import Door, Doorkeeper
from stages.sources.igtl_feed import IgtlFeed, IgtlWishes
from stages.sources.igtl_lookup import Lookup
from stages.sources.troubles import Troubles

WAIT_S = 10.0
SLICE_S = 0.05


def fresh(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A `Buffer` of new memory."""
    return np.empty(shape, np.uint8)


def next_arrival(feed: IgtlFeed, wait_s: float = WAIT_S) -> Arrival:
    """The next picture, waiting in slices, as a supervisor does."""
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        arrival = feed.read(fresh, SLICE_S)
        if arrival is not None:
            return arrival
    raise TimeoutError("no picture came")


def until(condition: Callable[[], bool], wait_s: float = WAIT_S) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + wait_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not come about")
        time.sleep(0.01)


@contextmanager
def feed_and_sender(
    wishes: IgtlWishes | None = None, troubles: Troubles | None = None
) -> Iterator[tuple[IgtlFeed, socket.socket]]:
    """A feed that is connected, as client, to a socket to send from."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        dialer = Dialer(Lookup("127.0.0.1", port), f"127.0.0.1 port {port}")
        feed = IgtlFeed(dialer, wishes or IgtlWishes(), troubles or Troubles("us"))
        try:
            assert feed.read(fresh, 0.0) is None
            sender, _ = server.accept()
            sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with sender:
                yield feed, sender
        finally:
            feed.close()


class Listener:
    """A door on a free port, whose feeds are given out."""

    def __init__(self) -> None:
        self._troubles = Troubles("us")
        self._door = Door("127.0.0.1", 0, "us", self._troubles)

    def feed(self) -> IgtlFeed:
        """The feed of the next sender."""
        return IgtlFeed(Doorkeeper(self._door), IgtlWishes(), self._troubles)

    def sender(self) -> socket.socket:
        """Connects."""
        return socket.create_connection(("127.0.0.1", self._door.port), WAIT_S)

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *error: object) -> None:
        self._door.close()


@contextmanager
def errors_told() -> Iterator[list[str]]:
    """The messages of `error` events emitted meanwhile, in this thread."""
    messages: list[str] = []

    class Logger:
        def emit(self, event: Event) -> None:
            if isinstance(event, ErrorRaised):
                messages.append(event.message)

    token = current_logger.set(Logger())
    try:
        yield messages
    finally:
        current_logger.reset(token)


def outcome(feed: IgtlFeed, wait_s: float = WAIT_S) -> str:
    """Why the connection ended."""
    deadline = time.monotonic() + wait_s
    try:
        while time.monotonic() < deadline:
            assert feed.read(fresh, SLICE_S) is None
    except FeedError as error:
        return str(error)
    raise TimeoutError("the connection did not end")
