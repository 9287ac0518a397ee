"""Overlaps, one-to-one matching, and a detector's recall and precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from stages.sources.phantom_scene import CLASS_NAMES, SceneTruth
from tools.phantom_clips import mask_boxes

if TYPE_CHECKING:
    from tools.evaluate import Detected

SCORES: Final = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)


def mask_iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """IoU of two masks (H, W); 1 where both are empty."""
    union = int(np.count_nonzero(one | other))
    return float(np.count_nonzero(one & other)) / union if union else 1.0


def box_ious(some: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """IoU (n, m) of boxes (n, 4) and (m, 4), x0 y0 x1 y1."""
    low = np.maximum(some[:, None, :2], others[None, :, :2])
    high = np.minimum(some[:, None, 2:], others[None, :, 2:])
    overlap = np.clip(high - low, 0, None).prod(2)
    areas = [np.clip(b[:, 2:] - b[:, :2], 0, None).prod(1) for b in (some, others)]
    union = areas[0][:, None] + areas[1][None] - overlap
    ious: NDArray[np.float64] = overlap / np.maximum(union, 1e-9)
    return ious


def matched(overlaps: NDArray[np.float64], least: float) -> dict[int, int]:
    """Row to column, each used once, the largest overlap first, none below ``least``."""
    left, pairs = overlaps.copy(), {}
    while left.size and left.max() >= least:
        row, column = np.unravel_index(int(left.argmax()), left.shape)
        pairs[int(row)] = int(column)
        left[row], left[:, column] = -1, -1
    return pairs


def detector_scores(frames: list[tuple[SceneTruth, Detected]]) -> dict[str, Any]:
    """Recall and precision at box IoU 0.5, class by class, for several thresholds.

    A detection on an object that is visible but not counted is neither right nor wrong;
    ``strict_precision`` calls it wrong.
    """
    return {str(score): _at(frames, score) for score in SCORES}


def _at(frames: list[tuple[SceneTruth, Detected]], min_score: float) -> dict[str, Any]:
    truths, hits, excused, made = np.zeros((4, len(CLASS_NAMES)), np.int64)
    for truth, detected in frames:
        keep = detected.scores >= min_score
        boxes = mask_boxes(truth.masks)
        overlaps = box_ious(boxes, detected.boxes[keep])
        overlaps *= truth.class_ids[:, None] == detected.class_ids[keep][None]
        counted = np.flatnonzero(truth.counted)
        pairs = matched(overlaps[counted], least=0.5)
        for row in pairs:
            hits[truth.class_ids[counted[row]]] += 1
        rest = np.delete(overlaps[~truth.counted], list(pairs.values()), axis=1)
        for row in matched(rest, least=0.3):
            excused[truth.class_ids[~truth.counted][row]] += 1
        np.add.at(truths, truth.class_ids[counted], 1)
        np.add.at(made, detected.class_ids[keep], 1)
    return {
        "recall": _shares(hits, truths),
        "precision": _shares(hits, made - excused),
        "strict_precision": _shares(hits, made),
    }


def _shares(part: NDArray[np.int64], whole: NDArray[np.int64]) -> dict[str, float]:
    shares = {"all": float(part.sum() / max(int(whole.sum()), 1))}
    for name, p, w in zip(CLASS_NAMES, part, whole, strict=True):
        shares[name] = float(p / max(int(w), 1))
    return {name: round(value, 4) for name, value in shares.items()}
