"""Checks that several kinds of message have in common; each raises `WireError`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeVar

from stages.wire_fields import Fields
from stages.wire_masks import Box, WireError

MAX_SIDE: Final = 16_384
MAX_MASK_PIXELS: Final = 64 * 4096 * 4096
"""n x H x W, so that unpacking every mask takes at most 1 GiB."""
DTYPES: Final = frozenset({"bool", "uint8", "int32", "int64", "float16", "float32"})

_Number = TypeVar("_Number", int, float)


def arrays(fields: Fields, payload: memoryview) -> Iterator[tuple[Fields, str, int, int]]:
    """Each array's entry, its name, and where it begins and ends in the payload."""
    for item in fields.items("arrays"):
        array = Fields(item, "array")
        name, dtype = array.text("name"), array.text("dtype")
        if dtype not in DTYPES:
            raise array.misfit("dtype", dtype, " or ".join(sorted(DTYPES)))
        start = array.integer("offset", 0, len(payload))
        yield array, name, start, start + array.integer("bytes", 0, len(payload) - start)


def array_named(fields: Fields, name: str, encoding: str, payload: memoryview) -> tuple[int, int]:
    """Where the only array of that name lies; it must have that encoding."""
    found = [array for array in arrays(fields, payload) if array[1] == name]
    if len(found) != 1:
        raise WireError(f"{len(found)} arrays are named {name}, expected one")
    array, _, start, end = found[0]
    if array.text("encoding") != encoding:
        raise array.misfit("encoding", array.text("encoding"), encoding)
    return start, end


def box_inside(fields: Fields, name: str, size_hw: tuple[int, int]) -> Box:
    """A box that lies in a picture of that size."""
    x1, y1, x2, y2 = fields.integers(name, 4, 0, MAX_SIDE)
    if not (x1 <= x2 <= size_hw[1] and y1 <= y2 <= size_hw[0]):
        raise fields.misfit(name, [x1, y1, x2, y2], f"x1, y1, x2, y2 inside (H, W) = {size_hw}")
    return x1, y1, x2, y2


def pair(values: tuple[_Number, ...]) -> tuple[_Number, _Number]:
    """A tuple of two as one that is known to be."""
    first, second = values
    return first, second
