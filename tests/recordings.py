"""Small recordings, disks that fail, and clocks that stand still.

As a command it writes a recording until it is killed:

    python tests/recordings.py FOLDER LAYOUT SEED

For each entry that is acknowledged it writes its number, eight bytes, to standard output.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.recording.entries import Logits, Packet, VideoLogits
from stages.recording.entry import Entry, Stamp
from stages.recording.files import OsFiles
from stages.recording.layout import Buffer
from stages.recording.ledger import Clock
from stages.recording.log_writer import LogOptions
from stages.recording.manifest import Manifest
from stages.recording.npy_writer import NpyOptions
from stages.recording.segment_chain import SegmentOptions
from stages.recording.space import SpaceLimits
from stages.recording.writing import create_log, create_npy
from stages.window import whole

ANY_SPACE = SpaceLimits(0, 0)
"""A disk that is full enough for no test to depend on it."""
SIZE_HW = (24, 40)


def log_options(nbytes: int = 1 << 20, compress: bool = False, **segments: object) -> LogOptions:
    return LogOptions(SegmentOptions(nbytes, **segments), ANY_SPACE, compress=compress)  # type: ignore[arg-type]


def manifest(layout: str = "log", session_id: str = "s") -> Manifest:
    return Manifest(layout, session_id)  # type: ignore[arg-type]


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
    return VideoLogits(Stamp(0, frame_id, pass_index=pass_index), np.arange(objects), values)


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


def offered(seed: int) -> Iterator[Callable[[], Entry]]:
    """Entries of very different sizes, whose bytes follow from their number."""
    sizes = np.random.default_rng(seed)
    frame_id = 0
    while True:
        nbytes = int(10 ** sizes.uniform(1, 6.3))
        yield lambda frame_id=frame_id, nbytes=nbytes: message(frame_id, nbytes)  # type: ignore[misc]
        frame_id += 1


def message(frame_id: int, nbytes: int) -> Entry:
    return Packet(Stamp(0, frame_id), message_bytes(frame_id, nbytes)).entry()


def message_bytes(frame_id: int, nbytes: int) -> bytes:
    """Eight bytes of the frame's number, again and again."""
    return (frame_id.to_bytes(8, "little") * (nbytes // 8 + 1))[:nbytes]


def main() -> None:
    folder, layout, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    if layout == "log":
        log = create_log(folder, manifest(), log_options(16 << 20))
        for entry in offered(seed):
            _acknowledge(log.append(entry()))
    npy = create_npy(folder, manifest("npy"), NpyOptions(space=ANY_SPACE))
    sizes = np.random.default_rng(seed)
    for number in range(1_000_000):
        side = int(10 ** sizes.uniform(0, 2.5))
        values = np.full((2, 1, side, side), number, np.float32)
        stamp = Stamp(0, number % 50, pass_index=number // 50)
        _acknowledge(npy.append(VideoLogits(stamp, np.array([number, 1]), values)))


def _acknowledge(number: int | None) -> None:
    if number is None:
        sys.exit("an entry was dropped")
    os.write(1, number.to_bytes(8, "little"))


if __name__ == "__main__":
    main()
