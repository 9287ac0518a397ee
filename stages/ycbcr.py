"""Pictures in Y'CbCr: how their bytes are laid out, what they stand for, and where they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from stages.window import Window

if TYPE_CHECKING:  # checking a configuration can do without torch
    from torch import Tensor

Layout = Literal["nv12", "i420", "yuyv"]
"""`nv12`: H rows of Y, then H/2 rows of CbCr pairs; `i420`: Y, then Cb, then Cr, both of half the
height and width; `yuyv`: Y Cb Y Cr for each two pixels of a row."""
Matrix = Literal["bt601", "bt709", "bt2020"]


def bytes_of(layout: Layout, size_hw: tuple[int, int]) -> int:
    """Bytes of one picture. Raises ValueError for sides that the layout cannot have."""
    height, width = size_hw
    if width % 2 or (height % 2 and layout != "yuyv") or height < 1 or width < 1:
        raise ValueError(f"size is {width}x{height}, expected even sides for {layout}")
    return height * width * (4 if layout == "yuyv" else 3) // 2


@dataclass(frozen=True, slots=True)
class YCbCr:
    """A picture that is converted to RGB once it is on the device."""

    layout: Layout
    matrix: Matrix
    full_range: bool
    """Whether levels are 0..255, not 16..235 and 16..240."""
    window: Window
    """Which pixels of those that the bytes hold are the picture: neighbours share their chroma,
    so that a region may begin or end between two that do."""


def whole_pairs(window: Window, layout: Layout) -> Window:
    """``window``, grown to pixels that share no chroma with others, in the same full picture."""
    step_yx = (1 if layout == "yuyv" else 2, 2)
    grown = [
        (start - start % step, length + start % step + (-(start + length)) % step)
        for start, length, step in zip(window.origin_yx, window.size_hw, step_yx, strict=True)
    ]
    (y, height), (x, width) = grown
    return Window((height, width), (y, x), window.full_hw)


def inside(window: Window, grown: Window) -> Window:
    """Where ``window`` lies in ``grown``."""
    (y, x), (from_y, from_x) = window.origin_yx, grown.origin_yx
    return Window(window.size_hw, (y - from_y, x - from_x), grown.size_hw)


@dataclass(frozen=True, slots=True, eq=False)
class DevicePlanes:
    """The planes of an NV12 picture that a decoder left on the device, lent until they were copied
    on the stream that it wrote them on."""

    y: Tensor
    """uint8 (H, W), rows may be padded."""
    cbcr: Tensor
    """uint8 (H / 2, W / 2, 2)."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the bytes, as in the array of a picture in `nv12`."""
        height, width = self.y.shape
        return height * 3 // 2, width
