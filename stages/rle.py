"""Run lengths as COCO writes them: counts down the columns, beginning with background, as text.

The text is that of `rleToString` and `rleFrString` in the COCO API (maskApi.c): from the fourth
count on the difference to the count two before, five bits a character from the low end, bit 5 set
where more follow, plus 48. Numpy only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MOST_CHARACTERS = 7
"""Of one count: 35 bits, more than any picture has pixels."""


def run_lengths(inside: NDArray[np.bool_], top: int, left: int, hw: tuple[int, int]) -> bytes:
    """The text of a picture of size ``hw`` (height, width) that is ``inside`` (h, w) with its
    corner at (``top``, ``left``), and background elsewhere."""
    height, width = hw
    columns = np.zeros((inside.shape[1], height), np.bool_)
    columns[:, top : top + inside.shape[0]] = inside.T
    flat = np.zeros(columns.size + 2, np.bool_)
    flat[1:-1] = columns.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + left * height
    counts = np.diff(edges, prepend=0, append=height * width)
    return _text(counts if counts[-1] else counts[:-1])


def picture(text: NDArray[np.uint8], hw: tuple[int, int]) -> NDArray[np.bool_]:
    """bool (H, W) of a picture of size ``hw``; raises `ValueError` for any
    other text."""
    counts = _counts(text)
    pixels = hw[0] * hw[1]
    # Each at most the picture before they are added, so that the sum cannot overflow.
    if not len(counts) or counts.min() < 0 or counts.max() > pixels or counts.sum() != pixels:
        raise ValueError(f"the run lengths do not add up to {pixels} pixels")
    colours = np.arange(len(counts)) % 2 == 1
    return np.repeat(colours, counts).reshape(hw[1], hw[0]).T


def _text(counts: NDArray[np.int64]) -> bytes:
    left = counts.copy()
    left[3:] -= counts[1:-2]
    written = np.zeros((len(left), _MOST_CHARACTERS), np.uint8)
    open_ = np.ones(len(left), np.bool_)
    for place in range(_MOST_CHARACTERS):
        bits = left & 31
        left >>= 5
        more = np.where(bits & 16, left != -1, left != 0)
        written[:, place] = np.where(open_, bits + 32 * more + 48, 0)
        open_ &= more
        if not open_.any():
            break
    return written[written > 0].tobytes()


def _counts(text: NDArray[np.uint8]) -> NDArray[np.int64]:
    characters = text.astype(np.int64) - 48
    ends = (characters & 32) == 0
    if not len(text) or characters.min() < 0 or characters.max() > 63 or not ends[-1]:
        raise ValueError("the run lengths are no COCO text")
    last = np.flatnonzero(ends)
    first = np.concatenate(([0], last[:-1] + 1))
    if (last - first).max() >= _MOST_CHARACTERS:
        raise ValueError(f"a run length of more than {_MOST_CHARACTERS} characters")
    place = 5 * (np.arange(len(text)) - np.repeat(first, last - first + 1))
    values = np.add.reduceat((characters & 31) << place, first)
    values -= np.where(characters[last] & 16, np.int64(32) << place[last], 0)
    if len(values) > 3:
        values[1::2] = np.cumsum(values[1::2])
        values[2::2] = np.cumsum(values[2::2])
    return values
