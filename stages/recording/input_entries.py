"""Entries that hold what a run was given: prompts, detections, pixels, the source's state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stages.recording.entry import NO_FRAME, Entry, Json, Stamp
from stages.recording.stored_form import Stored, window_fields
from stages.window import Window


@dataclass(frozen=True, slots=True, eq=False)
class Prompted:
    """What somebody asked for, on the frame that it took effect on."""

    stamp: Stamp
    request: Mapping[str, Json]
    mask: NDArray[np.bool_] | None = None
    """bool (H, W), of a mask prompt."""

    def entry(self) -> Entry:
        arrays = {} if self.mask is None else {"mask": self.mask}
        return Entry("prompt", self.stamp, {"request": self.request}, arrays)

    @classmethod
    def of(cls, record: Stored) -> Prompted:
        mask = record.array("mask") if "mask" in record.fields.arrays else None
        return cls(record.stamp, record.fields.mapping("request"), mask)


@dataclass(frozen=True, slots=True, eq=False)
class Detected:
    """The detector's boxes on one frame, valid ones alone."""

    stamp: Stamp
    boxes_xyxy: NDArray[np.float32]
    """float32 (k, 4), pixels of the window."""
    scores: NDArray[np.float32]
    """float32 (k,)."""
    class_ids: NDArray[np.int32]
    """int32 (k,)."""
    computed: bool = True
    """False between key frames."""

    def entry(self) -> Entry:
        arrays = {"boxes_xyxy": self.boxes_xyxy, "scores": self.scores, "class_ids": self.class_ids}
        return Entry("detections", self.stamp, {"computed": self.computed}, arrays)

    @classmethod
    def of(cls, record: Stored) -> Detected:
        return cls(
            record.stamp,
            boxes_xyxy=record.array("boxes_xyxy"),
            scores=record.array("scores"),
            class_ids=record.array("class_ids"),
            computed=record.fields.flag("computed"),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """The pixels that were taken in."""

    stamp: Stamp
    pixels: NDArray[np.uint8]
    """uint8 (H, W) grey or (H, W, 3) RGB, of the window."""
    window: Window

    def entry(self) -> Entry:
        return Entry("frame", self.stamp, window_fields(self.window), {"pixels": self.pixels})

    @classmethod
    def of(cls, record: Stored) -> Picture:
        return cls(record.stamp, record.array("pixels"), record.fields.window())


@dataclass(frozen=True, slots=True)
class State:
    """What became of the source, in the caller's words."""

    state: str
    told: Mapping[str, Json] = field(default_factory=dict)
    stamp: Stamp = NO_FRAME

    def entry(self) -> Entry:
        return Entry("state", self.stamp, {"state": self.state, "told": self.told})

    @classmethod
    def of(cls, record: Stored) -> State:
        return cls(record.fields.text("state"), record.fields.mapping("told"), record.stamp)
