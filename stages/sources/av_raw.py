"""Pictures that FFmpeg gives in Y'CbCr, taken in as they are: `RawTaker`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from stages.sources.av_pictures import (
    PictureWriter,
    Taken,
    is_full_range,
    is_tagged,
    matrix_of,
    tag,
)
from stages.ycbcr import Layout, Matrix, YCbCr, inside, whole_pairs

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from numpy.typing import NDArray

    from stages.base import Buffer
    from stages.window import Window

_LAYOUTS: Final[dict[str, Layout]] = {"nv12": "nv12", "yuyv422": "yuyv"}
"""By FFmpeg's names."""


class Colours(NamedTuple):
    """What a device says of its pictures."""

    matrix: Matrix
    full_range: bool


class RawTaker(PictureWriter):
    """Leaves the conversion of YUYV and NV12 to the device; converts the rest on the host.

    On the device a picture has the bytes of the region that was asked for alone, grown by at most
    a row and a column at each side to whole pairs of pixels; two thirds, or half, of those of RGB.

    FFmpeg does not tell what a camera's driver says of colour: ``told`` does, asked with the first
    picture that is not tagged.
    """

    def __init__(self, source_id: str, told: Callable[[], Colours | None]) -> None:
        super().__init__(source_id)
        self._told = told
        self._asked = False
        self._colours: Colours | None = None

    def take_in(self, picture: VideoFrame, window: Window, buffer: Buffer) -> Taken:
        """See `PictureWriter.take_in`."""
        layout = _LAYOUTS.get(picture.format.name)
        if layout is not None:
            self._tag(picture)
        ycbcr = None if layout is None else read_as(layout, picture, window)
        if layout is None or ycbcr is None:
            return super().take_in(picture, window, buffer)
        cut = whole_pairs(window, layout)
        (y, x), (height, width) = cut.origin_yx, cut.size_hw
        if layout == "yuyv":
            pixels = buffer((height, width, 2))
            rows = _rows(picture, 0)[y : y + height, 2 * x : 2 * (x + width)]
            pixels[...] = rows.reshape(height, width, 2)
        else:
            pixels = buffer((height * 3 // 2, width))
            pixels[:height] = _rows(picture, 0)[y : y + height, x : x + width]
            pixels[height:] = _rows(picture, 1)[y // 2 : (y + height) // 2, x : x + width]
        return Taken(pixels, ycbcr)

    def _tag(self, picture: VideoFrame) -> None:
        if is_tagged(picture):
            return
        if not self._asked:
            self._asked, self._colours = True, self._told()
        if self._colours is not None:
            tag(picture, *self._colours)


def read_as(layout: Layout, picture: VideoFrame, window: Window) -> YCbCr | None:
    """How what `whole_pairs` leaves of ``picture`` is to be read; None where `stages.colour` cannot
    convert it: an odd size, a matrix of old."""
    matrix, (height, width) = matrix_of(picture), window.full_hw
    if matrix is None or width % 2 or (height % 2 and layout != "yuyv"):
        return None
    cut = whole_pairs(window, layout)
    return YCbCr(layout, matrix, is_full_range(picture), inside(window, cut))


def _rows(picture: VideoFrame, index: int) -> NDArray[np.uint8]:
    plane = picture.planes[index]
    return np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
