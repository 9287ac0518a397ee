"""Reading one segment of the `log` layout, whole, torn or damaged."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stages.closing import Closing
from stages.errors import RecordingError
from stages.recording.layout import (
    ALIGN,
    FOOTER_BYTES,
    FOOTER_MAGIC,
    HEAD_BYTES,
    INDEX_DTYPE,
    RECORD_MAGIC,
    SEGMENT_BYTES,
    Head,
    SegmentHead,
    index_row,
    read_footer,
    read_head,
    read_segment_head,
)
from stages.recording.stored import StoredRecord

_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """What lies in a segment."""

    rows: NDArray[np.void]
    """`INDEX_DTYPE`, in the order of the file; records whose head is whole."""
    flaws: tuple[str, ...]
    torn_bytes: int
    """Behind the last whole record, of one that was not written to its end."""
    is_sealed: bool
    """Whether an index and a footer end it."""
    next_seq: int
    """One more than the number of its last record; 0 where it has none."""


class SegmentFile(Closing):
    """One open segment. Raises `RecordingError` where the file cannot be opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise RecordingError(
                f"{path}: cannot be read: {error.strerror} (expected a segment)"
            ) from error
        self.nbytes = os.fstat(self._fd).st_size
        self._map: mmap.mmap | None = None

    def close(self) -> None:
        """Arrays that were given out stay valid."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def head(self) -> SegmentHead | None:
        """None where it is damaged."""
        return read_segment_head(self._read(0, SEGMENT_BYTES))

    def record(self, at: int) -> StoredRecord:
        """The record that begins at byte ``at``; raises `RecordingError` where any of its bytes is
        not as it was written."""
        where = f"{self.path.name} byte {at}"
        head = self._head_at(at)
        if head is None or at + head.nbytes > self.nbytes:
            raise RecordingError(f"{where}: no whole record")
        body = self._mapped(at + HEAD_BYTES, head.body_bytes)
        if len(body) < head.body_bytes:
            raise RecordingError(f"{where}: no whole record any more: the file was cut off")
        return StoredRecord.read(head, body, where)

    def table(self) -> Table:
        """From the index, or from the records themselves where that is missing or damaged."""
        index = self._index()
        if index is None:
            return self.scan()
        # A copy: a view would keep the file mapped, and open.
        rows = index.array("rows").view(INDEX_DTYPE).copy()
        return Table(rows, (), 0, True, index.seq + 1)

    def scan(self) -> Table:
        """From the records' heads alone."""
        rows: list[tuple[Any, ...]] = []
        flaws: list[str] = []
        at = min(SEGMENT_BYTES, self.nbytes)
        while (head := self._head_at(at)) is not None or self.nbytes - at >= HEAD_BYTES:
            if head is None:
                following = self._next_record(at) or self.nbytes
                flaws.append(f"{following - at} bytes at {at} are no record")
                at = following
            elif at + head.nbytes > self.nbytes:
                break
            else:
                rows.append(index_row(head, at))
                at += head.nbytes
        footer = self._footer(at)
        sealed = footer is not None and bool(rows) and footer[0] == rows[-1][0]
        torn = 0 if sealed else self.nbytes - (at if self.nbytes >= SEGMENT_BYTES else 0)
        if head is None and not sealed and not _may_begin(self._read(at, torn)):
            flaws.append(f"{torn} bytes at {at} are no record")
            torn = 0
        found = np.array(rows, INDEX_DTYPE)
        next_seq = int(found["seq"][-1]) + 1 if rows else 0
        return Table(found, tuple(flaws), torn, sealed, next_seq)

    def _index(self) -> StoredRecord | None:
        """The index, where it and the footer are whole."""
        footer = self._footer(self.nbytes - FOOTER_BYTES)
        if footer is None:
            return None
        try:
            record = self.record(footer[0])
            rows = record.array("rows")
        except RecordingError:
            return None
        fits = record.kind == "index" and rows.nbytes == footer[1] * INDEX_DTYPE.itemsize
        return record if fits else None

    def _footer(self, at: int) -> tuple[int, int] | None:
        """Of a footer that is all that lies from ``at`` on."""
        return read_footer(self._read(at, self.nbytes - at)) if at >= SEGMENT_BYTES else None

    def _head_at(self, at: int) -> Head | None:
        return read_head(self._read(at, HEAD_BYTES))

    def _next_record(self, start: int) -> int | None:
        """Where the next record with a whole head begins."""
        return next((at for at in self._magics(start) if self._head_at(at) is not None), None)

    def _magics(self, start: int) -> Iterator[int]:
        """Where a record may begin."""
        at = -(-start // ALIGN) * ALIGN
        while at < self.nbytes:
            chunk = self._read(at, _CHUNK)
            found = chunk.find(RECORD_MAGIC)
            while found >= 0:
                if found % ALIGN == 0:
                    yield at + found
                found = chunk.find(RECORD_MAGIC, found + 1)
            at += _CHUNK

    def _read(self, at: int, nbytes: int) -> bytes:
        try:
            return os.pread(self._fd, nbytes, at)
        except OSError as error:
            raise RecordingError(f"{self.path}: cannot be read: {error.strerror}") from error

    def _mapped(self, at: int, nbytes: int) -> memoryview:
        """Less where the file has become shorter: its writer takes back what it could not write to
        the end."""
        size = os.fstat(self._fd).st_size
        if nbytes == 0 or at + nbytes > size:
            return memoryview(b"")
        if self._map is None or len(self._map) < at + nbytes:
            try:
                self._map = mmap.mmap(self._fd, size, access=mmap.ACCESS_READ)
            except (ValueError, OSError) as error:  # it may have been cut off just now
                raise RecordingError(f"{self.path}: cannot be mapped: {error}") from None
        return memoryview(self._map)[at : at + nbytes]


def _may_begin(rest: bytes) -> bool:
    """Whether these few bytes, at the end of a file, may be those of a record or footer that was
    not written to its end."""
    if len(rest) < FOOTER_BYTES and rest[: len(FOOTER_MAGIC)] == FOOTER_MAGIC[: len(rest)]:
        return True
    return rest[: len(RECORD_MAGIC)] == RECORD_MAGIC[: len(rest)]
