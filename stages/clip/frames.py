"""The pictures of a clip, any of them at any time: `Frames` on the host, `Pictures` uploaded."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.errors import SourceError
from stages.upload import Slot, UploadRing

_SLOTS: Final = 3
_KEPT: Final = 2
_TURN_S: Final = 2e-4


class Frames(Protocol):
    """The pictures of a clip in host memory; used by one thread."""

    count: int
    """How many there are, at least 2."""
    size_hw: tuple[int, int]
    """Of every picture, pixels."""
    fps: float | None
    """Pictures a second on average, where that is known."""
    trouble: str | None
    """One line about pictures at the end of the clip that cannot be read; None: all is well."""

    def read(self, index: int) -> NDArray[Any]:
        """uint8 (H, W) grey or (H, W, 3) RGB of frame `index`, 0 to `count` - 1.

        Raises `SourceError` for one that cannot be read or has another size.
        """

    def spacing_mm(self, index: int) -> tuple[float, float] | None:
        """(y, x) millimetres per pixel of frame `index`, where it is calibrated: pictures of one
        clip may differ, as the depth of an ultrasound image is changed.

        Raises `SourceError` where that cannot be read.
        """

    def time_s(self, index: int) -> float | None:
        """Seconds from the first frame to frame `index`, where the clip tells."""

    def close(self) -> None:
        """Release everything; may be called more than once."""


class UploadedFrames:
    """`Frames` on a device; each is uploaded once, the last few are kept."""

    def __init__(self, frames: Frames, device: torch.device) -> None:
        self._frames = frames
        self._ring = UploadRing(device, _SLOTS)
        self._kept: OrderedDict[int, Tensor] = OrderedDict()

    @torch.inference_mode()
    def read(self, index: int) -> Tensor:
        """uint8 (3, H, W); see `Frames.read`."""
        found = self._kept.get(index)
        if found is None:
            found = self._upload(self._frames.read(index), index)
            self._kept[index] = found
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return found

    def close(self) -> None:
        """Release everything; may be called more than once."""
        self._kept.clear()
        self._frames.close()

    def _upload(self, pixels: NDArray[Any], index: int) -> Tensor:
        height, width = self._frames.size_hw
        if pixels.shape[:2] != (height, width):
            raise SourceError(
                f"frame {index} is {pixels.shape[1]}x{pixels.shape[0]} pixels, "
                f"expected {width}x{height} as in the first"
            )
        slot = self._slot(pixels.shape)
        np.copyto(slot.pixels, pixels)
        self._ring.upload(slot)
        return self._ring.take(slot)

    def _slot(self, shape: tuple[int, ...]) -> Slot:
        """A free place; waits while the device is that many pictures behind."""
        while (slot := self._ring.acquire(shape)) is None:
            time.sleep(_TURN_S)
        return slot


def check_count(count: int, name: str) -> None:
    """Raise `SourceError` unless there are at least two frames; `name` is whose."""
    if count < 2:
        raise SourceError(f"{name}: got {count} frame(s), expected a clip of at least 2")
