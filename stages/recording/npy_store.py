"""The files of the `npy` layout: each whole or not there, and an index of lines."""

from __future__ import annotations

import errno
import io
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.errors import RecordingError
from stages.recording.entries import Book, Gap, VideoLogits
from stages.recording.files import Files, discard, is_gone, write_all, write_temporary
from stages.recording.layout import Buffer, joint_crc
from stages.recording.ledger import Clock
from stages.recording.npy_names import INDEX, ids_name, logits_name
from stages.recording.sealed_json import sealed


class NpyStore:
    """A `stages.recording.pausing.Store`."""

    def __init__(
        self,
        files: Files,
        folder_fd: int,
        sync_s: float,
        sync_bytes: int,
        clock: Clock,
        nbytes: int = 0,
    ) -> None:
        """``nbytes``: of what is there already."""
        self._files = files
        self._folder_fd = folder_fd
        self._sync_s, self._sync_bytes = sync_s, sync_bytes
        self._clock = clock
        self._index: int | None = None
        self._index_bytes = 0
        self._is_torn = False
        """Whether more lies in the index than its whole lines."""
        self._lines = 0
        self._sync_failed = False
        self._unsynced: dict[str, int] = {}
        self._synced_at, self._synced_lines = clock.monotonic(), 0
        self.nbytes = nbytes

    def ensure_open(self) -> None:
        if self._index is None:
            self._index = self._files.append_to(INDEX, self._folder_fd)
            self._index_bytes = self._files.size(self._index)

    def append(self, frame: VideoLogits) -> int:
        """Write both files of a frame, and its line; the line's number.

        The line comes before the files take their names: whatever lies under a name then agrees
        with a line, the last one of its frame or, where the process was killed, the one before.
        """
        at = frame.stamp
        parts: dict[str, NDArray[Any]] = {
            ids_name(at.frame_id): frame.object_ids,
            logits_name(at.frame_id): frame.values,
        }
        written = {name: _npy(array) for name, array in parts.items()}
        ids, logits = written.values()
        told = {
            "kind": "frame",
            **asdict(at),
            "object_ids": frame.object_ids.tolist(),
            "logits_crc32c": joint_crc(logits),
            "ids_crc32c": joint_crc(ids),
        }
        earlier = {name: self._files.size_of(name, self._folder_fd) for name in written}
        waiting: list[str] = []
        before, replaced = self._index_bytes, 0
        try:
            for name, buffers in written.items():
                waiting.append(write_temporary(self._files, name, self._folder_fd, buffers))
            line = self._put(told)
            for temporary, name in zip(waiting, written, strict=True):
                self._files.replace(temporary, name, self._folder_fd)
                replaced += 1
        except OSError:
            for temporary in waiting:
                discard(self._files, temporary, self._folder_fd)
            # New ids beside earlier logits: the line stays, to tell whose ids they are.
            if not (replaced and earlier[logits_name(at.frame_id)]):
                self._take_back(before)
            raise
        for name, buffers in written.items():
            self._unsynced[name] = sum(len(buffer) for buffer in buffers)
            self.nbytes += self._unsynced[name] - earlier[name]
        return line

    def put_gap(self, gap: Gap) -> None:
        self._put({"kind": "gap", **gap.fields()})

    def sync_if_due(self) -> None:
        late = self._clock.monotonic() - self._synced_at >= self._sync_s
        if late or sum(self._unsynced.values()) >= self._sync_bytes:
            self._sync()

    def tend(self) -> None:
        self.sync_if_due()

    def end(self, book: Book) -> None:
        self._put({"kind": "book", "what": book.what, **book.told})
        self._sync()

    def suspend(self) -> int | None:
        """After a fault; the first line that a power cut could still cost because a sync failed."""
        failed, self._sync_failed = self._sync_failed, False
        return self._synced_lines if failed and self._synced_lines < self._lines else None

    def close(self) -> None:
        if self._index is not None:
            with suppress(OSError):
                self._files.close(self._index)
            self._index = None

    def _take_back(self, index_bytes: int) -> None:
        """Cut the last line off, if that is longer by it."""
        if self._index is not None and self._index_bytes > index_bytes:
            self._index_bytes, self._is_torn = index_bytes, True
            self._lines -= 1
            with suppress(OSError):
                self._cut(self._index)

    def _put(self, told: dict[str, Any]) -> int:
        if self._index is None:
            raise OSError(errno.EBADF, "the index is not open")
        line = sealed(told)
        if self._is_torn:
            self._cut(self._index)
        self._is_torn = True
        try:
            write_all(self._files, self._index, [line])
        except BaseException:  # an interrupt must not leave half a line either
            with suppress(OSError):
                self._cut(self._index)
            raise
        self._is_torn = False
        self._index_bytes += len(line)
        self.nbytes += len(line)
        self._lines += 1
        return self._lines - 1

    def _cut(self, index: int) -> None:
        self._files.truncate(index, self._index_bytes)
        self._is_torn = False

    def _sync(self) -> None:
        """Each file that was replaced since the last time, the index, and the folder's names."""
        self._sync_failed = True
        if self._index is None or is_gone(self._index):
            self.close()
            raise FileNotFoundError(errno.ENOENT, "the index was deleted")
        for name in list(self._unsynced):
            self._files.sync_named(name, self._folder_fd)
            del self._unsynced[name]
        self._files.sync(self._index)
        self._files.sync(self._folder_fd)
        self._sync_failed = False
        self._synced_at, self._synced_lines = self._clock.monotonic(), self._lines


def _npy(array: NDArray[Any]) -> list[Buffer]:
    """A .npy file of version 1.0."""
    array = np.ascontiguousarray(array).reshape(array.shape)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
    return [head.getvalue(), array.reshape(-1).view(np.uint8).data]


def cut_torn_line(index: Path) -> None:
    """Cut off what a process that was killed left of a line; raises `RecordingError`."""
    try:
        with index.open("r+b") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RecordingError(f"{index}: cannot be written to: {error.strerror}") from error
