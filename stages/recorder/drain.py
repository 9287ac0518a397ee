"""The recorder's thread: takes frames from the ring and has them written."""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Generic, Protocol, TypeVar

from kpi.edge_events import RecorderLoss, RecorderState, RecorderStateName
from kpi.emit import emit
from kpi.events import ErrorRaised
from stages.recorder.bundle import Bundle
from stages.recorder.counts import Counts
from stages.recorder.ring import Ring
from stages.recording.entry import Stamp
from stages.recording.ledger import WriterState, WriterStatus

NAME = "masks"
"""Of this recorder in events and metrics."""
_WAIT_S = 0.2
_SLICE_S = 0.05
_SAYS: Final[Mapping[WriterState, RecorderStateName]] = {
    "recording": "recording",
    "paused": "paused",
    "closed": "stopped",
}
Part = TypeVar("Part")
"""What a writer writes: `Entry` to a log, `VideoLogits` as npy."""
_Taken = TypeVar("_Taken", contravariant=True)


class Writer(Protocol[_Taken]):
    """What writes entries; see `stages.recording.log_writer.LogWriter`."""

    @property
    def status(self) -> WriterStatus: ...
    def append(self, part: _Taken, /) -> int | None: ...
    def drop(self, reason: str, stamp: Stamp, count: int = 1) -> None: ...
    def poll(self) -> None: ...
    def close(self) -> WriterStatus: ...


class Drain(Generic[Part]):
    """Owns the writer once it has started. While the writer is paused frames wait in the ring, for
    as long as there is room."""

    def __init__(
        self,
        writer: Writer[Part],
        parts: Callable[[Bundle], Iterator[Part]],
        ring: Ring[Bundle],
        counts: Counts,
    ) -> None:
        """``parts``: what is written of a frame."""
        self._writer, self._parts, self._ring, self._counts = writer, parts, ring, counts
        # Its append and popleft are atomic.
        self._lost: deque[tuple[RecorderLoss, Stamp, int]] = deque()
        self._told: str | None = None
        self._failed = False
        self._gave_up = threading.Event()
        self.status = writer.status
        """The writer's, as of its last work; any thread."""
        self.reason: str | None = None
        """Of the last pause."""
        self.on_state: Callable[[bool], None] = lambda recording: None
        """Told by the thread whether anything would be written now."""
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Only now: what the thread tells goes to the logger of whoever calls this."""
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._run,), name="recorder", daemon=True
        )
        self._thread.start()

    def lost(self, reason: RecorderLoss, stamp: Stamp, count: int = 1) -> None:
        """A frame, or so many messages before it, that never got into the ring; they will stand in
        a gap record."""
        self._lost.append((reason, stamp, count))

    def finish(self, timeout_s: float) -> None:
        """Write what waits and close the writer; what a disk is too slow for is given up."""
        self._ring.close()
        if self._thread is None:
            self._writer.close()
            return
        self._thread.join(timeout_s)
        self._gave_up.set()
        self._thread.join(_SLICE_S)

    @property
    def hangs(self) -> bool:
        """Whether it was given up, and goes on waiting for its disk."""
        thread = self._thread
        return self._gave_up.is_set() and thread is not None and thread.is_alive()

    def _run(self) -> None:
        self._tell()
        try:
            while not self._ring.ended and not self._gave_up.is_set():
                self._turn()
            self._note_losses()
        except Exception as error:  # a fault of ours ends the recording, not the run
            emit(ErrorRaised("recorder", f"{type(error).__name__}: {error}"))
        finally:
            self.status = self._writer.close()
            self._tell()

    def _turn(self) -> None:
        self._note_losses()
        if self.status.state == "paused" and self._is_still_paused():
            return
        taken = self._ring.take(_WAIT_S)
        if taken is None:
            self._writer.poll()
        else:
            bundle, nbytes = taken
            try:
                self._write(bundle)
            finally:
                self._ring.done(nbytes)
        self._look()

    def _is_still_paused(self) -> bool:
        """Waits a little; at the end of the run nothing waits for a disk that fails."""
        if self._ring.closed:
            for bundle in self._ring.clear():
                self._counts.drop("paused")
                self._writer.drop("paused", bundle.stamp)
            return True
        self._writer.poll()
        self._look()
        if self.status.state == "paused":
            self._gave_up.wait(_WAIT_S)
        return self.status.state == "paused"

    def _write(self, bundle: Bundle) -> None:
        """All of a frame's entries or, from the first that is dropped on, none."""
        whole = True
        try:
            for part in self._parts(bundle):
                if whole:
                    whole = self._writer.append(part) is not None
                else:
                    self._writer.drop("paused", bundle.stamp)
        except (ValueError, TypeError) as error:
            self._counts.drop("failed")
            self._writer.drop("failed", bundle.stamp)
            if not self._failed:
                self._failed = True
                emit(ErrorRaised("recorder", f"a frame cannot be recorded: {error}"))
            return
        if whole:
            self._counts.wrote()
        else:
            self._counts.drop("paused")

    def _note_losses(self) -> None:
        while self._lost:
            self._writer.drop(*self._lost.popleft())

    def _look(self) -> None:
        self.status = self._writer.status
        if self.status.reason is not None:
            self.reason = self.status.reason
        self._tell()

    def _tell(self) -> None:
        """An event where the state changed; each pause has one with its reason."""
        state = self.status.state
        if state == self._told:
            return
        self._told = state
        self.on_state(state == "recording")
        emit(RecorderState(NAME, _SAYS[state], self.status.reason, self._counts.lost))
