"""A video file decoded from any keyframe on, and what its packets tell: `Decoder`, `Stamps`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

import av

from stages.sources.video_file import open_container, picture_stream

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_RUN_UP_S: Final = 5.0  # not every container finds its keyframes


@dataclass(frozen=True, slots=True)
class Stamps:
    """Presentation times of a file's frames, in the stream's time base."""

    shown: list[int]
    """Sorted, one a frame."""
    keys: list[int]
    """Those of keyframes, sorted."""
    seconds: float
    """From the first frame to the end of the last one."""
    tick_s: Fraction
    """A unit of the time base."""

    def time_s(self, number: int) -> float:
        """From the first frame to another one, by its number."""
        return float((self.shown[number] - self.shown[0]) * self.tick_s)


class Decoder:
    """An open file. Raises `SourceError` where it is no readable video."""

    def __init__(self, path: Path, source_id: str) -> None:
        self._path, self._source_id = path, source_id
        self.undecodable = 0
        """Packets so far that did not decode, each time that it was tried."""
        self._open()
        rate = self._stream.average_rate
        self.fps = float(rate) if rate and 0 < rate <= 1000 else None
        """As the file tells it."""
        self.told = int(self._stream.frames)
        """How many frames the file says it has; 0: it does not say."""
        alone = len(self._container.streams) == 1
        self.told_s = (self._container.duration or 0) / 1e6 if alone else 0.0
        """How long the file says that its pictures last; 0: it does not say."""

    def stamps(self) -> Stamps | None:
        """What the packets tell, as far as they can be read; None where they do not tell times.

        Nothing is decoded.
        """
        shown, keys, end = list[int](), list[int](), 0
        for packet in self._packets():
            if not packet.size or packet.is_discard or packet.is_corrupt:
                continue
            if packet.pts is None:
                return None
            shown.append(packet.pts)
            end = max(end, packet.pts + (packet.duration or 0))
            if packet.is_keyframe:
                keys.append(packet.pts)
        if not keys or len(set(shown)) < len(shown):
            return None
        shown.sort()
        tick_s = self._stream.time_base or Fraction(0)
        return Stamps(shown, sorted(keys), float((end - shown[0]) * tick_s), tick_s)

    def pictures(self, key: int | None) -> Iterator[VideoFrame]:
        """What decodes from the keyframe stamped `key` on, or one before it; from the begin of the
        file for None."""
        packets = self._packets_from(key)
        for packet in packets:
            try:
                decoded = packet.decode()
            except av.FFmpegError:  # who wants its picture will miss it
                self.undecodable += 1
                continue
            yield from decoded

    def close(self) -> None:
        """Close the file; may be called more than once."""
        self._container.close()

    def _packets_from(self, key: int | None) -> Iterator[Packet[VideoStream]]:
        base = self._stream.time_base
        run_up = 0 if base is None else round(_RUN_UP_S / base)
        if key is not None:
            for target in (key, key - run_up):
                with suppress(av.FFmpegError):  # what cannot seek is read from its begin
                    self._container.seek(target, stream=self._stream)
                    packets = self._packets()
                    first = next((packet for packet in packets if packet.is_keyframe), None)
                    if first is not None and first.pts is not None and first.pts <= key:
                        return chain((first,), packets)
        self.close()  # seeking to the begin of a transport stream finds a later keyframe
        self._open()
        return self._packets()

    def _open(self) -> None:
        self._container = open_container(self._path, self._source_id)
        try:
            self._stream = picture_stream(self._container, self._source_id)
        except BaseException:
            self.close()
            raise

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except Exception:  # PyAV raises many kinds on a broken file; what follows is missing
                return
            yield packet
