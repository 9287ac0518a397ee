"""Entries that a writer makes by itself: what is missing, and what became of the recording."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from stages.recording.entry import NO_FRAME, Entry, Json, Stamp
from stages.recording.fields import Fields


@dataclass(frozen=True, slots=True)
class Gap:
    """Entries that were offered and not written; each pause and each loss has one."""

    reason: str
    dropped: int
    first: Stamp = NO_FRAME
    """Of the frames that are missing; `NO_FRAME` where none is."""
    last: Stamp = NO_FRAME
    since_unix_ns: int = 0
    until_unix_ns: int = 0
    unsynced_from_seq: int | None = None
    """Records from this one on, before the gap, may be lost where the machine lost power."""

    def entry(self) -> Entry:
        return Entry("gap", self.last, self.fields())

    def fields(self) -> dict[str, Json]:
        """As JSON has it; frames as [epoch, frame_id]."""
        return {
            "reason": self.reason,
            "dropped": self.dropped,
            "first": [self.first.epoch, self.first.frame_id],
            "last": [self.last.epoch, self.last.frame_id],
            "since_unix_ns": self.since_unix_ns,
            "until_unix_ns": self.until_unix_ns,
            "unsynced_from_seq": self.unsynced_from_seq,
        }

    @classmethod
    def of(cls, told: Fields) -> Gap:
        first, last = (Stamp(*told.integers(name, 2)) for name in ("first", "last"))
        times = (told.integer("since_unix_ns"), told.integer("until_unix_ns"))
        unsynced = None if told.absent("unsynced_from_seq") else told.integer("unsynced_from_seq")
        return cls(told.text("reason"), told.integer("dropped"), first, last, *times, unsynced)


@dataclass(frozen=True, slots=True)
class Book:
    """What a writer notes about the recording itself."""

    what: Literal["retired", "reopened", "closed"]
    """`retired`: segments up to `through` are deleted; `closed`: it ends here, with its counts."""
    told: Mapping[str, int]

    def entry(self) -> Entry:
        return Entry("book", NO_FRAME, {"what": self.what, **self.told})
