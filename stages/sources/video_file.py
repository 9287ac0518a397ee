"""One pass over a local video file: `VideoFile`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import av
import av.logging
from av.stream import Disposition

from stages.errors import SourceError
from stages.sources.av_pictures import SIZE_LIMIT, PictureWriter, described, reason
from stages.sources.limits import MAX_PICTURE_PIXELS

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

    from stages.window import Window

FORMATS: Final = ("mov", "matroska", "avi", "mpegts", "mpeg", "ogg", "nut")
"""FFmpeg's names of the containers that are opened (mov is mp4 too, matroska is webm too).
Playlists (HLS, DASH, ffconcat) are not among them: they name other files and addresses."""

_RUN_UP_S: Final = 5.0  # decoded and thrown away: not every container finds its keyframes
_STAMP_NS: Final = 1_000_000  # a millisecond: as coarse as stamps in a file may be
_NOMINAL_NS: Final = 33_333_333  # where the file tells no usable rate


class VideoFile:
    """An open file and what decodes in it, in the order of display.

    FFmpeg may open nothing but this file, reads only the containers in `FORMATS`, and refuses
    pictures above the size limit before it allocates them. Raises `SourceError` where the file
    is no such container, holds no video, nothing in it decodes, or nothing from ``start_s`` on.
    """

    undecodable: int
    """Packets so far that did not decode."""
    decoded: int
    """Pictures so far that did, also those before the start."""
    period_ns: int
    """Nominal time between two pictures."""
    shape: tuple[int, ...]
    """`shape_of` the first picture."""

    def __init__(self, path: Path, source_id: str, start_s: float = 0.0) -> None:
        self._source_id = source_id
        self.undecodable = self.decoded = 0
        self._writer = PictureWriter(source_id)
        self._container = open_container(path, source_id)
        try:
            self._stream = picture_stream(self._container, source_id)
            rate = self._stream.average_rate
            self.period_ns = round(1e9 / rate) if rate and 0 < rate <= 1000 else _NOMINAL_NS
            self._pictures = self._decode()
            self._first = self._decode_first() if not start_s else self._seek(start_s)
            self.shape = self.shape_of(self._first)
        except BaseException:
            self.close()
            raise

    def pictures(self) -> Iterator[VideoFrame]:
        """Every picture that decodes; a packet that does not is counted and skipped.

        To be called once. Raises `SourceError` where the container turns out to be broken.
        """
        yield self._first
        yield from self._pictures

    def stamp_ns(self, picture: VideoFrame) -> int | None:
        """The presentation time of a picture in nanoseconds, where it has one."""
        if picture.pts is None or picture.time_base is None:
            return None
        return round(picture.pts * picture.time_base * 1_000_000_000)

    def shape_of(self, picture: VideoFrame) -> tuple[int, ...]:
        """See `PictureWriter.shape_of`."""
        return self._writer.shape_of(picture)

    def write(self, picture: VideoFrame, pixels: NDArray[np.uint8], window: Window) -> None:
        """See `PictureWriter.write`."""
        self._writer.write(picture, pixels, window)

    @property
    def description(self) -> str:
        """Codec, pixel format, matrix and range, as the file tells them."""
        return f"{self._stream.codec_context.name}, {described(self._first)}"

    def close(self) -> None:
        """Close the file; may be called more than once."""
        self._container.close()

    def _decode(self) -> Iterator[VideoFrame]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except Exception as error:  # PyAV raises many kinds on a broken file
                raise SourceError(
                    f"source {self._source_id}: the file is broken: {reason(error)}"
                ) from error
            try:
                decoded = packet.decode()
            except av.FFmpegError:
                self.undecodable += 1
                continue
            self.decoded += len(decoded)
            yield from decoded

    def _seek(self, start_s: float) -> VideoFrame:
        """The first picture stamped ``start_s`` after the stream's begin, or later."""
        begin, base = self._stream.start_time, self._stream.time_base
        begin_s = float(begin * base) if begin is not None and base is not None else 0.0
        if start_s > _RUN_UP_S:
            with suppress(av.FFmpegError):  # what cannot seek is read from its begin
                self._container.seek(round((begin_s + start_s - _RUN_UP_S) * 1e6))
        for picture in self._pictures:
            stamp_ns = self.stamp_ns(picture)
            if stamp_ns is not None and stamp_ns >= round((begin_s + start_s) * 1e9) - _STAMP_NS:
                return picture
        raise SourceError(
            f"source {self._source_id}: start_s: the file has no picture {start_s:g} s after its "
            "begin, expected a time before its end"
        )

    def _decode_first(self) -> VideoFrame:
        first = next(self._pictures, None)
        if first is None:
            raise SourceError(
                f"source {self._source_id}: no picture in the file decodes, expected a known "
                f"codec and pictures of at most {MAX_PICTURE_PIXELS} pixels"
            )
        return first


def open_container(path: Path, source_id: str) -> av.container.InputContainer:
    """Raises `SourceError`; see `VideoFile`."""
    av.logging.set_level(av.logging.PANIC)  # else FFmpeg writes to the terminal by itself
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": ",".join(FORMATS),
        **SIZE_LIMIT,
    }
    try:
        return av.open(str(path), options=options, metadata_errors="ignore")
    except Exception as error:  # PyAV raises many kinds on a broken file
        raise SourceError(
            f"source {source_id}: the file is no readable video, expected one of the "
            f"containers {', '.join(FORMATS)}: {reason(error)}"
        ) from error


def picture_stream(container: av.container.InputContainer, source_id: str) -> VideoStream:
    """The first video stream that is not cover art, its decoder set up; raises `SourceError`."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            stream.thread_type = "NONE"  # frame threads would add a delay each
            stream.codec_context.options = SIZE_LIMIT
            return stream
    raise SourceError(f"source {source_id}: the file holds no video stream")
