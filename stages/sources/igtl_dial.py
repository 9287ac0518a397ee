"""Reaching an OpenIGTLink server, as its client: `Dialer`."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from typing import Final

from stages.sources.feed import FeedError
from stages.sources.igtl_lookup import Address, Lookup

_ANSWER_NS: Final = 5_000_000_000
_UNDER_WAY: Final = (0, errno.EINPROGRESS, errno.EINTR)


class Dialer:
    """One attempt, at each of the server's addresses in turn; see `Connector`."""

    listens = False

    def __init__(self, lookup: Lookup, where: str) -> None:
        self._lookup = lookup
        self._where = where
        self._untried: list[Address] | None = None
        self._socket: socket.socket | None = None
        self._began_ns = 0

    def connect(self, timeout_s: float) -> socket.socket | None:
        """See `Connector.connect`; an address that does not answer within 5 s is given up."""
        if self._untried is None:
            self._untried = self._looked_up(timeout_s)
            if self._untried is None:
                return None
        if self._socket is None:
            self._socket = self._begin(self._untried)
            if self._socket is None:
                return None
        if not _settled(self._socket, timeout_s):
            if time.monotonic_ns() - self._began_ns >= _ANSWER_NS:
                self._failed("no answer within 5 s")
            return None
        failure = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failure:
            self._failed(os.strerror(failure))
            return None
        connected, self._socket = self._socket, None
        return connected

    def tend(self) -> None:
        """See `Connector.tend`: there is nothing to look after."""

    def close(self) -> None:
        """See `Connector.close`."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _looked_up(self, timeout_s: float) -> list[Address] | None:
        try:
            return self._lookup.addresses(timeout_s)
        except OSError as error:
            raise FeedError(f"{self._where}: {error.strerror or error}") from error

    def _begin(self, untried: list[Address]) -> socket.socket | None:
        family, address = untried.pop(0)
        try:
            connecting = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:  # no IPv6 here, no file descriptor left
            self._failed(error.strerror or str(error))
            return None
        connecting.setblocking(False)
        self._began_ns = time.monotonic_ns()
        failure = connecting.connect_ex(address)
        if failure in _UNDER_WAY:
            return connecting
        connecting.close()
        self._failed(os.strerror(failure))
        return None

    def _failed(self, reason: str) -> None:
        self.close()
        if not self._untried:
            raise FeedError(f"{self._where}: {reason}")


def _settled(connecting: socket.socket, timeout_s: float) -> bool:
    """Whether the connection stands or has failed, waiting at most that long."""
    poll = select.poll()
    poll.register(connecting, select.POLLOUT)
    return bool(poll.poll(timeout_s * 1e3))
