"""The records that flow from stage to stage, one way, each holding the one it was made from.

Shapes are fixed for a run: K = `max_detections`, N = `max_objects`, (H, W) = the frame's size,
(h, w) = the segmenter's low-resolution logits. D is the configured device. A record checks
metadata only (ndim, dtype, device, lengths), never values: a value check would make the host
wait for the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.packets import HostPacket, Identity, PacketInfo, Record, Truth
from stages.ring_place import RingPlace
from stages.window import Window

__all__ = [
    "EMPTY_SLOT",
    "Detections",
    "Frame",
    "HostPacket",
    "HostTracks",
    "Identity",
    "PacketInfo",
    "Record",
    "ResultPacket",
    "Tracks",
    "Truth",
]

EMPTY_SLOT = -1


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Frame(Record):
    """One picture on the device."""

    rgb: Tensor
    """uint8 (3, H, W) on D; may be an expanded view of one grey plane."""
    source_id: str
    epoch: int
    """Raised by a reconnect, a seek, or a change of size."""
    frame_id: int
    """Counts grabbed frames of the run from 0; a gap is a drop."""
    captured_ns: int
    """Monotonic clock, nanoseconds, when the picture was taken (or first seen here)."""
    grabbed_ns: int
    """Monotonic clock, nanoseconds, when the whole picture was in host memory."""
    captured_unix_ns: int | None = None
    """Unix time in nanoseconds, from the source where it has one."""
    spacing_mm: tuple[float, float] | None = None
    """(y, x) millimetres per pixel."""
    pose: NDArray[np.float64] | None = None
    """(4, 4) image-to-world of the source's full picture, on the host."""
    origin_yx: tuple[int, int] = (0, 0)
    """Where `rgb` begins in that picture."""
    full_hw: tuple[int, int] | None = None
    """Size of that picture; None: `rgb` shows all of it."""
    boxes: NDArray[np.float32] | None = None
    """(n, 6), on the host: what came with it, unchecked, see `stages.found_boxes`."""

    def __post_init__(self) -> None:
        _check("rgb", self.rgb, torch.uint8, (3, None, None), self.rgb)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Of `rgb`; every coordinate on the device counts in its pixels."""
        return int(self.rgb.shape[1]), int(self.rgb.shape[2])

    @property
    def window(self) -> Window:
        """The part of the source's picture that `rgb` shows."""
        return Window(self.size_hw, self.origin_yx, self.full_hw or self.size_hw)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Detections(Record):
    """K candidate boxes, best first; rows with `valid` False are padding."""

    frame: Frame
    boxes_xyxy: Tensor
    """float32 (K, 4), frame pixels, x1 <= x2, y1 <= y2."""
    scores: Tensor
    """float32 (K,), 0..1."""
    class_ids: Tensor
    """int32 (K,), 0..number of classes - 1."""
    valid: Tensor
    """bool (K,)."""
    computed: bool
    """False between key frames: no detections is not the same as none looked for."""

    def __post_init__(self) -> None:
        rgb, k = self.frame.rgb, self.valid.shape[0]
        _check("boxes_xyxy", self.boxes_xyxy, torch.float32, (k, 4), rgb)
        _check("scores", self.scores, torch.float32, (k,), rgb)
        _check("class_ids", self.class_ids, torch.int32, (k,), rgb)
        _check("valid", self.valid, torch.bool, (k,), rgb)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Encoded(Record):
    """Detections together with the picture as the segmenter's model sees it."""

    detections: Detections
    features: object
    """The segmenter's own; it depends on the picture alone."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Tracks(Record):
    """N object slots with their masks as logits."""

    detections: Detections
    logits: Tensor
    """float32 (N, h, w); > mask_threshold is foreground."""
    object_ids: Tensor
    """int64 (N,); EMPTY_SLOT marks an empty slot."""
    presence: Tensor
    """float32 (N,), the model's object score (logit)."""
    quality: Tensor
    """float32 (N,), predicted IoU, 0..1."""
    age_frames: Tensor
    """int32 (N,), frames since the mask was computed from the stream's newest frame."""
    scores: Tensor
    """float32 (N,), score of the last detection behind the slot; 1 for a prompt."""
    class_ids: Tensor
    """int32 (N,); the detector's classes, then the configured prompts; -1 in an empty slot."""
    valid: Tensor
    """bool (N,)."""
    feedback: Tensor | None = None
    """int64 (F,), what the segmenter tells its host side through the header, in its own form."""

    def __post_init__(self) -> None:
        rgb, n = self.detections.frame.rgb, self.valid.shape[0]
        _check("logits", self.logits, torch.float32, (n, None, None), rgb)
        _check("object_ids", self.object_ids, torch.int64, (n,), rgb)
        for name in ("presence", "quality", "scores"):
            _check(name, getattr(self, name), torch.float32, (n,), rgb)
        for name in ("age_frames", "class_ids"):
            _check(name, getattr(self, name), torch.int32, (n,), rgb)
        _check("valid", self.valid, torch.bool, (n,), rgb)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ResultPacket(Record):
    """The finished result on the device: a row a slot, no pixels.

    (H, W) is the size of `info.window`, in whose pixels boxes and centroids count here; the host
    moves them to the full picture (see `HostPacket`).
    """

    info: PacketInfo
    object_ids: Tensor
    """int64 (N,); EMPTY_SLOT marks an empty slot."""
    class_ids: Tensor
    """int32 (N,)."""
    scores: Tensor
    """float32 (N,)."""
    presence: Tensor
    """float32 (N,)."""
    quality: Tensor
    """float32 (N,)."""
    mask_age_frames: Tensor
    """int32 (N,)."""
    mask_boxes_xyxy: Tensor
    """int32 (N, 4), tight and half-open in frame pixels: columns x1..x2-1; zeros when empty."""
    area_px: Tensor
    """int32 (N,)."""
    centroids_xy: Tensor
    """float32 (N, 2), frame pixels, mean of the mask's pixel centres; zeros when empty."""
    valid: Tensor
    """bool (N,)."""
    masks: Tensor
    """uint8 (N, H, ceil(W / 8)), full resolution, `numpy.packbits` order, rows padded with 0."""
    logits: Tensor | None = None
    """float32 (N, h, w), only where the configuration asks for them."""
    feedback: Tensor | None = None
    """int64 (F,), of `Tracks`."""
    ring: RingPlace | None = None
    """Where `masks` was put for other processes to read, see `stages/mask_ring.py`."""

    def __post_init__(self) -> None:
        n, (height, width) = self.valid.shape[0], self.info.window.size_hw
        _check("object_ids", self.object_ids, torch.int64, (n,), self.valid)
        for name in ("class_ids", "mask_age_frames", "area_px"):
            _check(name, getattr(self, name), torch.int32, (n,), self.valid)
        for name in ("scores", "presence", "quality"):
            _check(name, getattr(self, name), torch.float32, (n,), self.valid)
        _check("mask_boxes_xyxy", self.mask_boxes_xyxy, torch.int32, (n, 4), self.valid)
        _check("centroids_xy", self.centroids_xy, torch.float32, (n, 2), self.valid)
        _check("valid", self.valid, torch.bool, (n,), self.valid)
        _check("masks", self.masks, torch.uint8, (n, height, -(-width // 8)), self.valid)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class HostTracks(Record):
    """What the legacy `as_numpy` exit hands on: the slots on the host."""

    frame: Frame
    masks: tuple[NDArray[np.bool_], ...]
    """One bool (H, W) array a valid object."""
    object_ids: NDArray[np.int64]
    class_ids: NDArray[np.int32]
    scores: NDArray[np.float32]
    presence: NDArray[np.float32]
    quality: NDArray[np.float32]
    age_frames: NDArray[np.int32]
    feedback: NDArray[np.int64] | None = None
    """int64 (F,), of `Tracks`."""


def _check(
    name: str, value: Tensor, dtype: torch.dtype, shape: tuple[int | None, ...], like: Tensor
) -> None:
    fits = value.ndim == len(shape) and all(
        want is None or want == have for want, have in zip(shape, value.shape, strict=True)
    )
    if not fits or value.dtype != dtype or value.device != like.device:
        raise ValueError(
            f"{name}: got {value.dtype} {tuple(value.shape)} on {value.device}, "
            f"expected {dtype} {shape} on {like.device}"
        )
