"""One receiver of OpenIGTLink messages, however slow: `Client`."""

from __future__ import annotations

import socket
from typing import Final, Literal

GIVE_UP_S: Final = 10.0
"""A receiver that takes nothing for so long, while something waits for it, is given up."""
MAX_INBOUND_PER_S: Final = 1 << 20
"""Bytes that a receiver may send us, which are thrown away: it has nothing to tell."""

_KEPT_BYTES: Final = 1 << 18  # by the kernel, for one receiver: what lies there cannot be replaced
_READ_BYTES: Final = 1 << 16

What = Literal["result", "status"]


class GoneError(Exception):
    """The receiver has left. One line."""


class GivenUpError(GoneError):
    """The receiver has to leave. One line."""


class Client:
    """A connection, which it owns; used by one thread, never blocking.

    What waits is the newest result and the newest status, in the order in which they came; one
    message, at most, is on its way.
    """

    def __init__(self, connected: socket.socket, now_s: float) -> None:
        self.socket = connected
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KEPT_BYTES)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._waiting: dict[What, bytes] = {}
        self._sending = memoryview(b"")
        self._moved_s = now_s
        self._heard, self._heard_s = 0, now_s

    @property
    def has_more(self) -> bool:
        """Whether there is something to send."""
        return bool(self._sending) or bool(self._waiting)

    def offer(self, what: What, data: bytes, now_s: float) -> bool:
        """Send ``data`` when its turn comes; False where it takes the place of an older one."""
        if not self.has_more:
            self._moved_s = now_s
        replaced = self._waiting.pop(what, None)
        self._waiting[what] = data
        return replaced is None

    def send(self, now_s: float) -> None:
        """Send what the kernel takes; raises `GoneError`."""
        if not self._sending and self._waiting:
            self._sending = memoryview(self._waiting.pop(next(iter(self._waiting))))
        if not self._sending:
            return
        try:
            count = self.socket.send(self._sending)
        except BlockingIOError:
            return
        except OSError as error:
            raise GoneError(error.strerror or str(error)) from error
        self._sending = self._sending[count:]
        self._moved_s = now_s

    def listen(self, now_s: float) -> None:
        """Throw away what it said; raises `GoneError` where it left,
        `GivenUpError` where it says too much."""
        try:
            data = self.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            raise GoneError(error.strerror or str(error)) from error
        if not data:
            raise GoneError("it closed the connection")
        if now_s - self._heard_s >= 1.0:
            self._heard, self._heard_s = 0, now_s
        self._heard += len(data)
        if self._heard > MAX_INBOUND_PER_S:
            raise GivenUpError(f"it sent more than {MAX_INBOUND_PER_S} bytes in a second")

    def check(self, now_s: float) -> None:
        """Raise `GivenUpError` where it has taken nothing for too long."""
        if self.has_more and now_s - self._moved_s > GIVE_UP_S:
            raise GivenUpError(f"it took nothing for {GIVE_UP_S:g} s")

    def close(self) -> None:
        self.socket.close()
