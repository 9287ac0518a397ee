"""Entries that hold what a run found: logits, masks, packets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.errors import RecordingError
from stages.recording.entry import Entry, Stamp
from stages.recording.quantise import LogitsDtype, dequantised, quantised
from stages.recording.stored_form import Stored, window_fields
from stages.window import Window


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
        return Entry("logits", self.stamp, window_fields(self.window), arrays)

    @classmethod
    def of(cls, record: Stored) -> Logits:
        ids = record.array("object_ids")
        values = dequantised(record.array)
        _check_rows(ids, values, 3, RecordingError)
        return cls(record.stamp, ids, values, record.fields.window())


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
        return Entry("masks", self.stamp, window_fields(self.window), arrays)

    @classmethod
    def of(cls, record: Stored) -> Masks:
        ids, bits = record.array("object_ids"), record.array("masks")
        _check_rows(ids, bits, 3, RecordingError)
        return cls(record.stamp, ids, bits, record.fields.window())

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


def _int64(ids: NDArray[Any]) -> NDArray[np.int64]:
    return np.ascontiguousarray(ids, np.int64)


def _check_rows(
    ids: NDArray[Any], rows: NDArray[Any], ndim: int, error: type[Exception] = ValueError
) -> None:
    if ids.ndim != 1 or rows.ndim != ndim or len(ids) != len(rows):
        raise error(
            f"object_ids {ids.shape} and rows {rows.shape}: expected (n,) and {ndim} axes of n rows"
        )
