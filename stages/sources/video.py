"""A video file as a source: `VideoSource`."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from kpi import emit
from kpi.events import ErrorRaised
from stages.base import Buffer, Picture
from stages.errors import ConfigError
from stages.sources.limits import SourceId
from stages.sources.pacing import PacedSource, Timeline
from stages.sources.region import SourceConfig, placed, window_in

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

    from stages.sources.video_file import VideoFile


class VideoConfig(SourceConfig):
    """A video file on this machine."""

    kind: Literal["video"] = "video"
    source_id: SourceId = "video"
    path: str = Field(min_length=1)
    """A regular file: mp4, mov, mkv, webm, avi, ts, mpg, ogv or nut. Addresses are refused."""
    realtime: bool = True
    """False: as fast as asked."""
    loop: bool = False
    """Start again at the end, for ever; each pass is an epoch of its own."""
    start_s: float = Field(default=0.0, ge=0, le=1e6, strict=True)
    """Begin so far into the file; so does each pass."""


class VideoSource(PacedSource):
    """The pictures of a file's first video stream, at the times their stamps tell.

    The schedule starts with the first `read`, and in real time a picture counts as captured at
    the moment it was due (else when it was read). A reader that falls behind gets the pictures
    that are due at once, none left out. A change of size, and every new pass, raises the epoch.
    Rotation tags, pixel aspect and interlacing are left alone: pictures come as they are stored.

    A packet that does not decode is skipped, and the first such is told as an `error` event; so
    a file that was cut off gives what is there and ends. `SourceError` is raised when
    the file is no readable video, nothing in it decodes, or its container is found to be broken
    on the way, after the pictures before that. Raises `ConfigError` for what is no local file.
    """

    def __init__(self, config: VideoConfig) -> None:
        self._path = _local_file(config)
        self._config = config
        self._file, self._pictures = self._open(config.source_id)
        self._shape = self._file.shape
        self._window = window_in(config.roi, self._size_hw, config.source_id)
        super().__init__(config.source_id, self._window.size_hw, realtime=config.realtime)
        self._timeline = Timeline(self._file.period_ns)
        self._epoch = 0
        self._told = False

    def _next(self, buffer: Buffer) -> Picture | None:
        picture = self._picture()
        if picture is None:
            return None
        offset_ns = self._timeline.offset(self._file.stamp_ns(picture))
        captured_ns = self._pacer.wait(offset_ns)
        if captured_ns is None:
            return None
        shape = self._file.shape_of(picture)
        if shape != self._shape:
            self._shape = shape
            self._window = window_in(self._config.roi, self._size_hw, self.source_id)
            self._epoch += 1
        pixels = buffer((*self._window.size_hw, *shape[2:]))
        self._file.write(picture, pixels, self._window)
        return Picture(
            pixels=pixels,
            epoch=self._epoch,
            captured_ns=captured_ns,
            spacing_mm=self._config.spacing_mm,
            **placed(self._window),
        )

    def _picture(self) -> VideoFrame | None:
        """The next picture of this pass, else the first of the next one, else None."""
        picture = next(self._pictures, None)
        if self._file.undecodable and not self._told:
            self._told = True
            emit(ErrorRaised(self.source_id, "the file holds packets that do not decode; skipped"))
        if picture is not None or not self._config.loop:
            return picture
        self._file.close()
        self._file, self._pictures = self._open(self.source_id)
        self._timeline.rewind()
        self._epoch += 1
        return next(self._pictures)

    @property
    def description(self) -> str:
        """Codec, pixel format, matrix and range, as the file tells them."""
        return self._file.description

    @property
    def _size_hw(self) -> tuple[int, int]:
        return self._shape[0], self._shape[1]

    def _open(self, source_id: str) -> tuple[VideoFile, Iterator[VideoFrame]]:
        from stages.sources.video_file import VideoFile

        file = VideoFile(self._path, source_id, self._config.start_s)
        return file, file.pictures()

    def _release(self) -> None:
        self._file.close()


def _local_file(config: VideoConfig) -> Path:
    """The absolute path (which FFmpeg cannot take for an address) of the file."""
    path = Path(expanduser(config.path)).absolute()
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"source {config.source_id}: path: {config.path!r} is not there, "
            "expected a video file on this machine"
        ) from error
    if not stat.S_ISREG(mode):
        raise ConfigError(
            f"source {config.source_id}: path: {config.path!r} is not a regular file, "
            "expected a video file on this machine"
        )
    return path
