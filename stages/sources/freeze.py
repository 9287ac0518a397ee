"""Whether a feed repeats one picture: `FreezeWatch`."""

from __future__ import annotations

import zlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

_ROWS: Final = 16  # one row in so many is enough to tell most pictures apart


class FreezeWatch:
    """Counts pictures that equal the one before in every pixel.

    Every 16th row is hashed of each picture, and all of it only where those are the same as
    before: what a camera sees differs in its noise, so most pictures cost the sixteenth. The
    first repeated picture is taken for equal on those rows alone.
    """

    def __init__(self) -> None:
        self.repeats = 0
        """Pictures in a row, up to the newest, that equalled the one before."""
        self._rows: int | None = None
        self._whole: int | None = None

    def see(self, pixels: NDArray[np.uint8]) -> None:
        """Take in the next picture: C-contiguous uint8 (H, W) or (H, W, 3)."""
        rows = zlib.crc32(np.ascontiguousarray(pixels[::_ROWS]).data, pixels.shape[1])
        same, self._rows = rows == self._rows, rows
        whole = zlib.crc32(pixels.data) if same else None
        same = same and self._whole in (None, whole)
        self._whole = whole
        self.repeats = self.repeats + 1 if same else 0

    def reset(self) -> None:
        """What comes next has nothing to do with what was before."""
        self.repeats, self._rows, self._whole = 0, None, None
