"""From Y'CbCr, as cameras and decoders give it, to RGB, in torch alone and on any device.

The luma weights are those of ITU-R BT.601-7 (2.5.1), BT.709-6 (table 3, item 3.2) and BT.2020-2
(table 4, non-constant luminance); the levels of limited range (luma 16..235, chroma 16..240 around
128) those of the same tables, and of full range (0..255 around 128) those of JFIF and ITU-T T.871.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

from stages.ycbcr import Layout, Matrix, YCbCr, bytes_of

WEIGHTS: Final[Mapping[Matrix, tuple[float, float]]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
}
"""Kr and Kb: what red and blue weigh in luma."""


def picture_of(packed: Tensor, ycbcr: YCbCr) -> Tensor:
    """uint8 (3, h, w) RGB of the window of uint8 (bytes,), in memory of its own; see `to_rgb`."""
    window = ycbcr.window
    rgb = to_rgb(packed, ycbcr.layout, window.full_hw, ycbcr.matrix, full_range=ycbcr.full_range)
    if window.is_whole:
        return rgb
    (y, x), (height, width) = window.origin_yx, window.size_hw
    return rgb[:, y : y + height, x : x + width].contiguous()


def to_rgb(
    packed: Tensor, layout: Layout, size_hw: tuple[int, int], matrix: Matrix, *, full_range: bool
) -> Tensor:
    """uint8 (3, H, W), full range, of uint8 (bytes,) in ``layout``, on the device of ``packed``.

    Chroma counts for every pixel that shares it, with nothing between. Nothing is uploaded and
    nothing is read back. Raises ValueError where ``packed`` has not as many bytes as the picture.
    """
    if packed.dtype != torch.uint8 or packed.shape != (bytes_of(layout, size_hw),):
        raise ValueError(
            f"packed is {packed.dtype} {tuple(packed.shape)}, "
            f"expected uint8 ({bytes_of(layout, size_hw)},) for {layout}"
        )
    y, cb, cr = _PLANES[layout](packed, *size_hw)
    black, luma, chroma = (0.0, 1.0, 1.0) if full_range else (16.0, 255 / 219, 255 / 224)
    light = y.float().sub_(black).mul_(luma)
    light += 0.5  # the conversion to integers below cuts off
    cb, cr = (_widened(c.float().sub_(128.0).mul_(chroma)) for c in (cb, cr))
    kr, kb = WEIGHTS[matrix]
    kg = 1.0 - kr - kb
    rgb = packed.new_empty((3, *size_hw))
    rows = rgb.view(3, *light.shape)
    rows[0] = torch.add(light, cr, alpha=2 * (1 - kr)).clamp_(0, 255)
    rows[2] = torch.add(light, cb, alpha=2 * (1 - kb)).clamp_(0, 255)
    light.sub_(cb, alpha=2 * kb * (1 - kb) / kg).sub_(cr, alpha=2 * kr * (1 - kr) / kg)
    rows[1] = light.clamp_(0, 255)
    return rgb


Planes = tuple[Tensor, Tensor, Tensor]
"""Y (h, n, W), for each row of chroma the n rows of luma that share it; Cb and Cr (h, W / 2)."""


def _nv12(packed: Tensor, height: int, width: int) -> Planes:
    y, rest = packed.split((height * width, height * width // 2))
    pairs = rest.view(height // 2, width // 2, 2)
    return y.view(height // 2, 2, width), pairs[..., 0], pairs[..., 1]


def _i420(packed: Tensor, height: int, width: int) -> Planes:
    quarter = height * width // 4
    y, cb, cr = packed.split((height * width, quarter, quarter))
    half = height // 2, width // 2
    return y.view(height // 2, 2, width), cb.view(half), cr.view(half)


def _yuyv(packed: Tensor, height: int, width: int) -> Planes:
    pairs = packed.view(height, width // 2, 4)
    y = pairs[..., 0::2].reshape(height, 1, width)
    return y, pairs[..., 1], pairs[..., 3]


def _widened(chroma: Tensor) -> Tensor:
    """(h, w) to (h, 1, 2 w): each for the pixels that share it."""
    h, w = chroma.shape
    return chroma.repeat_interleave(2, dim=1, output_size=2 * w).view(h, 1, 2 * w)


_PLANES: Final[Mapping[Layout, Callable[[Tensor, int, int], Planes]]] = {
    "nv12": _nv12,
    "i420": _i420,
    "yuyv": _yuyv,
}
