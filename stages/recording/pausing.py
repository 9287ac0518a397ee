"""PausingWriter: offers entries to a store that may fail at any call, and keeps the books."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Protocol

from stages.recording.entries import Book, Gap
from stages.recording.entry import Stamp
from stages.recording.folder import RecordingFolder
from stages.recording.ledger import Clock, Ledger, WriterStatus
from stages.recording.space import Space


class Store(Protocol):
    """Where entries go. Every method but `suspend` and `close` may raise `OSError`, and then has
    left whole entries only; it is called again later."""

    @property
    def nbytes(self) -> int:
        """Of the recording so far."""
        ...

    def ensure_open(self) -> None:
        """Make sure that something can be put."""
        ...

    def put_gap(self, gap: Gap) -> None: ...

    def sync_if_due(self) -> None: ...

    def tend(self) -> None:
        """What time alone makes due."""
        ...

    def end(self, book: Book) -> None:
        """Write the last entry and all that makes the recording whole."""
        ...

    def suspend(self) -> int | None:
        """After a fault; see `SegmentChain.suspend`."""
        ...

    def close(self) -> None: ...


class PausingWriter:
    """Owned by one thread; see `stages.recording.log_writer.LogWriter` for what it promises."""

    def __init__(
        self, store: Store, folder: RecordingFolder, space: Space, retry_s: float, clock: Clock
    ) -> None:
        """Takes over ``folder``; begins paused where ``store`` cannot be opened."""
        self._store = store
        self._folder = folder
        self._space = space
        self._ledger = Ledger(clock, retry_s)
        self._try(store.ensure_open)

    @property
    def status(self) -> WriterStatus:
        return self._ledger.status

    def offer(self, stamp: Stamp, nbytes: int, put: Callable[[], int]) -> int | None:
        """Have ``put`` write an entry of ``nbytes``; what it returns, or None where it was
        dropped."""
        number = -1

        def write() -> None:
            nonlocal number
            self._check_space(nbytes, resuming=False)
            self._write_gaps()
            number = put()

        if not self._is_recording() or not self._try(write):
            self._ledger.drop(self._ledger.reason, stamp)
            return None
        self._ledger.wrote(nbytes)
        self._try(self._store.sync_if_due)
        return number

    def drop(self, reason: str, stamp: Stamp, count: int = 1) -> None:
        """Count entries that were lost before they came here."""
        self._ledger.drop(reason, stamp, count)

    def poll(self) -> None:
        """Do what time makes due, and go on after a pause."""
        if self._is_recording():
            self._try(self._tend)

    def close(self) -> WriterStatus:
        """End the recording and let its folder go."""
        if self._ledger.status.state != "closed":
            if not self._ledger.paused or self._resume():
                self._try(self._end)
            self._store.close()
            self._ledger.close()
            self._folder.close()
        return self.status

    def _is_recording(self) -> bool:
        if self._ledger.status.state == "closed":
            raise ValueError("this recording is closed")
        if not self._ledger.paused:
            return True
        return self._ledger.may_retry and self._resume()

    def _try(self, action: Callable[[], None]) -> bool:
        """Whether it could be done; else the writer is paused."""
        try:
            action()
        except OSError as error:
            self._ledger.pause(error.strerror or str(error), self._store.suspend())
            return False
        return True

    def _resume(self) -> bool:
        resumed = self._try(self._go_on)
        if resumed:
            self._ledger.resume()
        return resumed

    def _go_on(self) -> None:
        self._check_space(0, resuming=True)
        self._store.ensure_open()
        self._write_gaps()

    def _tend(self) -> None:
        self._write_gaps()
        self._store.tend()

    def _end(self) -> None:
        self._write_gaps()
        status = self.status
        counts = {"offered": status.offered, "written": status.written, "dropped": status.dropped}
        self._store.end(Book("closed", counts))

    def _check_space(self, nbytes: int, resuming: bool) -> None:
        refusal = self._space.refusal(self._store.nbytes, nbytes, resuming)
        if refusal is not None:
            raise OSError(errno.ENOSPC, refusal)

    def _write_gaps(self) -> None:
        for gap in self._ledger.open_gaps():
            self._store.put_gap(gap)
            self._ledger.gap_written(gap)
