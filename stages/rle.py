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


def run_lengths(
    packed: NDArray[np.uint8], columns: int, top: int, left: int, hw: tuple[int, int]
) -> bytes:
    """The text of a picture of size ``hw`` (height, width) that has the bits of ``packed``, uint8
    (h, ceil(columns / 8)) as `numpy.packbits` makes them of (h, ``columns``), with their corner at
    (``top``, ``left``), and background elsewhere."""
    height, width = hw
    rows, across = packed.shape
    # A row of background above and below: what differs from the row before is an edge.
    differs = np.zeros((rows + 1, across), np.uint8)
    differs[:-1] = packed
    differs[1:] ^= packed
    flat = differs.reshape(-1)
    at = np.flatnonzero(flat != 0)
    which, bit = np.divmod(np.flatnonzero(np.unpackbits(flat[at]).view(np.bool_)), 8)
    row, byte = np.divmod(at[which], across)
    column = 8 * byte + bit
    edges = (column + left) * height + (row + top)
    edges = np.sort(edges[column < columns])
    if rows == height:
        edges = _joined(edges)
    counts = np.diff(edges, prepend=0, append=height * width)
    return _text(counts if counts[-1] else counts[:-1])


def paint(text: NDArray[np.uint8], first: int, last: int, out: NDArray[np.bool_]) -> None:
    """Write columns ``first`` to ``last`` - 1 of what ``text`` shows into those of ``out``, bool
    (H, W); raises `ValueError` for any other text."""
    counts = _counts(text)
    height, pixels = out.shape[0], out.size
    # Each at most the picture before they are added, so that the sum cannot overflow.
    if not len(counts) or counts.min() < 0 or counts.max() > pixels or counts.sum() != pixels:
        raise ValueError(f"the run lengths do not add up to {pixels} pixels")
    edges = np.cumsum(counts)[:-1]
    begun = np.searchsorted(edges, np.arange(first, last) * height)
    begin, end = np.searchsorted(edges, (first * height, last * height))
    column, row = np.divmod(edges[begin:end] - first * height, height)
    # Bits that differ from the row above; whole words, which accumulate fastest.
    across = -(-(last - first) // 64) * 8
    differs = np.zeros(height * across, np.uint8)
    np.bitwise_xor.at(differs, row * across + column // 8, (128 >> column % 8).astype(np.uint8))
    heads = np.packbits(begun % 2 == 1)
    differs[: len(heads)] ^= heads
    words = differs.view(np.uint64).reshape(height, across // 8)
    np.bitwise_xor.accumulate(words, axis=0, out=words)
    inside = np.unpackbits(words.view(np.uint8), axis=1, count=last - first)
    out[:, first:last] = inside.view(np.bool_)


def _joined(edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Without the edges between the foot of a column and the head of the next, where a run goes on:
    they are told twice."""
    if not len(edges):
        return edges
    again = edges[1:] == edges[:-1]
    once = np.ones(len(edges), np.bool_)
    once[1:] &= ~again
    once[:-1] &= ~again
    return edges[once]


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
