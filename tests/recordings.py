"""Small recordings, disks that fail, and clocks that stand still."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.recording.entries import Logits, VideoLogits
from stages.recording.entry import Stamp
from stages.recording.files import OsFiles
from stages.recording.layout import Buffer
from stages.recording.ledger import Clock, WriterStatus
from stages.recording.log_writer import LogOptions, LogWriter
from stages.recording.manifest import Manifest
from stages.recording.npy_writer import NpyOptions, NpyWriter
from stages.recording.segment_chain import SegmentOptions
from stages.recording.space import SpaceLimits
from stages.recording.writing import create_log, create_npy
from stages.window import whole

ANY_SPACE = SpaceLimits(0, 0)
"""A disk that is full enough for no test to depend on it."""
SIZE_HW = (24, 40)
PLAYED_FRAMES = 8


def log_options(nbytes: int = 1 << 20, compress: bool = False, **segments: object) -> LogOptions:
    return LogOptions(SegmentOptions(nbytes, **segments), ANY_SPACE, compress=compress)


def manifest(layout: str = "log", session_id: str = "s") -> Manifest:
    return Manifest(layout, session_id)


def low_logits(frame_id: int, objects: int = 2, size: int = 4) -> NDArray[np.float32]:
    rng = np.random.default_rng(frame_id)
    return rng.normal(0, 8, (objects, size, size)).astype(np.float32)


def logits(frame_id: int, epoch: int = 0, objects: int = 2, pass_index: int = 0) -> Logits:
    stamp = Stamp(epoch, frame_id, 1000 + frame_id, 2000 + frame_id, pass_index)
    values = low_logits(frame_id + 1000 * pass_index, objects)
    return Logits(stamp, np.arange(objects) + 7, values, whole(SIZE_HW))


def video(frame_id: int, pass_index: int = 0, objects: int = 2) -> VideoLogits:
    rng = np.random.default_rng((frame_id, pass_index))
    values = rng.normal(0, 8, (objects, 1, 3, 5)).astype(np.float32)
    return VideoLogits(
        Stamp(0, frame_id, pass_index=pass_index), np.arange(objects) + 10 * pass_index, values
    )


@dataclass
class StandingClock:
    """Goes on when it is told to."""

    now_s: float = 100.0

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now_s, lambda: int(self.now_s * 1e9))


@dataclass
class FailingFiles(OsFiles):
    """A disk whose calls fail from `fail_at` on, for `times` calls; a write that fails has written
    half of its bytes."""

    code: int = errno.ENOSPC
    fail_at: int = sys.maxsize
    times: int = 1
    free: int = 1 << 40
    calls: list[str] = field(default_factory=list)

    def create(self, name: str, folder_fd: int) -> int:
        self._call("create")
        return super().create(name, folder_fd)

    def append_to(self, name: str, folder_fd: int) -> int:
        self._call("append_to")
        return super().append_to(name, folder_fd)

    def write(self, fd: int, buffers: Sequence[Buffer]) -> int:
        try:
            self._call("write")
        except OSError:
            data = b"".join(buffers)
            os.write(fd, data[: len(data) // 2])
            raise
        return super().write(fd, buffers)

    def truncate(self, fd: int, nbytes: int) -> None:
        self._call("truncate")
        super().truncate(fd, nbytes)

    def sync(self, fd: int) -> None:
        self._call("sync")

    def sync_named(self, name: str, folder_fd: int) -> None:
        self._call("sync_named")

    def replace(self, name: str, new_name: str, folder_fd: int) -> None:
        self._call("replace")
        super().replace(name, new_name, folder_fd)

    def remove(self, name: str, folder_fd: int) -> None:
        self._call("remove")
        super().remove(name, folder_fd)

    def free_bytes(self, folder_fd: int) -> int:
        self._call("free_bytes")
        return self.free

    def heal(self) -> None:
        self.fail_at = sys.maxsize

    def break_now(self) -> None:
        """From now on nothing can be done."""
        self.fail_at, self.times = len(self.calls), sys.maxsize

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if 0 <= len(self.calls) - 1 - self.fail_at < self.times:
            raise OSError(self.code, os.strerror(self.code))


@dataclass(frozen=True, slots=True)
class Played:
    """What a writer on a failing disk acknowledged."""

    path: Path
    acknowledged: list[int]
    status: WriterStatus
    healed: bool
    """Whether the disk's faults were over before the last frame was offered."""


def play(
    writer: LogWriter | NpyWriter,
    append: Callable[[int], int | None],
    clock: StandingClock,
    files: FailingFiles,
    path: Path,
) -> Played:
    """Frames half a second apart, and the last one some seconds later."""
    acknowledged: list[int] = []
    for number in range(PLAYED_FRAMES):
        clock.now_s += 2 if number == PLAYED_FRAMES - 1 else 0  # a pause rests for a second
        healed = len(files.calls) >= files.fail_at + files.times
        if append(number) is not None:
            acknowledged.append(number)
        for _ in range(1 if number < PLAYED_FRAMES - 2 else 8):
            clock.now_s += 0.5
            writer.poll()
    return Played(path, acknowledged, writer.close(), healed)


def play_log(root: Path, files: FailingFiles, options: LogOptions | None = None) -> Played:
    """In segments of two frames."""
    clock = StandingClock()
    options = options or log_options(2200, seconds=100.0)
    log = create_log(root, manifest(), options, files=files, clock=clock.clock)
    return play(log, lambda n: log.append(logits(n).entry()), clock, files, root / "s")


def play_npy(root: Path, files: FailingFiles) -> Played:
    """Half as many frames, each twice."""
    clock = StandingClock()
    options = NpyOptions(space=ANY_SPACE)
    npy = create_npy(root, manifest("npy"), options, files=files, clock=clock.clock)
    path = root / "predictions" / "s"
    return play(npy, lambda n: npy.append(video(n % 4, n // 4)), clock, files, path)
