"""Recorders that runs are given in place of theirs, to see how they fare."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np

from stages.packets import HostPacket
from stages.recorder.config import RecorderConfig
from stages.recorder.recorder import Recorder
from stages.recording.files import OsFiles
from stages.recording.layout import Buffer
from stages.recording.log_writer import LogOptions, LogWriter
from stages.recording.manifest import Manifest
from stages.recording.writing import create_log

SIDE, ROWS = 256, 64
ARMS = ("off", "control", "on", "failing")
BLOCK = 40
"""Frames; the first few of a block belong to the one before."""
SETTLE = 8


class Fed(Recorder):
    """Offers noise in place of every frame's logits, so much that it adds up to a rate."""

    rate = 0.0
    """Bytes a second."""

    def __init__(self, config: RecorderConfig, *, masks: bool, logits: bool) -> None:
        super().__init__(config, masks=masks, logits=logits)
        self._began: float | None = None
        self.span_s = 0.0
        """From the first frame to the last."""
        self._fed = 0
        self._rng = np.random.default_rng(0)
        self._noise = self._rng.standard_normal((ROWS, SIDE, SIDE), np.float32)

    def write(self, packet: HostPacket) -> None:
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        self.span_s = now - self._began
        owed = self.span_s * self.rate - self._fed
        rows = min(ROWS, int(owed // self._noise[0].nbytes))
        self._fed += rows * self._noise[0].nbytes
        first = int(self._rng.integers(0, ROWS - rows + 1))
        logits, ids = self._noise[first : first + rows], np.arange(rows, dtype=np.int64)
        super().write(replace(packet, logits=logits, object_ids=ids))


class Disk(OsFiles):
    """Fails while it is told to, in two ways in turn."""

    failing = False

    def __init__(self) -> None:
        self.failures = 0

    def write(self, fd: int, buffers: Sequence[Buffer]) -> int:
        if self.failing:
            self.failures += 1
            raise OSError((errno.ENOSPC, errno.EIO)[self.failures % 2], "injected")
        return super().write(fd, buffers)


class Switched(Recorder):
    """Records or not, block by block, and notes the time from frame to frame."""

    disk: Disk

    def __init__(self, config: RecorderConfig, *, masks: bool, logits: bool) -> None:
        super().__init__(config, masks=masks, logits=logits)
        self.spans: dict[str, list[list[float]]] = {arm: [] for arm in ARMS}
        self._last, self._frame = time.perf_counter(), 0

    def write(self, packet: HostPacket) -> None:
        now = time.perf_counter()
        place, within = divmod(self._frame, BLOCK)
        arm = ARMS[place % len(ARMS)]
        if within == 0:
            self.disk.failing = arm == "failing"
            self.spans[arm].append([])
        if within >= SETTLE:
            self.spans[arm][-1].append((now - self._last) * 1e3)
        self._last, self._frame = now, self._frame + 1
        if arm in ("on", "failing"):
            super().write(packet)
        else:
            self.looks.seen(packet.info.epoch, packet.info.frame_id)
            self._messages = []
        following = ARMS[(self._frame // BLOCK) % len(ARMS)]
        if following in ("off", "control"):
            self.wants_masks = self.wants_logits = self.looks.wanted = False
        elif within == BLOCK - 1:
            self.wants_masks = self.wants_logits = self.looks.wanted = True


@contextmanager
def recorders(kind: type[Recorder], disk: Disk | None = None) -> Iterator[list[Recorder]]:
    """Runs make recorders of `kind`, on `disk`; gives those that were made."""
    made: list[Recorder] = []

    def make(config: RecorderConfig, *, masks: bool, logits: bool) -> Recorder:
        made.append(kind(config, masks=masks, logits=logits))
        return made[-1]

    with ExitStack() as stack:
        stack.enter_context(mock.patch("stages.recorder.recorder.Recorder", make))
        if disk is not None:
            create = partial(_create, disk)
            stack.enter_context(mock.patch("pipeline.recording.create_log", create))
        yield made


def _create(disk: Disk, root: Path, manifest: Manifest, options: LogOptions) -> LogWriter:
    return create_log(root, manifest, replace(options, retry_s=0.05), files=disk)
