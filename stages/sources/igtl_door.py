"""Letting OpenIGTLink senders in, as their server: `Door`, `Doorkeeper`."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from stages.errors import SourceError
from stages.sources.feed import FeedError
from stages.sources.troubles import Troubles

_CALLERS: Final = 8
_CROWD: Final = 64  # outside the door, and turned away at a time: tending stays short


class Door:
    """The socket that is listened on; made when the source is, and shared by all its feeds.

    Raises `SourceError` where the address cannot be listened on.
    """

    def __init__(self, host: str, port: int, source_id: str, troubles: Troubles) -> None:
        self._troubles = troubles
        self._callers: list[socket.socket] = []
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family, backlog=_CROWD)
        except OSError as error:
            raise SourceError(
                f"source {source_id}: cannot listen on {host} port {port}: "
                f"{error.strerror or error}"
            ) from error
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        """What was bound: the port asked for, unless that was 0."""

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    def let_in(self, timeout_s: float) -> socket.socket | None:
        """The first caller that says something, waiting at most that long.

        Until then up to eight are kept waiting, so that those who connect and leave, or say
        nothing, keep nobody else out; a ninth takes the place of the first.
        """
        until_s = time.monotonic() + timeout_s
        while True:
            remaining_s = max(until_s - time.monotonic(), 0.0)
            ready = _readable([self, *self._callers], remaining_s)
            for caller in [one for one in self._callers if one in ready]:
                self._callers.remove(caller)
                if _speaks(caller):
                    return caller
                caller.close()
            if self in ready:
                self._open()
            if time.monotonic() >= until_s:
                return None

    def turn_away(self) -> None:
        """Close the connections of all others: what they send would be old when their turn
        came."""
        for caller in self._callers:
            caller.close()
        self._callers.clear()
        with suppress(FeedError):  # for want of descriptors, say: the sender is not to blame
            for other in self._knocking(_CROWD):
                other.close()
                self._troubles.add("turned away", "another sender was turned away, expected one")

    def close(self) -> None:
        """Close it for good, and the connections of those who wait."""
        self._socket.close()
        for caller in self._callers:
            caller.close()

    def _open(self) -> None:
        room = _CALLERS - len(self._callers)
        for caller in self._knocking(max(room, 1)):  # the others stay outside for now
            caller.setblocking(False)
            self._callers.append(caller)
        if len(self._callers) > _CALLERS:
            self._callers.pop(0).close()

    def _knocking(self, most: int) -> Iterator[socket.socket]:
        """Those who knock now, ``most`` at most."""
        try:
            for _ in range(most):
                yield self._socket.accept()[0]
        except (BlockingIOError, ConnectionError, TimeoutError):
            return
        except OSError as error:
            raise FeedError(f"listening broke: {error.strerror or error}") from error


class Doorkeeper:
    """Lets one sender in; see `Connector`."""

    listens = True

    def __init__(self, door: Door) -> None:
        self._door = door
        self._sender: socket.socket | None = None

    def connect(self, timeout_s: float) -> socket.socket | None:
        """See `Connector.connect`."""
        self._sender = self._door.let_in(timeout_s)
        return self._sender

    def tend(self) -> None:
        """See `Connector.tend`. A sender that has left may have come again, and waits."""
        if self._sender is not None and not _has_left(self._sender):
            self._door.turn_away()

    def close(self) -> None:
        """See `Connector.close`; the door stays open for the next feed."""


def _readable(places: list[Door | socket.socket], timeout_s: float) -> list[Door | socket.socket]:
    """Those where something happened, waiting at most that long."""
    poll = select.poll()
    by_number = {place.fileno(): place for place in places}
    if -1 in by_number:
        raise FeedError("listening is over")  # closed meanwhile, in another thread
    for number in by_number:
        poll.register(number, select.POLLIN)
    return [by_number[number] for number, _ in poll.poll(timeout_s * 1e3)]


def _speaks(caller: socket.socket) -> bool:
    """Whether a caller that is readable has sent a byte, and has not just left."""
    try:
        return bool(caller.recv(1, socket.MSG_PEEK))
    except OSError:
        return False


def _has_left(sender: socket.socket) -> bool:
    """Whether the sender has closed the connection, be there unread bytes of its or not."""
    poll = select.poll()
    poll.register(sender, select.POLLRDHUP)
    return bool(poll.poll(0))
