"""One open segment of the `log` layout."""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import Any, Final

import numpy as np

from stages.recording.encode import Body, encode
from stages.recording.entry import Entry
from stages.recording.files import Files, is_gone, write_all
from stages.recording.layout import (
    FOOTER_BYTES,
    HEAD_BYTES,
    INDEX_DTYPE,
    Buffer,
    SegmentHead,
    index_row,
    pack_footer,
    pack_segment_head,
    segment_name,
)

_END_BYTES: Final = 2 * HEAD_BYTES + 2 * INDEX_DTYPE.itemsize + FOOTER_BYTES + 300
"""At most, of what ends a segment: a book record, the index record without its rows, the footer."""


class SegmentWriter:
    """Appends records to one file. What raises `OSError` leaves it ending with a whole record
    where the disk lets it; `usable` tells whether one may go on with it."""

    def __init__(self, files: Files, folder_fd: int, head: SegmentHead) -> None:
        """Makes the segment's file; raises `OSError`, and then leaves none if it can."""
        self._files = files
        self.number = head.number
        self.usable = True
        self.size = 0
        self._rows: list[tuple[Any, ...]] = []
        name = segment_name(head.number)
        self._fd = files.create(name, folder_fd)
        try:
            self._add([pack_segment_head(head)])
            files.sync(folder_fd)
        except OSError:
            self.close()
            with suppress(OSError):
                files.remove(name, folder_fd)
            raise

    @property
    def records(self) -> int:
        return len(self._rows)

    @property
    def ended_size(self) -> int:
        """At most, if it ended now."""
        return self.size + len(self._rows) * INDEX_DTYPE.itemsize + _END_BYTES

    def append(self, body: Body, seq: int, unix_ns: int) -> int:
        """Write one record; its bytes."""
        head, buffers = body.buffers(self.number, seq, unix_ns)
        at = self.size
        self._add(buffers)
        self._rows.append(index_row(head, at))
        return body.nbytes

    def sync(self) -> None:
        """Have what was written survive a power cut; also finds out that the file was deleted."""
        if not self.usable:
            raise OSError(errno.EIO, "an earlier sync failed")
        # A sync that failed tells so once: the next would succeed, whatever became of the bytes.
        self.usable = False
        if is_gone(self._fd):
            raise FileNotFoundError(errno.ENOENT, "the segment's file was deleted")
        self._files.sync(self._fd)
        self.usable = True

    def index(self) -> Body:
        """The index of the records so far, to be appended and then sealed."""
        rows = np.array(self._rows, INDEX_DTYPE).view(np.uint8)
        return encode(Entry("index", arrays={"rows": rows}))

    def seal(self) -> None:
        """Write the footer that tells where the last record, the index, lies; sync, and close."""
        index_row = self._rows[-1]
        self._add([pack_footer(int(index_row[0]), len(self._rows) - 1)])
        self.sync()
        self.close()

    def close(self) -> None:
        with suppress(OSError):
            self._files.close(self._fd)

    def _add(self, buffers: list[Buffer]) -> None:
        try:
            written = write_all(self._files, self._fd, buffers)
        except BaseException:  # an interrupt must not leave half a record either
            self._cut()
            raise
        self.size += written

    def _cut(self) -> None:
        try:
            self._files.truncate(self._fd, self.size)
        except OSError:
            self.usable = False
