"""Reading what a run recorded, frame by frame: `RecordedRun`. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from stages.choices import Choice
from stages.closing import Closing
from stages.errors import RecordingError
from stages.recorder.choice_fields import of_fields
from stages.recorder.names import ABOUT, CLASSES, ROWS, RUN
from stages.recorder.provenance import Provenance
from stages.recording.damage import Damage
from stages.recording.entries import Logits, Masks, Picture
from stages.recording.entry import Kind, Stamp
from stages.recording.fields import Fields
from stages.recording.log_reader import LogRecording
from stages.recording.reading import open_recording, recording_in
from stages.recording.stored import StoredRecord

_ASKED: Final[dict[Kind, str]] = {
    "frame": "frames",
    "detections": "detections",
    "logits": "logits",
    "masks": "masks",
    "packet": "packets",
}
"""What `recorder.record` calls them."""
_Entry = TypeVar("_Entry")


@dataclass(frozen=True, slots=True)
class About:
    """One recorded frame."""

    stamp: Stamp
    number: int
    """Among those that were offered to the recorder; a hole is a frame that was lost."""
    skipped: int
    """Frames just before it that the run looked at and never finished."""

    @property
    def epoch(self) -> int:
        return self.stamp.epoch


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What the detector gave, padding included; see `stages.records.Detections`."""

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int32]
    valid: NDArray[np.bool_]
    computed: bool
    classes: NDArray[np.bool_] | None = None


class RecordedRun(Closing):
    """A recording of the `log` layout. Frames are counted from 0, in the order of the run."""

    def __init__(self, path: Path | str) -> None:
        """``path``: of the recording, or of the run that made it. Raises `RecordingError`."""
        found = open_recording(recording_in(Path(path)))
        if not isinstance(found, LogRecording):
            raise RecordingError(f"{path}: layout npy holds logits alone (expected layout log)")
        self.log = found
        try:
            self.frames = tuple(_abouts(found))
            if not self.frames:
                why = f": {found.damaged[0]}" if found.damaged else " was recorded"
                raise RecordingError(f"{path}: no frame{why}")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Arrays that were given out stay valid."""
        self.log.close()

    def need(self, *kinds: Kind) -> None:
        """Raise `RecordingError`, which names what should have been recorded, unless there are
        entries of each of these kinds."""
        for kind in kinds:
            if not len(self.log.frames(kind)):
                raise RecordingError(
                    f"{self.log.path}: no {_ASKED[kind]} were recorded "
                    f"(expected a run with {_ASKED[kind]} among its recorder.record)"
                )

    def provenance(self) -> Provenance:
        """What run it was. Raises `RecordingError` where its beginning was deleted to make room,
        or is damaged."""
        for record in self.log.records("state"):
            if record.fields.text("state") == RUN:
                return Provenance.of(record)
        for damage in self.damaged:
            if damage.kind == "state" and damage.frame_id < 0:
                raise RecordingError(f"{self.log.path}: {damage}")
        raise RecordingError(
            f"{self.log.path}: its beginning, which tells the run's configuration, is gone "
            "(expected a recording without recorder.retention)"
        )

    @property
    def damaged(self) -> tuple[Damage, ...]:
        """What could not be read so far. A frame whose state record is damaged is not in `frames`;
        of the others whatever is read raises a `RecordingError`, which names the frame."""
        return self.log.damaged

    def is_readable(self, place: int) -> bool:
        """Whether what a frame was made of, pixels, detections and choice, can be read."""
        try:
            self.picture(place), self.rows(place), self.choice(place), self.geometry(place)
        except RecordingError:
            return False
        return True

    def picture(self, place: int) -> Picture:
        """The pixels of a frame."""
        return self._read("frame", place, Picture.of)

    def rows(self, place: int) -> Rows:
        """What the detector gave for a frame."""
        return self._read("detections", place, _rows)

    def logits(self, place: int) -> Logits | None:
        """None where they were not recorded."""
        has = len(self.log.frames("logits"))
        return self._read("logits", place, Logits.of) if has else None

    def masks(self, place: int) -> Masks | None:
        """None where they were not recorded."""
        has = len(self.log.frames("masks"))
        return self._read("masks", place, Masks.of) if has else None

    def choice(self, place: int) -> Choice | None:
        """What the host chose for a frame; None where there was no choice, or none is recorded."""
        return self._read("state", place, _choice)

    def geometry(self, place: int) -> tuple[tuple[float, float] | None, NDArray[np.float64] | None]:
        """Millimetres a pixel, (y, x), and the (4, 4) pose."""
        return self._read("state", place, _geometry)

    def _read(self, kind: Kind, place: int, of: Callable[[StoredRecord], _Entry]) -> _Entry:
        stamp = self.frames[place].stamp
        try:
            return of(self.log.at(kind, stamp.frame_id, stamp.epoch))
        except RecordingError as error:
            damage = Damage(kind, stamp.epoch, stamp.frame_id, str(error))
            self.log.note(damage)
            raise RecordingError(f"{self.log.path}: {damage}") from error


def _rows(record: StoredRecord) -> Rows:
    boxes, scores, class_ids, valid = (record.array(name) for name in ROWS)
    computed = record.fields.flag("computed")
    told = CLASSES in record.fields.arrays
    classes = record.array(CLASSES).astype(np.bool_) if told else None
    return Rows(boxes, scores, class_ids, valid.astype(np.bool_), computed, classes)


def _choice(record: StoredRecord) -> Choice | None:
    told = _told(record.fields)
    if told.absent("choice"):
        return None
    arrays = {name: record.array(name) for name in record.fields.arrays}
    return of_fields(Fields(told.mapping("choice"), record.where), record.where, arrays)


def _geometry(
    record: StoredRecord,
) -> tuple[tuple[float, float] | None, NDArray[np.float64] | None]:
    told = _told(record.fields)
    spacing = None if told.absent("spacing_mm") else told.numbers("spacing_mm", 2)
    pose = None if told.absent("pose") else np.array(told.numbers("pose", 16)).reshape(4, 4)
    return None if spacing is None else (spacing[0], spacing[1]), pose


def _abouts(log: LogRecording) -> list[About]:
    found: list[About] = []
    for record in log.records("state"):
        if record.fields.text("state") == ABOUT:
            told = _told(record.fields)
            found.append(About(record.stamp, told.integer("number"), told.integer("skipped")))
    return found


def _told(fields: Fields) -> Fields:
    return Fields(fields.mapping("told"), "frame")
