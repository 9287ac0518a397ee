"""A picture of the run on request: `Snapshots`."""

from __future__ import annotations

import contextvars
import json
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.control.seen import describe
from pipeline.preview import draw, of_region
from stages.packets import HostPacket
from stages.records import Frame

_MOST: Final = 1000
"""In one run: a disk is not without end."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What was written, and where."""

    frame_id: int
    epoch: int
    files: tuple[str, ...]
    """Relative to the run's folder."""


class Snapshots:
    """A tap and a sink that keeps one frame when asked, and writes it with its masks.

    Drawing and writing are a short-lived thread's work: neither the frame loop nor egress waits
    for them. The frame is on the device until its packet is on the host; then it is whole.
    """

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        """``folder``: the run's."""
        self.wants_masks = False
        self._folder, self._class_names = folder, class_names
        self._lock = threading.Lock()
        self._asked: Future[Taken] | None = None
        self._frame: Frame | None = None
        self._taken = 0

    def ask(self) -> Future[Taken] | None:
        """Take the next frame, from any thread; None while another is being taken, or after
        too many. May be cancelled until the frame is there. The result raises OSError where
        nothing could be written."""
        with self._lock:
            if self._asked is not None and not self._asked.cancelled():
                return None
            if self._taken >= _MOST:
                return None
            self._asked, self._frame = Future(), None
            return self._asked

    def offer(self, frame: Frame) -> None:
        """Called by the frame loop before each frame."""
        asked = self._asked
        self.wants_masks = asked is not None and not asked.cancelled() and self._frame is None
        if self.wants_masks:
            self._frame = frame

    def write(self, packet: HostPacket) -> None:
        frame = self._frame
        if frame is None or packet.info.frame_id < frame.frame_id:
            return
        if packet.info.frame_id > frame.frame_id or packet.masks is None:
            self._frame = None  # it was dropped on its way: take another
            return
        with self._lock:
            told, self._asked, self._frame = self._asked, None, None
            if told is None or not told.set_running_or_notify_cancel():
                return
            self._taken += 1
        work = (self._save, frame, packet, told)
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=work, name="snapshot", daemon=True).start()

    def poll(self) -> None:
        """Nothing to look after."""

    def close(self) -> None:
        """What was asked for and not begun is not taken; whoever waits is told by the channel."""
        self._frame = None

    def _save(self, frame: Frame, packet: HostPacket, told: Future[Taken]) -> None:
        info = packet.info
        name = f"snapshots/frame_{info.frame_id:08d}"
        try:
            pixels = frame.rgb.permute(1, 2, 0).cpu().numpy()
            (self._folder / "snapshots").mkdir(mode=0o700, exist_ok=True)
            image = draw(np.ascontiguousarray(pixels), of_region(packet), self._class_names)
            picture, state = self._folder / f"{name}.png", self._folder / f"{name}.json"
            image.save(_part(picture), format="PNG")
            _part(state).write_text(json.dumps(describe(packet, self._class_names)) + "\n")
            for path in (picture, state):
                os.chmod(_part(path), 0o600)
                os.replace(_part(path), path)
        except Exception as error:  # a full disk, say: costs the snapshot alone
            told.set_exception(error)
            return
        told.set_result(Taken(info.frame_id, info.epoch, (f"{name}.png", f"{name}.json")))


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")
