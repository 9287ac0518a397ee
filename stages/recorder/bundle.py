"""All that is recorded of one frame: `Bundle`, made into entries by the recorder's thread."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stages.packets import HostPacket, PacketInfo
from stages.recorder.choice_fields import asked, to_fields
from stages.recorder.config import RecorderConfig, What
from stages.recorder.looked import Looked
from stages.recorder.names import ABOUT, CLASSES, ROWS
from stages.recording.entries import (
    Detected,
    Logits,
    Masks,
    Packet,
    Picture,
    State,
    VideoLogits,
)
from stages.recording.entry import Entry, Json, Stamp
from stages.recording.manifest import Interpolation

_BESIDE_BYTES: Final = 2048
"""What JSON and small arrays of a frame take."""


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """One frame."""

    number: int
    """Of the frame among those offered: a hole is a loss."""
    packet: HostPacket
    looked: Looked | None
    messages: tuple[bytes, ...]
    """As they were published since the frame before."""

    @property
    def stamp(self) -> Stamp:
        return stamp_of(self.packet.info)

    @property
    def nbytes(self) -> int:
        """What it holds of memory until it is written."""
        parts = (self.packet.logits, self.packet.masks)
        arrays = sum(part.nbytes for part in parts if part is not None)
        pixels = 0 if self.looked is None else self.looked.nbytes
        return arrays + pixels + sum(map(len, self.messages)) + _BESIDE_BYTES

    def is_whole(self, what: Collection[What]) -> bool:
        """Whether it has all that the frame loop was to keep: what was submitted while the recorder
        was paused has not."""
        looked = self.looked
        there: dict[What, object | None] = {
            "frames": None if looked is None else looked.pixels,
            "detections": None if looked is None else looked.boxes,
        }
        return all(there.get(each, True) is not None for each in what)

    def entries(self, config: RecorderConfig) -> Iterator[Entry]:
        """In the order in which they are written to a log; the last one says that all are there."""
        packet, stamp, what = self.packet, self.stamp, config.record
        window = packet.info.window
        if self.looked is not None:
            yield from self._seen(self.looked)
            if self.looked.choice is not None and "prompts" in what:
                for each in self.looked.choice.applied:
                    yield asked(each, window, stamp).entry()
        if "logits" in what and packet.logits is not None:
            yield Logits(stamp, packet.object_ids, packet.logits, window).entry(config.logits_dtype)
        if "masks" in what and packet.masks is not None:
            yield Masks(stamp, packet.object_ids, packet.masks, window).entry()
        for message in self.messages:
            yield Packet(stamp, message).entry()
        yield self._about("prompts" in what)

    def video_logits(self) -> Iterator[VideoLogits]:
        """The same for the `npy` layout; imports torch."""
        from stages.recording.video_logits import video_logits

        packet = self.packet
        if packet.logits is not None:
            low = Logits(self.stamp, packet.object_ids, packet.logits, packet.info.window)
            yield video_logits(low, Interpolation())

    def _about(self, with_choice: bool) -> Entry:
        """What is needed to run the frame again, beside its pixels and detections."""
        info, looked = self.packet.info, self.looked
        fields: dict[str, Json] = {
            "number": self.number,
            "skipped": 0 if looked is None else looked.skipped,
            "spacing_mm": None if info.spacing_mm is None else list(info.spacing_mm),
            "pose": None if info.pose is None else [float(value) for value in info.pose.ravel()],
            "choice": None,
        }
        masks: dict[str, NDArray[Any]] = {}
        if looked is not None and looked.choice is not None and with_choice:
            fields["choice"], masks = to_fields(looked.choice)
        return replace(State(ABOUT, fields, self.stamp).entry(), arrays=masks)

    def _seen(self, looked: Looked) -> Iterator[Entry]:
        looked.await_copy()
        picture = looked.picture()
        if picture is not None:
            yield Picture(self.stamp, picture, self.packet.info.window).entry()
        if looked.boxes is not None:
            rows = [np.asarray(part.numpy()) for part in looked.boxes]
            valid = rows[3]
            found = Detected(
                self.stamp,
                boxes_xyxy=rows[0][valid],
                scores=rows[1][valid],
                class_ids=rows[2][valid],
                computed=looked.computed,
            ).entry()
            every = dict(zip((*ROWS, CLASSES), rows, strict=False))
            yield replace(found, arrays={**found.arrays, **every})


def stamp_of(info: PacketInfo) -> Stamp:
    """Which frame a result is of."""
    return Stamp(info.epoch, info.frame_id, info.captured_ns, info.captured_unix_ns or 0)
