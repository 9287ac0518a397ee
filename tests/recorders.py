"""Recorders with a disk that does as it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from result_packets import random_packet

from stages.packets import HostPacket
from stages.recorder.config import RecorderConfig
from stages.recorder.recorder import Recorder
from stages.recording.files import OsFiles
from stages.recording.layout import Buffer
from stages.recording.ledger import Clock
from stages.recording.log_writer import LogOptions
from stages.recording.manifest import Manifest
from stages.recording.space import SpaceLimits
from stages.recording.writing import create_log

REAL = Clock()


class Disk(OsFiles):
    """The real one, until it is told otherwise."""

    def __init__(self) -> None:
        self.error: OSError | None = None
        """Raised by every write and sync."""
        self.hangs = threading.Event()
        """While it is clear every write waits."""
        self.hangs.set()
        self.free: int | None = None

    def write(self, fd: int, buffers: Sequence[Buffer]) -> int:
        self.hangs.wait(30)
        if self.error is not None:
            raise self.error
        return super().write(fd, buffers)

    def sync(self, fd: int) -> None:
        if self.error is not None:
            raise self.error

    def free_bytes(self, folder_fd: int) -> int:
        return super().free_bytes(folder_fd) if self.free is None else self.free


@dataclass(frozen=True, slots=True, eq=False)
class Rig:
    """A recorder at work."""

    recorder: Recorder
    disk: Disk
    path: Path

    def offer(self, frames: int, first: int = 0) -> None:
        for number in range(first, first + frames):
            self.recorder.write(packet(number))


@contextmanager
def recording(
    folder: Path,
    retry_s: float = 0.02,
    clock: Clock = REAL,
    masks: bool = False,
    **settings: Any,
) -> Iterator[Rig]:
    """One that records logits, unless `settings` say more; ``masks``: what packets carry beside
    them is recorded, too."""
    exact = {"record": ("logits",), "dtype": "float32", "min_free_bytes": 0}
    config = RecorderConfig(**exact | settings)
    disk = Disk()
    limits = SpaceLimits(config.min_free_bytes, config.min_free_bytes, config.quota_bytes)
    options = LogOptions(space=limits, retry_s=retry_s)
    manifest = Manifest("log", "session", source_id="cam1", recorded=("logits",))
    writer = create_log(folder, manifest, options, files=disk, clock=clock)
    recorder = Recorder(config, masks=masks, logits=True)
    recorder.open_log(writer, str(folder / "session"))
    recorder.start()
    try:
        yield Rig(recorder, disk, folder / "session")
    finally:
        disk.hangs.set()
        recorder.release()
        recorder.close()
        recorder.finish_quietly()


def packet(frame_id: int, side: int = 32) -> HostPacket:
    """Two objects with logits."""
    rng = np.random.default_rng(frame_id)
    made, _ = random_packet(rng, 2, (60, 80), frame_id=frame_id, with_masks=False)
    return replace(made, logits=rng.normal(0, 9, (2, side, side)).astype(np.float32))


def eventually(what: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.005)
