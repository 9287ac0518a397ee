"""One connection that FFmpeg reads, decoded in a thread of its own: `AvFeed`.

Note [Why a thread, and how it ends]
~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~
FFmpeg cannot be called off (see Note [What FFmpeg waits for] in `av_packets.py`), so the thread is
the only one that touches the container. `close` tells it to stop and does not wait for it; it
notices with the next packet, or when the clock says so, at most ``read_s`` later (in the worst
case of a server that stalls while it is being opened, twice ``open_s``), and closes the container
itself. Nothing is left behind then. Meanwhile other attempts may begin, as many as there are
``turns``: the next one waits until one of them is over, so that threads and connections stay few
whatever the server does.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import closing
from contextvars import copy_context
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import av

from stages.base import Buffer
from stages.sources.av_open import Address, IoLimits
from stages.sources.av_packets import packets
from stages.sources.av_pictures import PictureWriter, Taken, described, reason
from stages.sources.av_times import PacketTimes, Times, sending_ns, stamp_ns
from stages.sources.feed import Arrival, FeedError
from stages.sources.lag import BurstWatch
from stages.sources.region import Region, placed, window_in
from stages.sources.troubles import Troubles

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from stages.window import Window

TURNS: Final = 3
"""How many attempts of a source may be under way at a time, all but one given up."""
_TURN_S: Final = 0.05
_JOIN_S: Final = 0.1
_WAITING: Final = 4
"""Decoded pictures that may wait for the reader; then the oldest is lost."""
_DAMAGED: Final = "a picture is damaged; none is shown before the next keyframe"


class Taker(Protocol):
    """Puts decoded pictures where they are taken from."""

    def shape_of(self, picture: VideoFrame) -> tuple[int, ...]:
        """(H, W, ...); raises `SourceError` for what is too large."""

    def take_in(self, picture: VideoFrame, window: Window, buffer: Buffer) -> Taken:
        """What of ``picture`` lies in ``window``; raises `SourceError` for what it cannot."""


class _Decoded(NamedTuple):
    picture: VideoFrame
    times: Times


class AvFeed:
    """A `Feed`; see Note [Why a thread, and how it ends].

    Pictures begin with a keyframe, and again with one after a picture of which something is
    missing, so that nothing is shown that only half arrived. Where FFmpeg looks at the stream to
    see what it is (no ``address.format``), what it read meanwhile is old, and decoded without being
    shown (see `BurstWatch`). What is not shown is counted in ``troubles``: `damaged`, what does not
    decode or only in part; `skipped`, what came while a keyframe was waited for, or is old; `lost`,
    the oldest pictures of a reader that falls behind. ``turns`` and ``troubles``: shared by all
    feeds of a source. ``taker`` None: pictures are converted on the host.

    A stream that stays later than ``max_lag_s`` is given up, for a new connection begins without
    the queue; None: nothing is late. ``monotonic_stamps``: time stamps are those of this machine's
    monotonic clock. What the times mean is told in `PacketTimes`.
    """

    def __init__(
        self,
        source_id: str,
        address: Address,
        limits: IoLimits,
        turns: threading.Semaphore,
        troubles: Troubles,
        *,
        max_lag_s: float | None = None,
        roi: Region | None = None,
        taker: Taker | None = None,
        monotonic_stamps: bool = False,
    ) -> None:
        self._source_id = source_id
        self._address = address
        self._limits = limits
        self._turns = turns
        self._troubles = troubles
        self._roi = roi
        self._taker = PictureWriter(source_id) if taker is None else taker
        self._times = PacketTimes(max_lag_s, monotonic_stamps)
        self._burst = BurstWatch(is_over=address.format is not None or max_lag_s is None)
        self._decoded: deque[_Decoded] = deque()
        self._changed = threading.Condition()
        self._over: FeedError | None = None
        self._stop = threading.Event()
        self.answered = False
        """Whether a packet came."""
        self.description: str | None = None
        """Codec, pixel format, matrix and range, once there was a picture."""
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
        height, width, *_ = self._taker.shape_of(picture)
        window = window_in(self._roi, (height, width), self._source_id)
        taken = self._taker.take_in(picture, window, buffer)
        return Arrival(
            taken.pixels,
            times.captured_ns,
            times.captured_unix_ns,
            sender_ns=stamp_ns(picture),
            ycbcr=taken.ycbcr,
            **placed(window),
        )

    def close(self) -> None:
        """See `stages.sources.feed.Feed.close`."""
        with self._changed:
            self._stop.set()
            self._decoded.clear()
        self._thread.join(_JOIN_S)

    def _run(self) -> None:
        while not self._turns.acquire(timeout=_TURN_S):
            if self._stop.is_set():
                return
        try:
            over = self._tried()
        finally:
            self._turns.release()
        with self._changed:
            self._over = over
            self._changed.notify_all()

    def _tried(self) -> FeedError:
        """Reads to the end, and why it came."""
        try:
            with closing(packets(self._address, self._limits, self._stop)) as coming:
                self._follow(coming)
        except FeedError as error:
            return error
        except Exception as error:
            return FeedError(reason(error))
        return FeedError("the stream ended")

    def _follow(self, coming: Iterable[Packet[VideoStream]]) -> None:
        keyframe_seen = False
        for packet in coming:
            self.answered = True
            self._burst.see(time.monotonic_ns(), sending_ns(packet))
            keyframe_seen |= packet.is_keyframe
            if not packet.size:
                continue
            if not keyframe_seen:
                self._troubles.count("skipped")
                continue
            self._times.note(packet)
            try:
                pictures = packet.decode()
            except av.FFmpegError:
                keyframe_seen = False
                self._troubles.add("damaged", _DAMAGED)
                continue
            for picture in pictures:
                if picture.is_corrupt:
                    keyframe_seen = False
                    self._troubles.add("damaged", _DAMAGED)
                    continue
                if self.description is None:
                    self.description = f"{packet.stream.codec_context.name}, {described(picture)}"
                if self._burst.is_over:
                    self._hand_over(picture)
                else:
                    self._troubles.count("skipped")

    def _hand_over(self, picture: VideoFrame) -> None:
        decoded = _Decoded(picture, self._times.of(picture))
        with self._changed:
            if self._stop.is_set():
                return
            self._decoded.append(decoded)
            lost = len(self._decoded) > _WAITING
            if lost:
                self._decoded.popleft()
            self._changed.notify_all()
        if lost:
            self._troubles.add("lost", "pictures come faster than they are read; some are lost")
