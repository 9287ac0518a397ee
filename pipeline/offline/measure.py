"""From a mask to what is told of it: box, area, centre, run lengths."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.offline.records import MaskRecord
from stages.rle import Cut, paint, run_lengths


def measured(
    mask: NDArray[np.bool_],
    object_id: int,
    spacing_mm: tuple[float, float] | None = None,
    **more: object,
) -> MaskRecord:
    """The record of bool (H, W); `spacing_mm` (y, x) of a pixel; `more`: further fields."""
    columns, rows = mask.sum(axis=0), mask.sum(axis=1)
    area = int(rows.sum())
    box = centroid = None
    part = mask[:1, :1]
    if area:
        (x1, x2), (y1, y2) = _ends(columns), _ends(rows)
        box, part = (x1, y1, x2, y2), mask[y1:y2, x1:x2]
        centroid = (_mean(columns, area), _mean(rows, area))
    top, left = (0, 0) if box is None else (box[1], box[0])
    cut = Cut(np.packbits(part, axis=-1), part.shape[1], top, left)
    (counts,) = run_lengths([cut], (mask.shape[0], mask.shape[1]))
    mm2 = None if spacing_mm is None else round(area * spacing_mm[0] * spacing_mm[1], 6)
    return MaskRecord.model_validate(
        {"object": object_id, "box_xyxy": box, "area_px": area, "area_mm2": mm2,
         "centroid_xy": centroid, "rle": counts.decode(), **more}
    )  # fmt: skip


def mask_of(record: MaskRecord, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """bool (H, W): the mask that `record` was made from; raises `ValueError` for another text."""
    text = np.frombuffer(record.rle.encode(), np.uint8)
    mask = np.zeros(size_hw, np.bool_)
    paint(text, 0, size_hw[1], mask)
    return mask


def _ends(counts: NDArray[np.int_]) -> tuple[int, int]:
    """The first place with something, and one past the last."""
    hit = np.flatnonzero(counts)
    return int(hit[0]), int(hit[-1]) + 1


def _mean(counts: NDArray[np.int_], total: int) -> float:
    return round(float(counts @ (np.arange(len(counts)) + 0.5)) / total, 3)
