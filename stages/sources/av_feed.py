"""One connection that FFmpeg reads, decoded in a thread of its own: `AvFeed`.

Note [Why a thread, and how it ends]
~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~
FFmpeg cannot be called off while it opens or reads: PyAV gives it an interrupt callback that
looks at a clock and nothing else, armed anew for opening, for looking at the streams and for
each packet, and a read that it interrupts leaves the demuxer in the middle of a message. So the
thread is the only one that touches the container. `close` tells it to stop and does not wait
for it; it notices with the next packet, or when the clock says so, at most ``io_s`` later (in the
worst case of a server that stalls while it is being opened, twice that), and closes the
container itself. Nothing is left behind then.
"""

from __future__ import annotations

import struct
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import av
import av.logging

from kpi import emit
from kpi.events import ErrorRaised
from stages.base import Buffer
from stages.sources.av_pictures import SIZE_LIMIT, PictureWriter, reason
from stages.sources.feed import Arrival, FeedError
from stages.sources.lag import LagWatch
from stages.sources.region import Region, placed, window_in

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_JOIN_S: Final = 0.1
_WAITING: Final = 4
"""Decoded pictures that may wait for the reader; then the oldest is lost."""
_LATE_S: Final = 2.0
_LATE_FOR_S: Final = 5.0
"""A stream that comes later than by `_LATE_S`, for so long, does not catch up by itself."""


@dataclass(frozen=True, slots=True)
class Address:
    """What to open, and how."""

    url: str = field(repr=False)
    """With its credentials."""
    options: Mapping[str, str]
    """FFmpeg's."""
    format: str | None = None
    """FFmpeg's name of the demuxer; None: it looks."""


class _Times(NamedTuple):
    captured_ns: int
    captured_unix_ns: int | None


class _Decoded(NamedTuple):
    picture: VideoFrame
    times: _Times


class AvFeed:
    """A `Feed`; see Note [Why a thread, and how it ends].

    Pictures begin with a keyframe, and again with one after a packet that does not decode, so
    that nothing is shown that only half arrived. A reader that falls behind loses the oldest
    pictures, which is told as an `error` event, once a connection. ``io_s``: opening, looking at
    the streams, and reading a packet may each take so long.

    A picture counts as captured when its packet arrived, less how late the packet came by the
    sender's own clock (see `LagWatch`), so that a queue on the way shows as age; a stream that
    stays late is given up, for a new connection begins without the queue. Unix time is the
    sender's where its RTCP reports tell it.
    """

    def __init__(
        self, source_id: str, address: Address, io_s: float, roi: Region | None = None
    ) -> None:
        self._source_id = source_id
        self._address = address
        self._io_s = io_s
        self._roi = roi
        self._writer = PictureWriter(source_id)
        self._lag = LagWatch()
        self._late_since_ns: int | None = None
        self._last_pts_ns: int | None = None
        self._times: dict[int | None, _Times] = {}
        self._decoded: deque[_Decoded] = deque()
        self._changed = threading.Condition()
        self._over: Exception | None = None
        self._closing = False
        self._lost = 0
        run = copy_context().run
        name = f"feed-{source_id}"
        self._thread = threading.Thread(target=run, args=(self._run,), name=name, daemon=True)
        self._thread.start()

    def read(self, buffer: Buffer, timeout_s: float) -> Arrival | None:
        """See `stages.sources.feed.Feed.read`."""
        with self._changed:
            self._changed.wait_for(lambda: self._decoded or self._over, timeout_s)
            if not self._decoded:
                if self._over is not None:
                    raise self._over
                return None
            picture, times = self._decoded.popleft()
        height, width, *colours = self._writer.shape_of(picture)
        window = window_in(self._roi, (height, width), self._source_id)
        pixels = buffer((*window.size_hw, *colours))
        self._writer.write(picture, pixels, window)
        return Arrival(
            pixels,
            times.captured_ns,
            times.captured_unix_ns,
            sender_ns=_ns(picture),
            **placed(window),
        )

    def close(self) -> None:
        """See `stages.sources.feed.Feed.close`."""
        with self._changed:
            self._closing = True
            self._decoded.clear()
        self._thread.join(_JOIN_S)

    def _run(self) -> None:
        try:
            self._play()
            over: Exception = FeedError("the stream ended")
        except FeedError as error:
            over = error
        except Exception as error:  # PyAV raises many kinds; their text holds the address
            over = FeedError(self._words(error))
        with self._changed:
            self._over = over
            self._changed.notify_all()

    def _play(self) -> None:
        av.logging.set_level(av.logging.PANIC)  # else FFmpeg writes to the terminal by itself
        address = self._address
        with av.open(
            address.url,
            format=address.format,
            options={**address.options, **SIZE_LIMIT},
            metadata_errors="ignore",
            timeout=(self._io_s, self._io_s),
        ) as container:
            if not container.streams.video:
                raise FeedError("there is no video in the stream")
            stream = container.streams.video[0]
            stream.thread_type = "NONE"  # frame threads would add a delay each
            stream.codec_context.options = SIZE_LIMIT
            self._follow(container, stream)

    def _follow(self, container: InputContainer, stream: VideoStream) -> None:
        keyframe_seen = False
        for packet in container.demux(stream):
            if self._closing:
                return
            keyframe_seen |= packet.is_keyframe
            if not keyframe_seen or not packet.size:
                continue
            self._note_times(packet)
            try:
                pictures = packet.decode()
            except av.FFmpegError:
                keyframe_seen = False
                continue
            for picture in pictures:
                if not picture.is_corrupt:
                    self._hand_over(picture)

    def _note_times(self, packet: Packet[VideoStream]) -> None:
        """The times of a packet, kept for its picture, which may come a few packets later."""
        arrived_ns = time.monotonic_ns()
        lag_ns = 0
        if packet.pts is not None and packet.time_base is not None:
            pts_ns = round(packet.pts * packet.time_base * 1_000_000_000)
            lag_ns = self._lag_ns(arrived_ns, pts_ns)
        while len(self._times) >= 64:
            del self._times[next(iter(self._times))]
        self._times[packet.pts] = _Times(arrived_ns - lag_ns, _unix_ns(packet))

    def _lag_ns(self, arrived_ns: int, pts_ns: int) -> int:
        if self._last_pts_ns is not None and pts_ns < self._last_pts_ns - 1_000_000_000:
            self._lag.reset()
        self._last_pts_ns = pts_ns
        lag_ns = self._lag.lag_ns(arrived_ns, pts_ns)
        if lag_ns < _LATE_S * 1e9:
            self._late_since_ns = None
        elif self._late_since_ns is None:
            self._late_since_ns = arrived_ns
        elif arrived_ns - self._late_since_ns > _LATE_FOR_S * 1e9:
            raise FeedError(f"the stream is {lag_ns / 1e9:.1f} s late and does not catch up")
        return lag_ns

    def _hand_over(self, picture: VideoFrame) -> None:
        now = _Times(time.monotonic_ns(), None)
        times = self._times.pop(picture.pts, now)
        with self._changed:
            if self._closing:
                return
            self._decoded.append(_Decoded(picture, times))
            if len(self._decoded) > _WAITING:
                self._decoded.popleft()
                self._lost += 1
            self._changed.notify_all()
        if self._lost == 1:
            self._lost += 1
            emit(ErrorRaised(self._source_id, "pictures come faster than they are read; lost some"))

    def _words(self, error: Exception) -> str:
        if isinstance(error, av.error.ExitError):
            return f"no answer for {self._io_s:g} s"
        return reason(error)


def _ns(picture: VideoFrame) -> int | None:
    if picture.pts is None or picture.time_base is None:
        return None
    return round(picture.pts * picture.time_base * 1_000_000_000)


def _unix_ns(packet: Packet[VideoStream]) -> int | None:
    """The sender's clock: AVProducerReferenceTime, int64 microseconds since 1970 and flags."""
    if not packet.has_sidedata("prft"):
        return None
    (microseconds,) = struct.unpack_from("=q", bytes(packet.get_sidedata("prft")))
    return int(microseconds) * 1000
