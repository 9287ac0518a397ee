"""What a subscriber gets out of one message: typed records, masks unpacked when asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stages.packets import Identity
from stages.wire_masks import Box, LogitsArray, MaskRow, WireError, mask_of_logits, mask_of_row

__all__ = [
    "Box",
    "KpiMessage",
    "LogitsArray",
    "MaskRow",
    "Message",
    "ObjectResult",
    "PictureMessage",
    "ResultMessage",
    "StateMessage",
    "WireError",
]


@dataclass(frozen=True, slots=True)
class ObjectResult:
    """One object of a result. It is the same object as another one only where source_id, run,
    epoch and id all agree, and the message's `identity` is `tracked`."""

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
    """Too old to be taken for live when it was published, or of an epoch that was over."""
    identity: Identity
    objects: tuple[ObjectResult, ...]
    mask_rows: tuple[MaskRow, ...] | None
    """One an object; None where the message carries no masks, or logits instead."""
    payload: memoryview = field(repr=False)
    logits_array: LogitsArray | None = None
    """Where the logits lie that came instead of masks."""
    run: int = 0
    """Of the publisher's life: another run's objects are others, though epoch and id be equal."""
    replay: bool = False
    """Recorded, and sent again: never live, and `stale` too."""

    @property
    def has_masks(self) -> bool:
        """Whether `mask` and `masks` have something to unpack."""
        return self.mask_rows is not None or self.logits_array is not None

    def age_ns(self, now_unix_ns: int) -> int:
        """Nanoseconds from the picture's capture to `now_unix_ns` on the publisher's Unix clock.

        The way to publishing is measured on one monotonic clock; only what follows depends on
        the two hosts' Unix clocks agreeing.
        """
        return self.published_ns - self.captured_ns + now_unix_ns - self.published_unix_ns

    def mask(self, row: int) -> NDArray[np.bool_]:
        """bool (H, W) mask of `objects[row]`, unpacked by this call; raises `ValueError` where
        there are no masks, `WireError` where the message lied about one."""
        out = np.zeros(self.size_hw, np.bool_)
        self._unpack(row, out)
        return out

    def masks(self) -> NDArray[np.bool_]:
        """bool (n, H, W), a row an object; errors as in `mask`."""
        if not self.has_masks:
            raise ValueError("this message carries no masks")
        out = np.zeros((len(self.objects), *self.size_hw), np.bool_)
        for row, plane in enumerate(out):
            self._unpack(row, plane)
        return out

    def logits(self) -> NDArray[np.float32]:
        """float32 (n, h, w), a row an object, a view of the message; what they cover of the picture
        stands in `logits_array`. Raises `ValueError` where there are none."""
        if self.logits_array is None:
            raise ValueError("this message carries no logits")
        return self.logits_array.read(self.payload)

    def _unpack(self, row: int, out: NDArray[np.bool_]) -> None:
        if self.mask_rows is not None:
            mask_of_row(self.mask_rows[row], self.payload, out)
        elif self.logits_array is not None:
            mask_of_logits(self.logits()[row], self.logits_array, out)
        else:
            raise ValueError("this message carries no masks")


@dataclass(frozen=True, slots=True)
class StateMessage:
    """How a source is doing, and what its class ids mean."""

    source_id: str
    epoch: int
    state: str
    """`connecting`, `streaming`, `stale`, `frozen`, `reconnecting`, `ended`, `failed` or `replay`;
    a newer publisher may say more."""
    last_seq: int | None
    """`seq` of the last result made; None before the first."""
    class_names: tuple[str, ...]
    published_unix_ns: int
    run: int = 0
    """As in a result."""


@dataclass(frozen=True, slots=True)
class KpiMessage:
    """One event of the run, or the figures of one second."""

    source_id: str
    event: str
    """Its name, as in `kpi.jsonl`."""
    published_unix_ns: int
    line: bytes
    """The event as one JSON object, as a line of `kpi.jsonl`."""


@dataclass(frozen=True, slots=True, eq=False)
class PictureMessage:
    """A picture for viewers, made of a frame that was taken in."""

    source_id: str
    epoch: int
    frame_id: int
    """That of the result of the same frame."""
    captured_ns: int
    """The publisher's monotonic clock, as is `published_ns`."""
    captured_unix_ns: int | None
    published_ns: int
    published_unix_ns: int
    size_hw: tuple[int, int]
    """Of the source's full picture."""
    box: Box
    """What of it the picture shows: its region, where one was configured."""
    jpeg: memoryview = field(repr=False)
    """A JPEG file (JFIF), in colour, as large as `box`."""


Message = ResultMessage | StateMessage | KpiMessage | PictureMessage
