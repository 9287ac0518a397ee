"""From Y'CbCr, as cameras and decoders give it, to RGB, in torch alone: the reference.

The luma weights are those of ITU-R BT.601-7 (2.5.1), BT.709-6 (table 3, item 3.2) and BT.2020-2
(table 4, non-constant luminance); the levels of limited range (luma 16..235, chroma 16..240 around
128) those of the same tables, and of full range (0..255 around 128) those of JFIF and ITU-T T.871.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal

import torch
from torch import Tensor

Layout = Literal["nv12", "i420", "yuyv"]
"""`nv12`: H rows of Y, then H/2 rows of CbCr pairs; `i420`: Y, then Cb, then Cr, both of half the
height and width; `yuyv`: Y Cb Y Cr for each two pixels of a row."""
Matrix = Literal["bt601", "bt709", "bt2020"]

WEIGHTS: Final[Mapping[Matrix, tuple[float, float]]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
}
"""Kr and Kb: what red and blue weigh in luma."""


def bytes_of(layout: Layout, size_hw: tuple[int, int]) -> int:
    """Bytes of one picture. Raises ValueError for sides that the layout cannot have."""
    height, width = size_hw
    if width % 2 or (height % 2 and layout != "yuyv") or height < 1 or width < 1:
        raise ValueError(f"size is {width}x{height}, expected even sides for {layout}")
    return height * width * (4 if layout == "yuyv" else 3) // 2


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
    luma, chroma = (1 / 255, 1 / 255) if full_range else (1 / 219, 1 / 224)
    y = (y.float() - (0.0 if full_range else 16.0)) * luma
    cb, cr = (cb.float() - 128.0) * chroma, (cr.float() - 128.0) * chroma
    kr, kb = WEIGHTS[matrix]
    kg = 1.0 - kr - kb
    red = y + 2 * (1 - kr) * cr
    blue = y + 2 * (1 - kb) * cb
    green = y - (2 * kb * (1 - kb) / kg) * cb - (2 * kr * (1 - kr) / kg) * cr
    return torch.stack((red, green, blue)).mul_(255.0).round_().clamp_(0, 255).to(torch.uint8)


Planes = tuple[Tensor, Tensor, Tensor]
"""Y, Cb and Cr, each (H, W)."""


def _nv12(packed: Tensor, height: int, width: int) -> Planes:
    y, rest = packed.split((height * width, height * width // 2))
    pairs = rest.view(height // 2, width // 2, 2)
    return y.view(height, width), _quartered(pairs[..., 0]), _quartered(pairs[..., 1])


def _i420(packed: Tensor, height: int, width: int) -> Planes:
    quarter = height * width // 4
    y, cb, cr = packed.split((height * width, quarter, quarter))
    half = height // 2, width // 2
    return y.view(height, width), _quartered(cb.view(half)), _quartered(cr.view(half))


def _yuyv(packed: Tensor, height: int, width: int) -> Planes:
    pairs = packed.view(height, width // 2, 4)
    y = pairs[..., 0::2].reshape(height, width)
    cb, cr = (pairs[..., at].repeat_interleave(2, dim=1, output_size=width) for at in (1, 3))
    return y, cb, cr


def _quartered(chroma: Tensor) -> Tensor:
    """(h, w) to (2 h, 2 w): each for the four pixels that share it."""
    h, w = chroma.shape
    return chroma[:, None, :, None].expand(h, 2, w, 2).reshape(2 * h, 2 * w)


_PLANES: Final[Mapping[Layout, Callable[[Tensor, int, int], Planes]]] = {
    "nv12": _nv12,
    "i420": _i420,
    "yuyv": _yuyv,
}
