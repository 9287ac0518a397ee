"""Verifying the `log` layout: each record, their order, the books, the indices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from stages.errors import RecordingError
from stages.recording import manifest as manifests
from stages.recording.entries import Detected, Gap, Logits, Masks, Packet, Picture, Prompted, State
from stages.recording.entry import KINDS, OWN_KINDS, Kind
from stages.recording.fields import Fields
from stages.recording.folder import is_being_written
from stages.recording.layout import SEGMENT_BYTES, segment_name
from stages.recording.log_reader import LogRecording
from stages.recording.segment_reader import SegmentFile, Table
from stages.recording.stored import StoredRecord
from stages.recording.verdict import Verdict

_READ: Final[Mapping[Kind, Callable[[StoredRecord], object]]] = {
    "logits": Logits.of,
    "masks": Masks.of,
    "packet": Packet.of,
    "prompt": Prompted.of,
    "detections": Detected.of,
    "frame": Picture.of,
    "state": State.of,
}


def verify_log(recording: LogRecording) -> Verdict:
    """Reads every byte."""
    check = _LogCheck(recording)
    for number in recording.numbers:
        check.segment(number)
    check.beginning()
    return Verdict(
        path=recording.path,
        layout="log",
        entries=check.entries,
        frames=len(recording.frames()),
        segments=len(recording.numbers),
        gaps=check.gaps,
        dropped=check.dropped,
        torn_bytes=check.torn_bytes,
        closed=check.closed,
        being_written=is_being_written(recording.path),
        retired_segments=recording.numbers[0] if check.begins_at else 0,
        flaws=tuple(dict.fromkeys((*recording.flaws, *check.flaws))),
    )


class _LogCheck:
    """Goes through the segments in order."""

    def __init__(self, recording: LogRecording) -> None:
        self._recording = recording
        self._next_seq: int | None = None
        self._retired_through = -1
        self._books_from = (0, 0)
        self.begins_at = 0
        self.flaws: list[str] = []
        self.entries = self.gaps = self.dropped = self.torn_bytes = 0
        self.closed = False

    def segment(self, number: int) -> None:
        file, name = self._recording.segment(number), segment_name(number)
        self._check_head(file, number, name)
        table = file.scan()
        self.flaws += (f"{name}: {flaw}" for flaw in table.flaws)
        self.torn_bytes += table.torn_bytes
        self._check_index(file, table, name)
        for row in table.rows:
            self._check_order(int(row["seq"]), f"{name} byte {row['offset']}")
            self._count(KINDS[row["kind"]])
            try:
                self._take(file.record(int(row["offset"])), number)
            except (RecordingError, ValueError) as error:
                self.flaws.append(str(error))

    def beginning(self) -> None:
        """What comes before the first segment must have been retired."""
        numbers = self._recording.numbers
        if self.begins_at and self._retired_through < numbers[0] - 1:
            first = segment_name(numbers[0])
            self.flaws.append(
                f"{first}: begins with record {self.begins_at}: earlier ones are gone"
            )

    def _check_head(self, file: SegmentFile, number: int, name: str) -> None:
        head, mine = file.head(), self._recording.manifest.recording_id
        if head is None and file.nbytes >= SEGMENT_BYTES:
            self.flaws.append(f"{name}: its header is damaged")
        if head is not None and (head.number, head.recording.hex()) != (number, mine):
            self.flaws.append(
                f"{name}: is segment {head.number} of recording "
                f"{head.recording.hex()}, expected {number} of {mine}"
            )

    def _check_index(self, file: SegmentFile, scanned: Table, name: str) -> None:
        if scanned.is_sealed and not np.array_equal(file.table().rows, scanned.rows[:-1]):
            self.flaws.append(f"{name}: its index is damaged, or does not name its records")

    def _check_order(self, seq: int, where: str) -> None:
        if self._next_seq is None:
            self.begins_at = seq
        elif seq != self._next_seq:
            self.flaws.append(f"{where}: record {seq}, expected {self._next_seq}")
        self._next_seq = seq + 1

    def _count(self, kind: Kind) -> None:
        self.entries += kind not in OWN_KINDS
        self.closed = self.closed and kind == "index"

    def _take(self, record: StoredRecord, number: int) -> None:
        if record.head.segment != number:
            self.flaws.append(f"{record.where}: was written to segment {record.head.segment}")
        match record.kind:
            case "meta":
                text = record.array("manifest").tobytes()
                if manifests.parse(text, record.where) != self._recording.manifest:
                    self.flaws.append(f"{record.where}: not the manifest of this recording")
            case "gap":
                self.gaps += 1
                self.dropped += Gap.of(record.fields).dropped
            case "book":
                self._take_book(record.fields, record.where)
            case "index":
                pass
            case kind:
                _READ[kind](record)

    def _take_book(self, told: Fields, where: str) -> None:
        match told.text("what"):
            case "retired":
                self._retired_through = told.integer("through")
            case "reopened":
                self._books_from = (self.entries, self.dropped)
            case "closed":
                self.closed = True
                counted = tuple(told.integer(name) for name in ("offered", "written", "dropped"))
                self._check_books(counted, where)

    def _check_books(self, counted: tuple[int, ...], where: str) -> None:
        entries, dropped = self.entries - self._books_from[0], self.dropped - self._books_from[1]
        found = (entries + dropped, entries, dropped)
        if not self.begins_at and counted != found:
            self.flaws.append(
                f"{where}: offered, written and dropped were {counted}, there are {found}"
            )
