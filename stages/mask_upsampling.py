"""From low-resolution logits to foreground pixels at the frame's size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_BACKGROUND = -1e4
"""Stands for the logits of an empty slot, and for NaN."""


def upsample(logits: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """float32 (n, h, w) to (n, H, W), bilinear between pixel centres, as sam2 does it."""
    return F.interpolate(logits[:, None], size_hw, mode="bilinear", align_corners=False)[:, 0]


class Foreground:
    """Upsamples slots of one shape and compares them, in rows padded to whole bytes."""

    def __init__(self, logits: Tensor, size_hw: tuple[int, int]) -> None:
        """For `logits` of this shape and device, and frames of `size_hw` (height, width)."""
        (n, h, w), (height, width) = logits.shape, size_hw
        self._made_for = (logits.shape, logits.device, size_hw)
        self._size_hw = size_hw
        self._pixels = torch.zeros(
            n, height, -(-width // 8) * 8, dtype=torch.bool, device=logits.device
        )
        self._products = None if logits.is_cuda else _Products((h, w), size_hw)

    def fits(self, logits: Tensor, size_hw: tuple[int, int]) -> bool:
        """Whether this was made for such logits and frames."""
        return self._made_for == (logits.shape, logits.device, size_hw)

    def pixels(self, logits: Tensor, valid: Tensor, threshold: float) -> Tensor:
        """bool (n, H, W rounded up to a multiple of 8): logit > `threshold` in `valid` slots.

        The next call overwrites what this one returned.
        """
        kept = torch.where(valid[:, None, None], logits, _BACKGROUND)
        inside = self._pixels[..., : self._size_hw[1]]
        if self._products is None or logits.is_cuda:
            torch.gt(upsample(kept, self._size_hw), threshold, out=inside)
        else:
            self._products.foreground(kept - threshold, inside)
        return self._pixels


class _Products:
    """Upsampling on the CPU as two matrix products.

    The same linear map as `upsample` up to float rounding, four times as fast; slot by slot, so
    that the float pixels stay in cache.
    """

    def __init__(self, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> None:
        self._rows = _weights(from_hw[0], to_hw[0]).T.contiguous()
        self._columns = _weights(from_hw[1], to_hw[1])
        self._plane = torch.empty(to_hw)

    def foreground(self, logits: Tensor, masks: Tensor) -> None:
        """Write where float32 (n, h, w) upsampled is above 0 to bool (n, H, W)."""
        # A NaN or an infinity would spread over its rows and columns as 0 * NaN.
        finite = torch.nan_to_num(logits, _BACKGROUND, -_BACKGROUND, _BACKGROUND)
        for wide, mask in zip(torch.matmul(finite, self._columns), masks, strict=True):
            # Clamping and converting takes half the time of a comparison.
            mask.copy_(torch.mm(self._rows, wide, out=self._plane).relu_())


def _weights(length: int, new_length: int) -> Tensor:
    """float32 (length, new_length): the weight of each low-resolution sample in each new one."""
    unit = torch.eye(length)[:, None]
    return F.interpolate(unit, new_length, mode="linear", align_corners=False)[:, 0]
