"""A video file, any frame at any time: `VideoFrames`.

Note [Finding a frame]
~~~~~~~~~~~~~~~~~~~~~~
A file is read once, without decoding, for the time stamps of its packets: sorted, they number the
frames in the order in which they are shown. A frame is found by decoding from the keyframe before
it. Going back, the frames on the way are kept, as far as a fixed amount of memory allows, so that
a group of pictures is decoded once, or, where it is longer than that, a few times.

Where the stamps do not tell (there are none, or decoded frames have others, as in some AVI files
with B-frames), frames are numbered by decoding all of them once, and going back begins at the
first.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from stages.clip.decoder import Decoder, Stamps
from stages.clip.frames import check_count
from stages.errors import SourceError
from stages.sources.av_pictures import PictureWriter
from stages.window import whole

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

_BACK_BYTES: Final = 64 << 20
"""Memory for decoded frames on the way back, counted as RGB."""
_SLACK_S: Final = 0.5
"""Files that are whole may tell of so much more than their frames last."""
_TRIED: Final = 8
"""Frames decoded when a file is opened, to see whether stamps number them."""


class VideoFrames:
    """`Frames` of the first video stream of a file; see Note [Finding a frame].

    Raises `SourceError` for a file that is no readable video and for one with a single frame.
    """

    def __init__(self, path: Path, source_id: str) -> None:
        self._name = f"source {source_id}"
        self._writer = PictureWriter(source_id)
        self._kept: OrderedDict[int, VideoFrame] = OrderedDict()
        self._pictures: Iterator[tuple[int, VideoFrame]] = iter(())
        self._next = 0
        self._decoder = Decoder(path, source_id)
        try:
            self.fps = self._decoder.fps
            self._stamps = self._usable(self._decoder.stamps())
            self.count = self._count()
            check_count(self.count, self._name)
            self.trouble = self._missing()
            self._begin(0)
            height, width = self._writer.shape_of(self._first())[:2]
            self.size_hw = height, width
        except BaseException:
            self.close()
            raise

    def read(self, index: int) -> NDArray[Any]:
        """See `Frames.read`."""
        if index not in self._kept:
            self._decode(index)
        picture = self._kept.get(index)
        if picture is None:
            raise SourceError(
                f"{self._name}: frame {index} of {self.count} does not decode, "
                "the file may be cut off or damaged"
            )
        pixels = np.empty(self._writer.shape_of(picture), np.uint8)
        self._writer.write(picture, pixels, whole((picture.height, picture.width)))
        return pixels

    def spacing_mm(self, index: int) -> tuple[float, float] | None:
        """See `Frames.spacing_mm`."""
        return None

    def time_s(self, index: int) -> float | None:
        """See `Frames.time_s`; where no stamps tell, as at an even rate."""
        if self._stamps is not None:
            return self._stamps.time_s(index)
        return None if self.fps is None else index / self.fps

    def close(self) -> None:
        """See `Frames.close`."""
        self._kept.clear()
        self._decoder.close()

    def _decode(self, index: int) -> None:
        """Keep a frame, and on the way back those before it."""
        back = index < self._next
        most = max(1, _BACK_BYTES // (3 * self.size_hw[0] * self.size_hw[1])) if back else 1
        if back or self._key(index) > self._next:
            self._begin(index)
        for number, picture in self._pictures:
            self._kept[number], self._next = picture, number + 1
            while len(self._kept) > most:
                self._kept.popitem(last=False)
            if number >= index:
                return
        self._next = self.count  # nothing more comes before another beginning

    def _begin(self, index: int) -> None:
        """Have `_pictures` begin at the keyframe before a frame."""
        self._kept.clear()
        self._next = self._key(index)
        self._pictures = self._numbered(self._next)

    def _numbered(self, first: int) -> Iterator[tuple[int, VideoFrame]]:
        stamps = self._stamps
        if stamps is None:
            yield from enumerate(self._decoder.pictures(None))
            return
        key = stamps.shown[first]
        for picture in self._decoder.pictures(key):
            # Those before the keyframe need frames that were not decoded.
            if picture.pts is not None and picture.pts >= key:
                number = bisect_left(stamps.shown, picture.pts)
                if number < len(stamps.shown) and stamps.shown[number] == picture.pts:
                    yield number, picture

    def _key(self, index: int) -> int:
        """The number of the keyframe before a frame."""
        stamps = self._stamps
        if stamps is None:
            return 0
        at = bisect_right(stamps.keys, stamps.shown[index]) - 1
        return bisect_left(stamps.shown, stamps.keys[max(at, 0)])

    def _usable(self, stamps: Stamps | None) -> Stamps | None:
        """The stamps, where decoded frames have the same."""
        if stamps is None:
            return None
        first = {picture.pts for picture in islice(self._decoder.pictures(None), _TRIED)}
        expected = stamps.shown[: len(first) + self._decoder.undecodable]
        return stamps if first.issubset(expected) else None

    def _count(self) -> int:
        if self._stamps is not None:
            return len(self._stamps.shown)
        return sum(1 for _ in self._decoder.pictures(None))

    def _missing(self) -> str | None:
        told, there = f"{self._decoder.told} frames", str(self.count)
        if self.count >= self._decoder.told:
            seconds = self._decoder.told_s if self._stamps is None else self._stamps.seconds
            if self._decoder.told_s - seconds <= _SLACK_S:
                return None
            told, there = f"{self._decoder.told_s:.1f} s", f"{seconds:.1f} s"
        return (
            f"{self._name}: the file tells of {told}, but only {there} can be read; it may be cut "
            "off or damaged"
        )

    def _first(self) -> VideoFrame:
        found = next(self._pictures, None)
        if found is None:
            raise SourceError(f"{self._name}: no picture in the file decodes")
        self._kept[found[0]], self._next = found[1], found[0] + 1
        return found[1]
