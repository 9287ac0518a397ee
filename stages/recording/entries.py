"""What each kind of entry holds. `entry()` makes what a writer takes; `of` reads it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from stages.recording.entry import NO_FRAME, Entry, Json, Kind, Stamp
from stages.recording.fields import Fields
from stages.recording.quantise import LogitsDtype, dequantised, quantised
from stages.window import Window


class Stored(Protocol):
    """A record that was read: see `stages.recording.log_reader.StoredRecord`."""

    @property
    def kind(self) -> Kind: ...
    @property
    def stamp(self) -> Stamp: ...
    @property
    def fields(self) -> Fields: ...
    def array(self, name: str) -> NDArray[Any]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Logits:
    """The low-resolution logits of one frame, a row an object."""

    stamp: Stamp
    object_ids: NDArray[np.int64]
    """int64 (n,)."""
    values: NDArray[np.float32]
    """float32 (n, h, w); -1024 (`NO_OBJECT`) where the model says that the object is absent."""
    window: Window
    """What of the picture they cover."""

    def entry(self, dtype: LogitsDtype = "float32") -> Entry:
        """Kept as float32 or fp16 or int8: `stages.recording.quantise` has the bounds."""
        _check_rows(self.object_ids, self.values, 3)
        arrays = {"object_ids": _int64(self.object_ids), **quantised(self.values, dtype)}
        return Entry("logits", self.stamp, _window_fields(self.window), arrays)

    @classmethod
    def of(cls, record: Stored) -> Logits:
        ids = record.array("object_ids")
        values = dequantised(record.array)
        _check_rows(ids, values, 3)
        return cls(record.stamp, ids, values, _window(record.fields))


@dataclass(frozen=True, slots=True, eq=False)
class VideoLogits:
    """The logits of one frame at video resolution, a row an object."""

    stamp: Stamp
    object_ids: NDArray[np.int64]
    """int64 (n,)."""
    values: NDArray[np.float32]
    """float32 (n, 1, H, W), H x W of the full picture."""

    def __post_init__(self) -> None:
        _check_rows(self.object_ids, self.values, 4)
        ids, dtype = str(self.object_ids.dtype), str(self.values.dtype)
        if ids != "int64" or dtype != "float32" or self.values.shape[1] != 1:
            raise ValueError(
                f"got ids {ids} and logits {dtype} {self.values.shape}, "
                "expected int64 and float32 (n, 1, H, W)"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Masks:
    """The masks of one frame at the window's size, bit-packed."""

    stamp: Stamp
    object_ids: NDArray[np.int64]
    bits: NDArray[np.uint8]
    """uint8 (n, H, ceil(W / 8)), `numpy.packbits` order; see `HostPacket.masks`."""
    window: Window

    def entry(self) -> Entry:
        _check_rows(self.object_ids, self.bits, 3)
        arrays: dict[str, NDArray[Any]] = {
            "object_ids": _int64(self.object_ids),
            "masks": self.bits,
        }
        return Entry("masks", self.stamp, _window_fields(self.window), arrays)

    @classmethod
    def of(cls, record: Stored) -> Masks:
        ids, bits = record.array("object_ids"), record.array("masks")
        _check_rows(ids, bits, 3)
        return cls(record.stamp, ids, bits, _window(record.fields))

    def mask(self, row: int) -> NDArray[np.bool_]:
        """bool (H, W) of one object in the full picture."""
        inside = np.unpackbits(self.bits[row], axis=-1, count=self.window.size_hw[1])
        return self.window.place(inside.view(np.bool_))


@dataclass(frozen=True, slots=True, eq=False)
class Packet:
    """A message as it was published (`stages.wire`)."""

    stamp: Stamp
    message: bytes | memoryview

    def entry(self) -> Entry:
        return Entry("packet", self.stamp, {}, {"message": np.frombuffer(self.message, np.uint8)})

    @classmethod
    def of(cls, record: Stored) -> Packet:
        return cls(record.stamp, record.array("message").data)


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
        return Entry("frame", self.stamp, _window_fields(self.window), {"pixels": self.pixels})

    @classmethod
    def of(cls, record: Stored) -> Picture:
        return cls(record.stamp, record.array("pixels"), _window(record.fields))


@dataclass(frozen=True, slots=True)
class Gap:
    """Entries that were offered and not written; each pause and each loss has one."""

    reason: str
    dropped: int
    first: Stamp = NO_FRAME
    """Of the frames that are missing; `NO_FRAME` where none is."""
    last: Stamp = NO_FRAME
    since_unix_ns: int = 0
    until_unix_ns: int = 0
    unsynced_from_seq: int | None = None
    """Records from this one on, before the gap, may be lost where the machine lost power."""

    def entry(self) -> Entry:
        return Entry("gap", self.last, self.fields())

    def fields(self) -> dict[str, Json]:
        """As JSON has it; frames as [epoch, frame_id]."""
        return {
            "reason": self.reason,
            "dropped": self.dropped,
            "first": [self.first.epoch, self.first.frame_id],
            "last": [self.last.epoch, self.last.frame_id],
            "since_unix_ns": self.since_unix_ns,
            "until_unix_ns": self.until_unix_ns,
            "unsynced_from_seq": self.unsynced_from_seq,
        }

    @classmethod
    def of(cls, told: Fields) -> Gap:
        first, last = (Stamp(*told.integers(name, 2)) for name in ("first", "last"))
        times = (told.integer("since_unix_ns"), told.integer("until_unix_ns"))
        unsynced = None if told.absent("unsynced_from_seq") else told.integer("unsynced_from_seq")
        return cls(told.text("reason"), told.integer("dropped"), first, last, *times, unsynced)


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


@dataclass(frozen=True, slots=True)
class Book:
    """What a writer notes about the recording itself."""

    what: Literal["retired", "reopened", "closed"]
    """`retired`: segments up to `through` are deleted; `closed`: it ends here, with its counts."""
    told: Mapping[str, int]

    def entry(self) -> Entry:
        return Entry("book", NO_FRAME, {"what": self.what, **self.told})


def _int64(ids: NDArray[Any]) -> NDArray[np.int64]:
    return np.ascontiguousarray(ids, np.int64)


def _window_fields(window: Window) -> dict[str, Json]:
    return {
        "size_hw": list(window.size_hw),
        "origin_yx": list(window.origin_yx),
        "full_hw": list(window.full_hw),
    }


def _window(told: Fields) -> Window:
    return told.window()


def _check_rows(ids: NDArray[Any], rows: NDArray[Any], ndim: int) -> None:
    if ids.ndim != 1 or rows.ndim != ndim or len(ids) != len(rows):
        raise ValueError(
            f"object_ids {ids.shape} and rows {rows.shape}: expected (n,) and {ndim} axes of n rows"
        )
