"""Where the pixels of an OpenIGTLink IMAGE go: `PixelStore`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stages.base import Buffer
from stages.sources.igtl_image import ImageLayout
from stages.sources.region import Region, window_in
from stages.window import Window


class PixelStore:
    """Room for the pixels that arrive, and the picture that they make.

    Pictures of 8 bits are received in the array that `Buffer` gives, so they are not copied
    again. Others are received aside, as are all where only a region ``roi`` is wanted. Of 16-bit
    values the upper 8 of ``stored_bits`` (9 to 16) remain, and values that those bits cannot hold
    show as 255; the same for every picture, so that nothing flickers.
    """

    def __init__(self, stored_bits: int, roi: Region | None, source_id: str) -> None:
        self._stored_bits = stored_bits
        self._roi = roi
        self._source_id = source_id
        self._aside = np.empty(0, np.uint8)
        self._direct: NDArray[np.uint8] | None = None

    def room(self, layout: ImageLayout, buffer: Buffer) -> memoryview:
        """``layout.nbytes`` bytes for what comes."""
        if layout.value_bytes == 1 and self._roi is None:
            self._direct = buffer(layout.shape)
            return self._direct.reshape(-1).data
        self._direct = None
        if self._aside.nbytes < layout.nbytes:
            self._aside = np.empty(layout.nbytes, np.uint8)
        return self._aside[: layout.nbytes].data

    def picture(self, layout: ImageLayout, buffer: Buffer) -> tuple[NDArray[np.uint8], Window]:
        """What arrived in the last `room`, (h, w) or (h, w, 3), in an array of `Buffer`'s, and
        which part of the picture that is. Raises `RegionError` where it lacks the region."""
        window = window_in(self._roi, layout.size_hw, self._source_id)
        if self._direct is not None:
            return self._direct, window
        received = self._aside[: layout.nbytes]
        pixels = buffer((*window.size_hw, *layout.shape[2:]))
        if layout.value_bytes == 1:
            pixels[...] = window.cut(received.reshape(layout.shape))
            return pixels, window
        stored = received.view(">u2" if layout.big_endian else "<u2").reshape(layout.shape)
        shifted = window.cut(stored) >> (self._stored_bits - 8)
        np.minimum(shifted, 255, out=pixels, casting="unsafe")
        return pixels, window
