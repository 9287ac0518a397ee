"""The host side of a result, in numpy only: what a subscriber needs never imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stages.ring_place import RingPlace
from stages.window import Window, whole

RESULT_SCHEMA = 1
Identity = Literal["tracked", "none"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Record:
    """Shape-only `repr`, so that printing a record never reads the device."""

    def __repr__(self) -> str:
        shown = ", ".join(f"{f.name}={_brief(getattr(self, f.name))}" for f in fields(self))
        return f"{type(self).__name__}({shown})"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PacketInfo(Record):
    """What the host knows of a result without asking the device."""

    source_id: str
    epoch: int
    frame_id: int
    captured_ns: int
    grabbed_ns: int
    captured_unix_ns: int | None
    size_hw: tuple[int, int]
    """Of the source's full picture."""
    spacing_mm: tuple[float, float] | None
    pose: NDArray[np.float64] | None
    identity: Identity
    """`tracked`, or `none` while each frame is segmented afresh."""
    stale: bool = False
    schema: int = RESULT_SCHEMA
    region: Window | None = None
    """The part of the picture that was segmented; None: all of it."""

    @property
    def window(self) -> Window:
        """The part of the picture that was segmented, which is the size of every mask in memory."""
        return whole(self.size_hw) if self.region is None else self.region


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class HostPacket(Record):
    """A `ResultPacket` in numpy, cut to its valid rows (n of them); made by `ToHost` alone
    (and by the legacy `as_numpy` chain, which works on the host from Segment on).

    Boxes and centroids are those of the full picture; `masks` are as large as `info.window`.
    """

    info: PacketInfo
    object_ids: NDArray[np.int64]
    class_ids: NDArray[np.int32]
    scores: NDArray[np.float32]
    presence: NDArray[np.float32]
    quality: NDArray[np.float32]
    mask_age_frames: NDArray[np.int32]
    mask_boxes_xyxy: NDArray[np.int32]
    area_px: NDArray[np.int32]
    centroids_xy: NDArray[np.float32]
    masks: NDArray[np.uint8] | None = None
    """uint8 (n, H, ceil(W / 8)), (H, W) of `info.window`; None when no consumer asked for them."""
    logits: NDArray[np.float32] | None = None
    feedback: NDArray[np.int64] | None = None
    """int64 (F,), for the segmenter that it came from; leaves the process with nobody."""
    ring: RingPlace | None = None
    """Where the masks lie on the device for other processes, if they do."""
    names: Mapping[int, str] = field(default_factory=dict)
    """What people call objects, by object id; see `label`."""

    def label(self, row: int, class_names: Sequence[str]) -> str | None:
        """What a row is called: by people, else by its class; None where neither is known."""
        class_id = int(self.class_ids[row])
        known = class_names[class_id] if 0 <= class_id < len(class_names) else None
        return self.names.get(int(self.object_ids[row]), known)

    def mask(self, row: int) -> NDArray[np.bool_]:
        """The bool (H, W) mask of one row in the full picture; raises `ValueError` where the
        packet carries none."""
        if self.masks is None:
            raise ValueError("this packet carries no masks")
        window = self.info.window
        inside = np.unpackbits(self.masks[row], axis=-1, count=window.size_hw[1])
        return window.place(inside.astype(np.bool_))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Truth(Record):
    """What a synthetic source knows to be in one of its frames."""

    frame_id: int
    object_ids: NDArray[np.int64]
    class_ids: NDArray[np.int32]
    masks: NDArray[np.bool_]
    """bool (n, H, W), visible pixels, disjoint."""
    counted: NDArray[np.bool_]
    """bool (n,), large and thick enough to be judged by."""


def in_full_picture(
    window: Window, boxes_xyxy: NDArray[np.int32], centroids_xy: NDArray[np.float32]
) -> dict[str, NDArray[Any]]:
    """`mask_boxes_xyxy` and `centroids_xy` of a `HostPacket`, from int32 (n, 4) and float32 (n, 2)
    in pixels of ``window``; those of empty masks stay 0."""
    y, x = window.origin_yx
    if not y | x:
        return {"mask_boxes_xyxy": boxes_xyxy, "centroids_xy": centroids_xy}
    some = boxes_xyxy[:, 2:3] > boxes_xyxy[:, :1]
    moved = boxes_xyxy + some * np.array([x, y, x, y], np.int32)
    centres = centroids_xy + some * np.array([x, y], np.float32)
    return {"mask_boxes_xyxy": moved, "centroids_xy": centres}


def _brief(value: object) -> str:
    shape = getattr(value, "shape", None)
    return repr(value) if shape is None else f"{getattr(value, 'dtype', '')}{tuple(shape)}"
