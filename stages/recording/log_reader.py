"""Reading a recording in the `log` layout: whole, torn, damaged, or still being written."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from stages.closing import Closing
from stages.errors import RecordingError
from stages.recording import manifest as manifests
from stages.recording.damage import Damage
from stages.recording.entries import Gap, Logits, Masks
from stages.recording.entry import KINDS, Kind
from stages.recording.frame_index import FrameIndex
from stages.recording.layout import segment_name
from stages.recording.manifest import Manifest
from stages.recording.retention import Finished, LogStart
from stages.recording.segment_reader import SegmentFile, Table
from stages.recording.stored import StoredRecord

_SEGMENT: Final = re.compile(r"segment-(\d{6,18})\.log", re.ASCII)
_OPEN_FILES: Final = 8
_PLACE_BITS: Final = 32


class LogRecording(Closing):
    """Opened with `stages.recording.reading.open_recording`. Shows what was there then; what is
    damaged is left out and told: in `flaws` where that shows without reading the records, else in
    `damaged`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: OrderedDict[int, SegmentFile] = OrderedDict()
        self.flaws: tuple[str, ...] = ()
        self._damaged: dict[Damage, None] = {}  # a set that keeps their order
        self.tables: dict[int, Table] = {}
        try:
            for number in segment_numbers(path):
                self._read_table(number)
            self.numbers = tuple(self.tables)
            self.manifest = self._manifest()
        except BaseException:
            self.close()
            raise
        self._indices: dict[Kind, FrameIndex] = {}

    def close(self) -> None:
        """Arrays that were given out stay valid."""
        while self._files:
            self._files.popitem()[1].close()

    @property
    def damaged(self) -> tuple[Damage, ...]:
        """What could not be read when somebody wanted to, so far."""
        return tuple(self._damaged)

    def note(self, damage: Damage) -> None:
        """Add to `damaged`."""
        self._damaged[damage] = None

    def frames(self, kind: Kind = "logits") -> FrameIndex:
        """The frames that have an entry of ``kind``, in order: by epoch, then by number."""
        if kind not in self._indices:
            self._indices[kind] = self._frame_index(kind)
        return self._indices[kind]

    def at(self, kind: Kind, frame_id: int, epoch: int | None = None) -> StoredRecord:
        """The entry of ``kind`` of one frame, of the latest pass; without ``epoch`` of the latest
        that has the frame. Raises `RecordingError` where there is none, or it is damaged."""
        where = f"{self.path.name}: {kind}"
        place = self.frames(kind).place(frame_id, epoch, where)
        return self._record(place >> _PLACE_BITS, place & ((1 << _PLACE_BITS) - 1))

    def logits_at(self, frame_id: int, epoch: int | None = None) -> Logits:
        """The low-resolution logits of one frame, memory-mapped where they were kept as float32
        without compression; see `at`, and `stages.recording.video_logits` for those at video
        resolution."""
        return Logits.of(self.at("logits", frame_id, epoch))

    def masks_at(self, frame_id: int, epoch: int | None = None) -> Masks:
        """The bit-packed masks of one frame, memory-mapped; see `at`."""
        return Masks.of(self.at("masks", frame_id, epoch))

    def records(self, *kinds: Kind) -> Iterator[StoredRecord]:
        """Every whole record of these kinds (without any: of all kinds), in the order in which
        they were written; damaged ones are left out, and stand in `damaged` then."""
        wanted = [KINDS.index(kind) for kind in kinds or KINDS]
        for number in self.numbers:
            rows = self.tables[number].rows
            for row in np.flatnonzero(np.isin(rows["kind"], wanted)):
                try:
                    yield self._record(number, int(row))
                except RecordingError as error:
                    kind, frame = KINDS[rows["kind"][row]], int(rows["frame_id"][row])
                    self.note(Damage(kind, int(rows["epoch"][row]), frame, str(error)))

    def gaps(self) -> tuple[Gap, ...]:
        """What was offered and not written, in the order in which it was told."""
        return tuple(Gap.of(record.fields) for record in self.records("gap"))

    def end(self) -> LogStart:
        """Where a writer goes on."""
        zero_s = time.time() - time.monotonic()
        finished = tuple(
            Finished(number, found.st_size, found.st_mtime - zero_s)
            for number in self.numbers
            for found in [(self.path / segment_name(number)).stat()]
        )
        number = self.numbers[-1] + 1 if self.numbers else 0
        seq = max((table.next_seq for table in self.tables.values()), default=0)
        return LogStart(seq, number, finished)

    def segment(self, number: int) -> SegmentFile:
        """An open segment of this recording."""
        if number in self._files:
            self._files.move_to_end(number)
        else:
            self._files[number] = SegmentFile(self.path / segment_name(number))
            if len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        return self._files[number]

    def _record(self, number: int, row: int) -> StoredRecord:
        return self.segment(number).record(int(self.tables[number].rows["offset"][row]))

    def _read_table(self, number: int) -> None:
        try:
            table = self.segment(number).table()
        except RecordingError as error:  # it may have been retired just now
            self.flaws += (str(error),)
            return
        self.tables[number] = table
        name = segment_name(number)
        self.flaws += tuple(f"{name}: {flaw}" for flaw in table.flaws)

    def _manifest(self) -> Manifest:
        """The file's; where that is damaged or gone, the copy that begins every segment."""
        try:
            return manifests.load(self.path)
        except RecordingError as error:
            self.flaws += (str(error),)
        for record in self.records("meta"):
            return manifests.parse(record.array("manifest").tobytes(), record.where)
        raise RecordingError(f"{self.path}: no manifest, and no segment that has a copy of it")

    def _frame_index(self, kind: Kind) -> FrameIndex:
        tables = [(number, self.tables[number].rows) for number in self.numbers]
        chosen = [(number, rows, rows["kind"] == KINDS.index(kind)) for number, rows in tables]
        places = [(number << _PLACE_BITS) + np.flatnonzero(hit) for number, _, hit in chosen]
        columns = [
            np.concatenate([np.zeros(0, np.int64), *(rows[name][hit] for _, rows, hit in chosen)])
            for name in ("epoch", "frame_id", "pass_index")
        ]
        joined = np.concatenate([np.zeros(0, np.int64), *places])
        epochs, frame_ids, passes = (column.astype(np.int64) for column in columns)
        real = frame_ids >= 0
        return FrameIndex(epochs[real], frame_ids[real], passes[real], joined[real])


def segment_numbers(path: Path) -> tuple[int, ...]:
    """Of the segments in a folder, in order."""
    found = (_SEGMENT.fullmatch(entry.name) for entry in path.iterdir())
    numbers = sorted(int(match[1]) for match in found if match is not None)
    return tuple(number for number in numbers if (path / segment_name(number)).is_file())
