"""Where the pixels of an OpenIGTLink IMAGE go: `PixelStore`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stages.base import Buffer
from stages.sources.igtl_image import ImageLayout


class PixelStore:
    """Room for the pixels that arrive, and the picture that they make.

    8-bit pictures are received in the array that `Buffer` gives, so they are not copied again.
    Others are received aside. Of 16-bit values the upper 8 of ``stored_bits`` (9 to 16) remain,
    and higher values than those bits can hold show as 255; the same for every picture, so that
    nothing flickers.
    """

    def __init__(self, stored_bits: int) -> None:
        self._stored_bits = stored_bits
        self._aside = np.empty(0, np.uint8)
        self._direct: NDArray[np.uint8] | None = None

    def room(self, layout: ImageLayout, buffer: Buffer) -> memoryview:
        """``layout.nbytes`` bytes for what comes."""
        if layout.value_bytes == 1:
            self._direct = buffer(layout.shape)
            return self._direct.reshape(-1).data
        self._direct = None
        if self._aside.nbytes < layout.nbytes:
            self._aside = np.empty(layout.nbytes, np.uint8)
        return self._aside[: layout.nbytes].data

    def picture(self, layout: ImageLayout, buffer: Buffer) -> NDArray[np.uint8]:
        """What arrived in the last `room`, (H, W) or (H, W, 3), in an array of `Buffer`'s."""
        if self._direct is not None:
            return self._direct
        stored = self._aside[: layout.nbytes].view(">u2" if layout.big_endian else "<u2")
        pixels = buffer(layout.shape)
        shifted = stored.reshape(layout.shape) >> (self._stored_bits - 8)
        np.minimum(shifted, 255, out=pixels, casting="unsafe")
        return pixels
