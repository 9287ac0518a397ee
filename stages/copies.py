"""Counting the copies at the few named exits between host and device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(slots=True)
class CopyCount:
    """Copies made at one named exit since the start; written by one thread, read by any."""

    direction: Literal["h2d", "d2h"]
    where: str
    """`upload`, `header`, `egress`, `picture`, `as_numpy` or `prompt`."""
    copies: int = 0
    copied_bytes: int = 0

    def add(self, copied_bytes: int) -> None:
        self.copies += 1
        self.copied_bytes += copied_bytes
