"""When the pictures of a network stream were captured: `PacketTimes`."""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from stages.sources.lag import LagLimit

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_WAITED_FOR: Final = ("h264", "hevc", "mpeg4")
"""Codecs whose packets do not tell where a picture ends."""
_LONGEST_PERIOD_NS: Final = 1_000_000_000
_OLDEST_NS: Final = 10_000_000_000
_MOST: Final = 64  # packets whose picture is still to come


class Times(NamedTuple):
    """Of one picture, in nanoseconds."""

    captured_ns: int
    """Monotonic clock."""
    captured_unix_ns: int | None


class PacketTimes:
    """Keeps the times of packets until their pictures are decoded, for one connection.

    A picture counts as captured when its packet arrived, less the time from the picture to the
    one before where FFmpeg waits for the beginning of the next (`_WAITED_FOR`), and less how late
    that was by the sender's clock (see `LagLimit`), so that a queue on the way shows as age; never
    before the one before it. ``max_lag_s`` None: nothing is late. Unix time is the sender's, where
    its RTCP reports tell it. ``monotonic_stamps``: stamps are those of this machine's monotonic
    clock, and are the time of capture, where they are not older than 10 s.
    """

    def __init__(self, max_lag_s: float | None, monotonic_stamps: bool = False) -> None:
        self._monotonic_stamps = monotonic_stamps
        self._lag = LagLimit(max_lag_s)
        self._times: dict[int | None, Times] = {}
        self._sent_ns: int | None = None
        self._captured_ns = 0

    def note(self, packet: Packet[VideoStream]) -> None:
        """A packet has just arrived; raises `FeedError` where the stream stays too late."""
        arrived_ns, lag_ns = time.monotonic_ns(), 0
        sent_ns = stamp_ns(packet)
        if sent_ns is not None:
            lag_ns = self._lag.lag_ns(arrived_ns, sent_ns)
        captured_ns = arrived_ns - lag_ns - self._period_ns(packet, sent_ns)
        if self._monotonic_stamps and sent_ns is not None:
            believed = 0 <= arrived_ns - sent_ns < _OLDEST_NS  # some drivers stamp otherwise
            captured_ns = sent_ns if believed else captured_ns
        self._captured_ns = max(captured_ns, self._captured_ns)
        while len(self._times) >= _MOST:
            del self._times[next(iter(self._times))]
        self._times[packet.pts] = Times(self._captured_ns, _unix_ns(packet))

    def of(self, picture: VideoFrame) -> Times:
        """The times of the packet that ``picture`` came from, which had the same stamp."""
        return self._times.pop(picture.pts, None) or Times(time.monotonic_ns(), None)

    def _period_ns(self, packet: Packet[VideoStream], sent_ns: int | None) -> int:
        """How long the packet was held back until the next picture began."""
        before, self._sent_ns = self._sent_ns, sent_ns
        waited = packet.stream.codec_context.name in _WAITED_FOR
        if not waited or before is None or sent_ns is None:
            return 0
        return min(max(sent_ns - before, 0), _LONGEST_PERIOD_NS)


def stamp_ns(of: VideoFrame | Packet[VideoStream]) -> int | None:
    """The sender's time stamp in nanoseconds, where there is one."""
    if of.pts is None or of.time_base is None:
        return None
    return round(of.pts * of.time_base * 1_000_000_000)


def sending_ns(packet: Packet[VideoStream]) -> int | None:
    """As `stamp_ns`, in the order of sending, which that of showing need not be."""
    if packet.dts is None or packet.time_base is None:
        return stamp_ns(packet)
    return round(packet.dts * packet.time_base * 1_000_000_000)


def _unix_ns(packet: Packet[VideoStream]) -> int | None:
    """The sender's clock: AVProducerReferenceTime, int64 microseconds since 1970 and flags."""
    if not packet.has_sidedata("prft"):
        return None
    (microseconds,) = struct.unpack_from("=q", bytes(packet.get_sidedata("prft")))
    return int(microseconds) * 1000
