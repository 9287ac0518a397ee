"""What a connected OpenIGTLink peer tells, piece by piece: `IgtlStream`."""

from __future__ import annotations

import socket
import time
from typing import Final

from stages.sources.feed import FeedError
from stages.sources.igtl_header import StreamError
from stages.sources.igtl_reader import MessageReader
from stages.sources.igtl_told import Told

_MESSAGE_NS: Final = 2_000_000_000
_SHORTEST_WAIT_S: Final = 1e-3


class IgtlStream:
    """A `MessageReader` fed from a socket, which it owns."""

    def __init__(self, connected: socket.socket, *, check_crc: bool) -> None:
        self.began_ns = time.monotonic_ns()
        """When the first byte of the message told last was seen, on the monotonic clock."""
        self._late_ns = 0
        self._left_ns = self.began_ns
        self._socket = connected
        self._reader = MessageReader(check_crc=check_crc)

    def receive(self, until_ns: int) -> Told | None:
        """What comes next, waiting until then (monotonic) at most; None where nothing came.

        Raises `FeedError` where the stream ends or cannot be followed, and where a message takes
        longer than 2 s from its first byte to its last; what passes while nobody receives is not
        the sender's doing, and is not counted.
        """
        self._late_ns += time.monotonic_ns() - self._left_ns
        try:
            return self._receive(until_ns)
        finally:
            self._left_ns = time.monotonic_ns()

    def _receive(self, until_ns: int) -> Told | None:
        reader = self._reader
        while True:
            within = reader.within_message
            count = self._fill(min(until_ns, self._late_ns) if within else until_ns)
            now_ns = time.monotonic_ns()
            if within and now_ns >= self._late_ns:
                raise FeedError("a message was not complete after 2 s")
            if count and not within:
                self.began_ns, self._late_ns = now_ns, now_ns + _MESSAGE_NS
            try:
                told = reader.filled(count) if count else None
            except StreamError as error:
                raise FeedError(str(error)) from error
            if told is not None or now_ns >= until_ns:  # also in a flood of what is skipped
                return told

    def place(self, room: memoryview | None) -> None:
        """Where the pixels of the picture that begins belong; None: nowhere."""
        self._reader.place(room)

    def close(self) -> None:
        self._socket.close()

    def _fill(self, until_ns: int) -> int:
        """Receive some of what is wanted; 0 where nothing came in time."""
        remaining_s = (until_ns - time.monotonic_ns()) * 1e-9
        self._socket.settimeout(max(remaining_s, _SHORTEST_WAIT_S))
        try:
            count = self._socket.recv_into(self._reader.wanted)
        except TimeoutError:
            return 0
        except OSError as error:
            raise FeedError(f"the connection broke: {error.strerror or error}") from error
        if not count:
            where = "within a message" if self._reader.within_message else "between messages"
            raise FeedError(f"the sender closed the connection {where}")
        return count
