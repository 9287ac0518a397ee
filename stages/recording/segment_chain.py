"""The segments of a recording one after another: numbers, rotation, sync, retention."""

from __future__ import annotations

import errno
from contextlib import suppress
from dataclasses import dataclass, field

from stages.recording.encode import Body, encode
from stages.recording.entries import Book, Gap
from stages.recording.files import Files
from stages.recording.layout import SegmentHead, segment_name
from stages.recording.ledger import Clock
from stages.recording.retention import Finished, Keep, LogStart, Segments
from stages.recording.segment_writer import SegmentWriter


@dataclass(frozen=True, slots=True)
class SegmentOptions:
    """How long segments are, and how soon what is in them is safe."""

    nbytes: int = 256 << 20
    """A segment grows no larger; a larger record gets one of its own."""
    seconds: float = 60.0
    sync_s: float = 1.0
    """What was acknowledged survives a power cut after so long, where `poll` is called as often."""
    sync_bytes: int = 64 << 20
    keep: Keep = field(default_factory=Keep)


class SegmentChain:
    """A `stages.recording.pausing.Store`."""

    def __init__(
        self,
        files: Files,
        folder_fd: int,
        recording: bytes,
        meta: Body,
        options: SegmentOptions,
        start: LogStart,
        clock: Clock,
    ) -> None:
        """``recording``: 16 bytes, its id. ``meta``: the first record of every segment."""
        self._files = files
        self._folder_fd = folder_fd
        self._recording = recording
        self._meta = meta
        self._options = options
        self._clock = clock
        self._finished = Segments(start.finished)
        self._open: SegmentWriter | None = None
        self.seq = start.seq
        """Of the next record."""
        self._number = start.number
        self._is_reopened = start.seq > 0
        self._opened_at = self._synced_at = clock.monotonic()
        self._synced_seq, self._unsynced_bytes = start.seq, 0

    @property
    def nbytes(self) -> int:
        """Of all segments that are there, with what will end the open one."""
        return self._finished.nbytes + (0 if self._open is None else self._open.ended_size)

    def ensure_open(self) -> None:
        """Begin a segment where none is open."""
        if self._open is None:
            self._open = self._begun()
        if not self._open.records:
            self._put(self._meta)
        if self._is_reopened:
            self._put(encode(Book("reopened", {}).entry()))
            self._is_reopened = False

    def append(self, body: Body) -> int:
        """Write one record, to another segment where it would make this one too long; its
        number."""
        segment = self._open
        if (
            segment is not None
            and segment.records > 1
            and (self._is_old or segment.ended_size + body.nbytes > self._options.nbytes)
        ):
            self._rotate()
        return self._put(body)

    def put_gap(self, gap: Gap) -> None:
        self._put(encode(gap.entry()))

    def sync_if_due(self) -> None:
        late = self._clock.monotonic() - self._synced_at >= self._options.sync_s
        if late or self._unsynced_bytes >= self._options.sync_bytes:
            self._sync()

    def tend(self) -> None:
        """Sync, or end a segment, that is due."""
        if self._is_old:
            self._rotate()
        self.sync_if_due()

    def end(self, book: Book) -> None:
        self._put(encode(book.entry()))
        self._finish()

    def suspend(self) -> int | None:
        """After a fault: keep the open segment if one can go on with it. The number of the first
        record that a power cut could still cost because a sync failed; None where there is none."""
        segment = self._open
        if segment is not None and segment.usable:
            with suppress(OSError):
                self._sync()
        if segment is None or segment.usable:
            return None
        segment.close()
        self._ended(segment)
        return self._synced_seq if self._synced_seq < self.seq else None

    def close(self) -> None:
        """Close the open segment as it is."""
        if self._open is not None:
            self._open.close()

    @property
    def _is_old(self) -> bool:
        return self._clock.monotonic() - self._opened_at >= self._options.seconds

    def _begun(self) -> SegmentWriter:
        head = SegmentHead(self._number, self._recording, self.seq, self._clock.unix_ns())
        try:
            segment = SegmentWriter(self._files, self._folder_fd, head)
        except FileExistsError:  # what could not be removed when it failed
            self._number += 1
            raise
        self._number += 1
        self._opened_at = self._clock.monotonic()
        return segment

    def _put(self, body: Body) -> int:
        if self._open is None:
            raise OSError(errno.EBADF, "no segment is open")
        self._unsynced_bytes += self._open.append(body, self.seq, self._clock.unix_ns())
        self.seq += 1
        return self.seq - 1

    def _finish(self) -> None:
        segment = self._open
        if segment is not None:
            self._put(segment.index())
            segment.seal()
            self._has_synced()
            self._ended(segment)

    def _rotate(self) -> None:
        self._finish()
        self.ensure_open()
        self._retire()

    def _retire(self) -> None:
        open_bytes = self.nbytes - self._finished.nbytes
        due = self._finished.due(self._options.keep, open_bytes, self._clock.monotonic())
        if not due:
            return
        self._put(encode(Book("retired", {"through": due[-1].number}).entry()))
        for segment in due:
            try:
                with suppress(FileNotFoundError):
                    self._files.remove(segment_name(segment.number), self._folder_fd)
            except OSError:  # tried again when the next segment begins
                continue
            self._finished.removed(segment)

    def _sync(self) -> None:
        if self._open is not None:
            self._open.sync()
        self._has_synced()

    def _has_synced(self) -> None:
        self._synced_at = self._clock.monotonic()
        self._synced_seq, self._unsynced_bytes = self.seq, 0

    def _ended(self, segment: SegmentWriter) -> None:
        self._finished.add(Finished(segment.number, segment.size, self._clock.monotonic()))
        self._open = None
