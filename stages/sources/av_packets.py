"""The packets of a connection that FFmpeg reads: `packets`.

Note [What FFmpeg waits for]
~~~~~~~~~~~~~~~~~~~~~~~~~~~~
FFmpeg cannot be called off while it opens or reads: PyAV gives it an interrupt callback that
looks at a clock and nothing else, armed anew for opening, for looking at the streams and for
each packet, and a read that it interrupts leaves the demuxer in the middle of a message.

Where FFmpeg waits in the kernel instead, as for the next picture of a camera, no clock is looked
at. So a camera is opened not to wait (see `V4l2Device.address`): FFmpeg then says that there is
nothing yet, and is asked again 5 ms later.
"""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import av

from stages.sources.av_open import Address, IoLimits, opened
from stages.sources.av_pictures import reason
from stages.sources.feed import FeedError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

_ASK_AGAIN_S: Final = 0.005


class _Patience:
    """How long FFmpeg has been asked for something, and may take to answer."""

    def __init__(self, limit_s: float | None) -> None:
        self.begin(limit_s)

    def begin(self, limit_s: float | None) -> None:
        """It is asked, and may take so long."""
        self._limit_s, self._asked = limit_s, time.monotonic()

    def answered(self) -> None:
        """It answered, in time or else `FeedError`, and is asked again."""
        self.check()
        self._asked = time.monotonic()

    def check(self) -> None:
        """Raises `FeedError` where it took too long."""
        if self.is_over:
            raise self.error

    @property
    def is_over(self) -> bool:
        limit_s = self._limit_s
        return limit_s is not None and time.monotonic() - self._asked >= limit_s

    @property
    def error(self) -> FeedError:
        limit_s = self._limit_s
        return FeedError("no answer" if limit_s is None else f"no answer for {limit_s:g} s")


def packets(
    address: Address, limits: IoLimits, stop: threading.Event
) -> Generator[Packet[VideoStream]]:
    """Those of the first video stream at ``address``, which is open as long as the iterator is.

    Ends once ``stop`` is set, with the next packet or when the clock says so. Raises `FeedError`
    for whatever else ends it. See Note [What FFmpeg waits for].
    """
    patience = _Patience(limits.open_s)
    where = "" if address.place is None else f"{address.place}: "
    try:
        with opened(address, limits) as (container, stream):
            where = ""
            patience.begin(limits.read_s)
            yield from _demuxed(container, stream, patience, stop)
    except FeedError:
        raise
    except Exception as error:  # PyAV raises many kinds; their text holds the address
        if isinstance(error, av.error.ExitError) or patience.is_over:
            raise FeedError(f"{where}{patience.error}") from None
        raise FeedError(f"{where}{_why(error, address) if where else reason(error)}") from None
    if not stop.is_set():
        raise FeedError("the stream ended")


def _demuxed(
    container: InputContainer, stream: VideoStream, patience: _Patience, stop: threading.Event
) -> Iterator[Packet[VideoStream]]:
    while not stop.is_set():
        try:
            for packet in container.demux(stream):
                patience.answered()
                if stop.is_set():
                    return
                yield packet
            return
        except BlockingIOError:
            patience.check()
            stop.wait(_ASK_AGAIN_S)


def _why(error: Exception, address: Address) -> str:
    """Why it cannot be opened. FFmpeg calls a name that nobody knows an input/output error."""
    host = urlsplit(address.place or "").hostname
    if host is not None and isinstance(error, OSError) and error.errno == errno.EIO:
        try:
            socket.getaddrinfo(host, None)
        except OSError:
            return "the host's name is not known here"
    return reason(error)
