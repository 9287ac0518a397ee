"""Reading a recording in the `npy` layout, ours or another tool's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fastcrc.crc32 import iscsi as crc32c

from stages.closing import Closing
from stages.errors import RecordingError
from stages.recording import manifest as manifests
from stages.recording.entries import Gap, VideoLogits
from stages.recording.entry import Stamp
from stages.recording.fields import Fields
from stages.recording.frame_index import FrameIndex
from stages.recording.npy_file import read_npy
from stages.recording.npy_names import INDEX, frame_of, ids_name, logits_name
from stages.recording.sealed_json import unsealed


@dataclass(frozen=True, slots=True)
class IndexedFrame:
    """What the index tells of a frame's files."""

    stamp: Stamp
    object_ids: tuple[int, ...]
    logits_crc: int
    ids_crc: int


class NpyRecording(Closing):
    """Opened with `stages.recording.reading.open_recording`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.flaws: tuple[str, ...] = ()
        names = [entry.name for entry in path.iterdir()]
        self.manifest = self._read_manifest(names)
        self.indexed: Mapping[int, tuple[IndexedFrame, ...]] = {}
        """By frame: its lines of the index, in the order in which they were written."""
        self.closed = False
        self.torn_bytes = 0
        self.last_indexed: int | None = None
        self._gaps: tuple[Gap, ...] = ()
        if INDEX in names:
            self._read_index()
        ids = np.array(sorted(i for name in names if (i := frame_of(name)) is not None), np.int64)
        epochs = np.array([self._epoch(int(i)) for i in ids], np.int64)
        self._frames = FrameIndex(epochs, ids, np.zeros_like(ids), ids)

    def close(self) -> None:
        """Arrays that were given out stay valid."""

    def frames(self) -> FrameIndex:
        """The frames that have logits, in order."""
        return self._frames

    def gaps(self) -> tuple[Gap, ...]:
        """What was offered and not written, in the order in which it was told."""
        return self._gaps

    def video_logits_at(self, frame_id: int, epoch: int | None = None) -> VideoLogits:
        """One frame, memory-mapped; raises `RecordingError` where it is not there, or its files
        are not what they claim to be."""
        self._frames.place(frame_id, epoch, self.path.name)
        values = read_npy(self.path / logits_name(frame_id))
        told = self._line(frame_id)
        if told is None:
            ids = read_npy(self.path / ids_name(frame_id))
        else:
            ids = np.array(told.object_ids, np.int64)
        if values.ndim != 4 or values.shape[1] != 1 or ids.shape != values.shape[:1]:
            raise RecordingError(
                f"{self.path / logits_name(frame_id)}: got logits {values.shape} and ids "
                f"{ids.shape}, expected (n, 1, H, W) and (n,)"
            )
        stamp = Stamp(0, frame_id) if told is None else told.stamp
        return VideoLogits(
            stamp, ids.astype(np.int64, copy=False), values.astype(np.float32, copy=False)
        )

    def _line(self, frame_id: int) -> IndexedFrame | None:
        """The line of the index that the frame's logits belong to; None where there is none.

        That is the last one, but for a frame whose writer was killed when it had written the line
        and not yet put the files in their places.
        """
        told = self.indexed.get(frame_id, ())
        if len(told) > 1 and (frame_id == self.last_indexed or len({t.ids_crc for t in told}) > 1):
            crc = crc32c((self.path / logits_name(frame_id)).read_bytes())
            told = tuple(line for line in told if line.logits_crc == crc) or told
        return told[-1] if told else None

    def _epoch(self, frame_id: int) -> int:
        told = self.indexed.get(frame_id)
        return 0 if told is None else told[-1].stamp.epoch

    def _read_manifest(self, names: list[str]) -> manifests.Manifest | None:
        """None where another tool wrote the files."""
        if manifests.NAME not in names:
            return None
        try:
            return manifests.load(self.path)
        except RecordingError as error:
            self.flaws += (str(error),)
        return None

    def _read_index(self) -> None:
        indexed: dict[int, tuple[IndexedFrame, ...]] = {}
        try:
            lines = (self.path / INDEX).read_bytes().splitlines(keepends=True)
        except OSError as error:
            self.flaws += (f"{INDEX}: cannot be read: {error.strerror}",)
            return
        if lines and _is_torn(lines[-1]):
            self.torn_bytes = len(lines.pop())
        for number, line in enumerate(lines):
            where = f"{INDEX} line {number + 1}"
            try:
                told = Fields(unsealed(line, where), where)
                self._take_line(told, indexed)
            except RecordingError as error:
                self.flaws += (str(error),)
        self.indexed = indexed

    def _take_line(self, told: Fields, indexed: dict[int, tuple[IndexedFrame, ...]]) -> None:
        kind = told.text("kind")
        self.closed = kind == "book" and told.text("what") == "closed"
        if kind == "frame":
            names = ("epoch", "frame_id", "captured_ns", "captured_unix_ns", "pass_index")
            stamp = Stamp(*(told.integer(name) for name in names))
            crcs = (told.integer("logits_crc32c"), told.integer("ids_crc32c"))
            frame = IndexedFrame(stamp, told.all_integers("object_ids"), *crcs)
            self.last_indexed = stamp.frame_id
            indexed[stamp.frame_id] = (*indexed.get(stamp.frame_id, ()), frame)
        elif kind == "gap":
            self._gaps += (Gap.of(told),)


def _is_torn(line: bytes) -> bool:
    """Whether its writer was killed before its end: what lies behind a whole line was damaged."""
    if line.endswith(b"\n"):
        return False
    try:
        unsealed(line[:-1] + b"\n", INDEX)
    except RecordingError:
        return True
    return False
