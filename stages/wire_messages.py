"""What a subscriber gets out of one message: typed records, masks unpacked when asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stages.errors import MaskstreamError
from stages.packets import Identity

Box = tuple[int, int, int, int]
"""x1, y1, x2, y2 in frame pixels, half-open: columns x1..x2-1, rows y1..y2-1."""


class WireError(MaskstreamError):
    """A message cannot be read, or cannot be made."""


@dataclass(frozen=True, slots=True)
class ObjectResult:
    """One object of a result. It is the same object as another one only where source_id, epoch
    and id all agree, and the message's `identity` is `tracked`."""

    id: int
    class_id: int
    """-1 where no class is known."""
    label: str | None
    score: float
    """Score of the last detection behind the object, 0..1."""
    presence: float
    """The model's object score, a logit. NaN where the model gave no finite number."""
    quality: float
    """Predicted IoU of the mask, 0..1."""
    mask_age_frames: int
    """Frames since the mask was computed from the stream's newest frame."""
    box: Box
    """Tight box of the mask; zeros when the mask is empty."""
    area_px: int
    area_mm2: float | None
    """None where the frame has no pixel spacing."""
    centroid: tuple[float, float]
    """(x, y), mean of the mask's pixel centres, frame pixels."""


@dataclass(frozen=True, slots=True)
class MaskRow:
    """Where one object's mask lies in the payload; pixels outside `box` are background."""

    box: Box
    offset: int
    """Bytes from the start of the payload."""
    size: int
    """Bytes: (y2 - y1) rows of ceil((x2 - x1) / 8)."""


@dataclass(frozen=True, slots=True, eq=False)
class ResultMessage:
    """One frame's result."""

    seq: int
    """Rises by one a packet made by the source; a gap is a loss."""
    source_id: str
    epoch: int
    frame_id: int
    captured_ns: int
    """The publisher's monotonic clock, as are `grabbed_ns` and `published_ns`."""
    captured_unix_ns: int | None
    """From the source, where it has a clock."""
    grabbed_ns: int
    published_ns: int
    published_unix_ns: int
    size_hw: tuple[int, int]
    spacing_mm: tuple[float, float] | None
    """(y, x) millimetres per pixel."""
    pose: NDArray[np.float64] | None
    """(4, 4) image to world."""
    stale: bool
    identity: Identity
    objects: tuple[ObjectResult, ...]
    mask_rows: tuple[MaskRow, ...] | None
    """One an object; None where the message carries no masks."""
    payload: memoryview = field(repr=False)

    def age_ns(self, now_unix_ns: int) -> int:
        """Nanoseconds from the picture's capture to `now_unix_ns` on the publisher's Unix clock.

        The way to publishing is measured on one monotonic clock; only what follows depends on
        the two hosts' Unix clocks agreeing.
        """
        return self.published_ns - self.captured_ns + now_unix_ns - self.published_unix_ns

    def mask(self, row: int) -> NDArray[np.bool_]:
        """bool (H, W) mask of `objects[row]`; raises `ValueError` where there are no masks."""
        out = np.zeros(self.size_hw, np.bool_)
        self._unpack(self._rows()[row], out)
        return out

    def masks(self) -> NDArray[np.bool_]:
        """bool (n, H, W), a row an object; raises `ValueError` where there are no masks."""
        rows = self._rows()
        out = np.zeros((len(rows), *self.size_hw), np.bool_)
        for row, plane in zip(rows, out, strict=True):
            self._unpack(row, plane)
        return out

    def _rows(self) -> tuple[MaskRow, ...]:
        if self.mask_rows is None:
            raise ValueError("this message carries no masks")
        return self.mask_rows

    def _unpack(self, row: MaskRow, out: NDArray[np.bool_]) -> None:
        if row.size == 0:
            return
        x1, y1, x2, y2 = row.box
        packed = np.frombuffer(self.payload, np.uint8, row.size, row.offset).reshape(y2 - y1, -1)
        out[y1:y2, x1:x2] = np.unpackbits(packed, axis=1, count=x2 - x1).view(np.bool_)


@dataclass(frozen=True, slots=True)
class StateMessage:
    """How a source is doing, and what its class ids mean."""

    source_id: str
    epoch: int
    state: str
    """`connecting`, `streaming`, `stale`, `frozen`, `reconnecting`, `ended` or `failed`; a newer
    publisher may say more."""
    last_seq: int | None
    """`seq` of the last result made; None before the first."""
    class_names: tuple[str, ...]
    published_unix_ns: int


Message = ResultMessage | StateMessage
