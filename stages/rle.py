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
    if inside.shape[0] == height:
        # Columns that touch: runs may go on from the foot of one to the head of the next.
        flat = np.zeros(inside.size + 2, np.bool_)
        flat[1:-1] = inside.T.reshape(-1)
        edges = np.flatnonzero(flat[1:] != flat[:-1]) + left * height
    else:
        # A row of background above and below each: every column's runs are its own.
        rows, columns = inside.shape
        tall = np.zeros((columns, rows + 2), np.bool_)
        tall[:, 1:-1] = inside.T
        column, row = np.divmod(np.flatnonzero(tall[:, 1:] != tall[:, :-1]), rows + 1)
        edges = (column + left) * height + (row + top)
    counts = np.diff(edges, prepend=0, append=height * width)
    return _text(counts if counts[-1] else counts[:-1])


def columns_of(
    text: NDArray[np.uint8], hw: tuple[int, int], first: int, last: int
) -> NDArray[np.bool_]:
    """bool (last - first, H): columns ``first`` to ``last`` - 1, each a row, of a picture of size
    ``hw``; raises `ValueError` for any other text."""
    counts = _counts(text)
    height, pixels = hw[0], hw[0] * hw[1]
    # Each at most the picture before they are added, so that the sum cannot overflow.
    if not len(counts) or counts.min() < 0 or counts.max() > pixels or counts.sum() != pixels:
        raise ValueError(f"the run lengths do not add up to {pixels} pixels")
    ends = np.clip(np.cumsum(counts), first * height, last * height)
    colours = np.arange(len(counts)) % 2 == 1
    return np.repeat(colours, np.diff(ends, prepend=first * height)).reshape(last - first, height)


def _text(counts: NDArray[np.int64]) -> bytes:
    left = counts.copy()
    left[3:] -= counts[1:-2]
    written = np.zeros((len(left), _MOST_CHARACTERS), np.uint8)
    rows = np.arange(len(left))
    for place in range(_MOST_CHARACTERS):
        bits = left & 31
        left >>= 5
        more = left != -(bits >> 4)  # 0 is left, or -1 where bit 4 says that it is negative
        written[rows, place] = bits + 32 * more + 48
        rows, left = rows[more], left[more]
        if not len(rows):
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
