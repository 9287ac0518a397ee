"""Pack: the slots' logits become masks, boxes and areas at frame resolution, on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kpi.emit import emit
from kpi.events import SamMaskOutput
from stages.mask_upsampling import Foreground
from stages.packets import Identity, PacketInfo
from stages.records import Frame, ResultPacket, Tracks

# The bytes 0/1 of eight pixels, read as one little-endian integer, times this: pixel i lands on
# bit 63 - i, no two partial products meet, so byte 7 holds the pixels in `numpy.packbits` order.
_GATHER_BITS = 0x8040201008040201 - (1 << 64)
_LANE = 255
"""Most 0/1 bytes that can be added up in one byte."""


def packet_info(frame: Frame, identity: Identity) -> PacketInfo:
    """What the host knows of the result of `frame`."""
    window = frame.window
    return PacketInfo(
        source_id=frame.source_id,
        epoch=frame.epoch,
        frame_id=frame.frame_id,
        captured_ns=frame.captured_ns,
        grabbed_ns=frame.grabbed_ns,
        captured_unix_ns=frame.captured_unix_ns,
        size_hw=window.full_hw,
        spacing_mm=frame.spacing_mm,
        pose=frame.pose,
        identity=identity,
        region=None if window.is_whole else window,
    )


@dataclass(frozen=True, slots=True, eq=False)
class MaskShapes:
    """What is measured on n masks; zeros where a mask is empty."""

    boxes_xyxy: Tensor
    """int32 (n, 4), tight, half-open, in pixels of the mask."""
    area_px: Tensor
    """int32 (n,)."""
    centroids_xy: Tensor
    """float32 (n, 2); the centre of pixel (0, 0) is (0.5, 0.5)."""


class Pack:
    """Tracks to ResultPacket; nothing is read back, every shape is fixed by the frame's size."""

    def __init__(self, threshold: float, identity: Identity = "none", logits: bool = False) -> None:
        """`threshold`: the logit above which a pixel is foreground. `identity`: the segmenter's.
        `logits`: whether packets carry the low-resolution logits too.
        """
        self._threshold = threshold
        self._identity = identity
        self._logits = logits
        self._foreground: Foreground | None = None

    @torch.inference_mode()
    def pack(self, tracks: Tracks) -> ResultPacket:
        """The finished result; rows that are not valid have empty masks.

        The first frame of a size makes constants of that size.
        """
        frame, logits = tracks.detections.frame, tracks.logits
        foreground = self._foreground
        if foreground is None or not foreground.fits(logits, frame.size_hw):
            foreground = self._foreground = Foreground(logits, frame.size_hw)
        pixels = foreground.pixels(logits, tracks.valid, self._threshold)
        shapes = measure(pixels)
        emit(SamMaskOutput(as_numpy=0, device=str(logits.device), objects=logits.shape[0]))
        return ResultPacket(
            info=packet_info(frame, self._identity),
            object_ids=tracks.object_ids,
            class_ids=tracks.class_ids,
            scores=tracks.scores,
            presence=tracks.presence,
            quality=tracks.quality,
            mask_age_frames=tracks.age_frames,
            mask_boxes_xyxy=shapes.boxes_xyxy,
            area_px=shapes.area_px,
            centroids_xy=shapes.centroids_xy,
            valid=tracks.valid,
            masks=pack_bits(pixels),
            logits=logits if self._logits else None,
            feedback=tracks.feedback,
        )


def pack_bits(pixels: Tensor) -> Tensor:
    """bool (n, H, 8 b) to uint8 (n, H, b), as `numpy.packbits` along the last axis.

    Raises `RuntimeError` where the last axis is not a contiguous multiple of 8.
    """
    return (pixels.view(torch.int64) * _GATHER_BITS).view(torch.uint8)[..., 7::8].contiguous()


def measure(pixels: Tensor) -> MaskShapes:
    """Boxes, areas and centroids of bool (n, H, 8 b), contiguous."""
    rows, columns = _row_counts(pixels), _column_counts(pixels)
    area = rows.sum(-1, dtype=torch.int64)
    (x1, x2, x), (y1, y2, y) = _extent(columns, area), _extent(rows, area)
    return MaskShapes(
        boxes_xyxy=torch.stack((x1, y1, x2, y2), dim=-1),
        area_px=area.int(),
        centroids_xy=torch.stack((x, y), dim=-1),
    )


def _row_counts(pixels: Tensor) -> Tensor:
    """int32 (n, H): foreground pixels of each row, eight columns added at a time."""
    words = pixels.view(torch.int64).split(_LANE, dim=2)
    return torch.stack([_lanes(part.sum(2, keepdim=True)).sum(-1) for part in words]).sum(
        0, dtype=torch.int32
    )


def _column_counts(pixels: Tensor) -> Tensor:
    """int32 (n, 8 b): foreground pixels of each column, eight columns added at a time."""
    words = pixels.view(torch.int64).split(_LANE, dim=1)
    return torch.stack([_lanes(part.sum(1)) for part in words]).sum(0, dtype=torch.int32)


def _lanes(sums: Tensor) -> Tensor:
    return sums.view(torch.uint8)


def _extent(counts: Tensor, area: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """First, one past last (int32) and mean pixel centre (float32) of int32 counts (n, L)."""
    length = counts.shape[1]
    place = torch.arange(length, dtype=torch.int32, device=counts.device)
    hit = counts > 0
    last = (hit * (place + 1)).amax(1)
    first = torch.where(last > 0, length - (hit * (length - place)).amax(1), 0).int()
    total = (counts * place.long()).sum(1)
    centre = torch.where(area > 0, total / area.clamp(min=1) + 0.5, 0.0)
    return first, last, centre
