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

from stages.errors import RecordingError
from stages.recording.layout import (
    ALIGN,
    FOOTER_BYTES,
    HEAD_BYTES,
    INDEX_DTYPE,
    RECORD_MAGIC,
    SEGMENT_BYTES,
    Head,
    SegmentHead,
    index_row,
    is_whole_head,
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


class SegmentFile:
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
        head, json_padded = self._head_at(at)
        if head is None:
            raise RecordingError(f"{where}: no whole record")
        start = at + head.nbytes - head.padded_payload
        return StoredRecord.read(head, json_padded, self._mapped(start, head.padded_payload), where)

    def table(self) -> Table:
        """From the index, or from the records themselves where that is missing or damaged."""
        rows = self._indexed()
        return self.scan() if rows is None else Table(rows, (), 0, True)

    def scan(self) -> Table:
        """From the records' heads alone."""
        rows: list[tuple[Any, ...]] = []
        flaws: list[str] = []
        at, sealed, torn = SEGMENT_BYTES, False, 0
        while at < self.nbytes:
            head, _ = self._head_at(at)
            if head is not None:
                rows.append(index_row(head, at))
                at += head.nbytes
                continue
            following = self._next_record(at + 1)
            if following is not None:
                flaws.append(f"{following - at} bytes at {at} are no whole record")
                at = following
                continue
            sealed = self._is_footer(at, rows)
            torn = 0 if sealed else self.nbytes - at
            break
        if self.nbytes < SEGMENT_BYTES:
            torn = self.nbytes
        return Table(np.array(rows, INDEX_DTYPE), tuple(flaws), torn, sealed)

    def _indexed(self) -> NDArray[np.void] | None:
        footer = read_footer(self._read(max(self.nbytes - FOOTER_BYTES, 0), FOOTER_BYTES))
        if footer is None:
            return None
        try:
            record = self.record(footer[0])
        except RecordingError:
            return None
        rows = record.array("rows") if record.kind == "index" else np.zeros(0, np.uint8)
        if rows.nbytes != footer[1] * INDEX_DTYPE.itemsize:
            return None
        return rows.view(INDEX_DTYPE)

    def _is_footer(self, at: int, rows: list[tuple[Any, ...]]) -> bool:
        """Whether the rest of the file is a footer that names the last record."""
        footer = read_footer(self._read(at, self.nbytes - at)) if rows else None
        return footer is not None and footer[0] == rows[-1][0]

    def _head_at(self, at: int) -> tuple[Head | None, bytes]:
        """The head at ``at`` and its JSON, where both are whole and the payload is in the file."""
        raw = self._read(at, HEAD_BYTES)
        head = read_head(raw)
        if head is None or at + head.nbytes > self.nbytes:
            return None, b""
        json_padded = self._read(at + HEAD_BYTES, head.json_bytes)
        return (head, json_padded) if is_whole_head(raw, json_padded) else (None, b"")

    def _next_record(self, start: int) -> int | None:
        """Where the next record with a whole head begins."""
        return next((at for at in self._magics(start) if self._head_at(at)[0] is not None), None)

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
        return os.pread(self._fd, nbytes, at)

    def _mapped(self, at: int, nbytes: int) -> memoryview:
        if nbytes == 0:
            return memoryview(b"")
        if self._map is None or len(self._map) < at + nbytes:
            self._map = mmap.mmap(self._fd, self.nbytes, access=mmap.ACCESS_READ)
        return memoryview(self._map)[at : at + nbytes]
