"""Where a result's masks lie in a ring of memory that other processes can read: `RingPlace`.

The standard library only: a subscriber that reads no ring reads past this.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from stages.errors import MaskstreamError

FIELD: Final = "device_masks"
"""Of a result's header on the wire."""
ASK: Final = b'{"version":1,"ask":"ring"}'
"""What a reader says to the owner of a ring, to be told how to open it."""

_ALIGN: Final = 256
_WORD_BYTES: Final = 64  # in front of each slot's data: the generation, and nothing else
_MOST_BYTES: Final = 1 << 34


class RingError(MaskstreamError):
    """A ring of masks cannot be made, opened or read."""


@dataclass(frozen=True, slots=True)
class RingLayout:
    """How the slots lie in one block of bytes.

    Each begins with its generation, int64: that of the result which it holds, or its negative
    while that one is being written; 0 before the first.
    """

    slots: int
    """At least 2."""
    slot_bytes: int
    """Of data, in each."""

    @property
    def stride(self) -> int:
        return -(-(_WORD_BYTES + self.slot_bytes) // _ALIGN) * _ALIGN

    @property
    def nbytes(self) -> int:
        return self.slots * self.stride

    def word_at(self, slot: int) -> int:
        """Where its generation lies, bytes from the start of the ring."""
        return slot * self.stride

    def data_at(self, slot: int) -> int:
        """Where its data begin, likewise."""
        return slot * self.stride + _WORD_BYTES


@dataclass(frozen=True, slots=True)
class RingPlace:
    """One result's masks, uint8 (N, H, ceil(W / 8)) as in `ResultPacket.masks`."""

    ring: str
    """Which ring; another run has another one."""
    slot: int
    generation: int
    """1, 2, 3, …: rises by one a result."""
    offset: int
    """Bytes from the start of the ring."""
    shape: tuple[int, int, int]
    width: int
    """W."""
    origin_yx: tuple[int, int] = (0, 0)
    """Where the masks begin in the full picture."""
    rows: tuple[int, ...] = ()
    """Which of the N belong to the result's objects, in their order."""

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape)

    def with_rows(self, rows: Sequence[int]) -> RingPlace:
        return replace(self, rows=tuple(rows))

    def header(self) -> dict[str, object]:
        """JSON-ready."""
        return {
            "ring": self.ring,
            "slot": self.slot,
            "generation": self.generation,
            "offset": self.offset,
            "dtype": "uint8",
            "shape": list(self.shape),
            "width": self.width,
            "origin_yx": list(self.origin_yx),
            "rows": list(self.rows),
        }


def read_place(header: object) -> RingPlace | None:
    """The place that the header of a result tells of; None where it tells of none.

    Raises `RingError` where it cannot be right.
    """
    told = header.get(FIELD) if isinstance(header, Mapping) else None
    if told is None:
        return None
    if not isinstance(told, Mapping):
        raise RingError(f"{FIELD}: got {told!r}, expected an object")
    ring = told.get("ring")
    if not isinstance(ring, str) or told.get("dtype") != "uint8":
        raise RingError(f"{FIELD}: expected a ring's name, and dtype uint8")
    slot, generation, offset, width = (
        _count(told.get(name), name) for name in ("slot", "generation", "offset", "width")
    )
    n, height, columns = _counts(told, "shape", 3)
    y, x = _counts(told, "origin_yx", 2)
    rows = tuple(_counts(told, "rows", None))
    place = RingPlace(ring, slot, generation, offset, (n, height, columns), width, (y, x), rows)
    fits = place.nbytes <= _MOST_BYTES and 8 * (columns - 1) < width <= 8 * columns
    if not fits or any(row >= n for row in rows):
        raise RingError(f"{FIELD}: {place} cannot be")
    return place


def _counts(told: Mapping[str, object], name: str, length: int | None) -> list[int]:
    values = told.get(name)
    if not isinstance(values, list) or length not in (None, len(values)):
        raise RingError(f"{FIELD}: {name}: expected a list of {length or 'some'} numbers")
    return [_count(each, name) for each in values]


def _count(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 62:
        raise RingError(f"{FIELD}: {name}: got {value!r}, expected a number from 0 on")
    return value
