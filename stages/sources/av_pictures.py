"""From what FFmpeg decodes to grey or RGB pixels: `PictureWriter`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from stages.errors import SourceError
from stages.sources.limits import MAX_PICTURE_PIXELS, check_size

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from numpy.typing import NDArray

    from stages.base import Buffer
    from stages.window import Window
    from stages.ycbcr import DevicePlanes, Matrix, YCbCr

SIZE_LIMIT: Final = {"max_pixels": str(MAX_PICTURE_PIXELS)}
"""Option with which FFmpeg refuses larger pictures before it allocates them."""
_HD_HEIGHT: Final = 720  # untagged video: BT.709 from here on, BT.601 below, as is the custom
_EXACT: Final = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT
"""Without the second, packed formats are up to 3 grey levels off; planar ones take no longer."""
_UNSPECIFIED: Final = 2  # AVCOL_SPC_UNSPECIFIED
_LIMITED_RANGE: Final = 1  # AVCOL_RANGE_MPEG
_FULL_RANGE: Final = 2  # AVCOL_RANGE_JPEG
_MATRICES: Final[dict[int, Matrix]] = {1: "bt709", 5: "bt601", 6: "bt601", 9: "bt2020"}
"""FFmpeg's numbers (AVColorSpace)."""


class Taken(NamedTuple):
    """What a `Picture` holds of a decoded one."""

    pixels: NDArray[np.uint8] | DevicePlanes
    ycbcr: YCbCr | None


class PictureWriter:
    """Converts decoded pictures on the host, by the matrix and range that they are tagged with."""

    def __init__(self, source_id: str) -> None:
        self._source_id = source_id
        self._reformatter = VideoReformatter()

    def shape_of(self, picture: VideoFrame) -> tuple[int, ...]:
        """(H, W) where grey is stored, else (H, W, 3); raises `SourceError` above the limit."""
        size_hw = (picture.height, picture.width)
        check_size(self._source_id, size_hw)
        return size_hw if picture.format.name.startswith("gray") else (*size_hw, 3)

    def take_in(self, picture: VideoFrame, window: Window, buffer: Buffer) -> Taken:
        """What of ``picture`` lies in ``window``, grey or RGB, in an array of ``buffer``'s."""
        pixels = buffer((*window.size_hw, *self.shape_of(picture)[2:]))
        self.write(picture, pixels, window)
        return Taken(pixels, None)

    def write(self, picture: VideoFrame, pixels: NDArray[np.uint8], window: Window) -> None:
        """Convert what of ``picture`` lies in ``window`` into ``pixels``, uint8, full range.

        Raises `SourceError` for a pixel format that cannot be converted.
        """
        high = picture.colorspace == _UNSPECIFIED and matrix_of(picture) == "bt709"
        try:
            converted = self._reformatter.reformat(
                picture,
                format="gray" if pixels.ndim == 2 else "rgb24",
                src_colorspace=Colorspace.ITU709 if high else None,
                interpolation=_EXACT,
                threads=1,
            )
        except av.FFmpegError as error:
            raise SourceError(
                f"source {self._source_id}: pictures of format {picture.format.name} "
                f"cannot be converted: {reason(error)}"
            ) from error
        plane = converted.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        full = rows[: picture.height, : converted.width * pixels[0, 0].size]
        pixels[...] = window.cut(full.reshape(picture.height, converted.width, *pixels.shape[2:]))


def matrix_of(picture: VideoFrame) -> Matrix | None:
    """That which ``picture`` is tagged with, or by custom has; None: another than those here."""
    if picture.colorspace == _UNSPECIFIED:
        return "bt709" if picture.height >= _HD_HEIGHT else "bt601"
    return _MATRICES.get(picture.colorspace)


def is_tagged(picture: VideoFrame) -> bool:
    """Whether it says which matrix made it."""
    return bool(picture.colorspace != _UNSPECIFIED)


def tag(picture: VideoFrame, matrix: Matrix, full_range: bool) -> None:
    """Have it say so."""
    picture.colorspace = next(number for number, name in _MATRICES.items() if name == matrix)
    picture.color_range = _FULL_RANGE if full_range else _LIMITED_RANGE


def is_full_range(picture: VideoFrame) -> bool:
    """Whether ``picture`` says that its levels are 0..255; untagged ones are taken for limited."""
    return picture.color_range == _FULL_RANGE or picture.format.name.startswith("yuvj")


def described(picture: VideoFrame) -> str:
    """Pixel format, matrix and range, as the stream tells them."""
    matrix = _MATRICES.get(picture.colorspace, "").replace("bt", "BT.")
    limits = {1: "limited range", 2: "full range"}.get(picture.color_range)
    return ", ".join(filter(None, (picture.format.name, matrix or "no matrix told", limits)))


def reason(error: Exception) -> str:
    """FFmpeg's own words, without the path or address, which may hold a password."""
    return getattr(error, "strerror", None) or type(error).__name__
