"""Masks against the truth that a synthetic source knows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.identity import IdentityCheck
from stages.base import TruthSource
from stages.packets import HostPacket, Truth

MATCH_IOU = 0.5
_STAYS: Final = 3.0
"""Weight of a pair that held on the last frame: above 1 / `MATCH_IOU` no new pair outbids it."""


class QualityCheck:
    """A sink that asks the source for the truth of every published frame.

    Each counted truth object is paired with at most one result of its class (a prompted result
    has none and fits any), the pairs with the highest mask IoU first. Its IoU enters the mean; a
    miss counts 0. Recall is the share with IoU >= 0.5. A result that fits no counted object is a
    false alarm, unless it lies on a truth object too small to be counted, or its mask is empty:
    an object out of sight.
    """

    wants_masks = True

    def __init__(self, source: TruthSource, class_names: tuple[str, ...]) -> None:
        self._source = source
        self._class_names = class_names
        self._sums: defaultdict[int, NDArray[np.float64]] = defaultdict(lambda: np.zeros(3))
        self._results = 0
        self._false_alarms = 0
        self._tracked = False
        self.identity = IdentityCheck()

    def write(self, packet: HostPacket) -> None:
        if packet.masks is None:
            raise ValueError("a truth check needs packets with masks")
        self._tracked = packet.info.identity == "tracked"
        truth = self._source.truth(packet.info.frame_id)
        window = packet.info.window
        seen = [window.cut(mask) for mask in truth.masks]
        inside = np.array(seen, np.bool_).reshape(len(seen), *window.size_hw)
        iou = mask_iou(np.packbits(inside, axis=-1), packet.masks)
        same_class = truth.class_ids[:, None] == packet.class_ids[None, :]
        prompted = packet.class_ids >= len(self._class_names)
        iou = np.where(same_class | prompted[None, :], iou, 0.0)
        pairs = match(iou)
        self._count_truth(truth, pairs)
        standing = _matched_ids(truth, iou, packet.object_ids, self.identity.stands_for)
        self.identity.frame(packet.info.frame_id, standing)
        shown = [row for row, mask in enumerate(packet.masks) if mask.any()]
        self._count_results(truth, pairs, shown)

    def poll(self) -> None:
        """Nothing to look after."""

    def close(self) -> None:
        """Nothing to release."""

    def summary(self) -> dict[str, object]:
        """Mean IoU, recall and precision, over all and per class; None without truth objects."""
        total = sum(self._sums.values(), start=np.zeros(3))
        found = self._results - self._false_alarms
        return {
            "mean_iou": _ratio(total[1], total[0]),
            "recall": _ratio(total[2], total[0]),
            "precision": _ratio(found, self._results),
            "id_switches": self.identity.switches if self._tracked else None,
            "id_switches_per_100_frames": (
                self.identity.switches_per_100_frames if self._tracked else None
            ),
            "occlusion_id_kept": self.identity.occlusion_id_kept if self._tracked else None,
            "occlusions": self.identity.occlusions if self._tracked else None,
            "object_frames": int(total[0]),
            "per_class": {
                self._name(class_id): {
                    "mean_iou": _ratio(sums[1], sums[0]),
                    "recall": _ratio(sums[2], sums[0]),
                    "object_frames": int(sums[0]),
                }
                for class_id, sums in sorted(self._sums.items())
            },
        }

    def _name(self, class_id: int) -> str:
        """The detector's word; a run without one knows none for the truth's classes."""
        known = class_id < len(self._class_names)
        return self._class_names[class_id] if known else f"class {class_id}"

    def _count_truth(self, truth: Truth, pairs: dict[int, tuple[int, float]]) -> None:
        for row in np.flatnonzero(truth.counted):
            iou = pairs.get(int(row), (-1, 0.0))[1]
            self._sums[int(truth.class_ids[row])] += (1.0, iou, float(iou >= MATCH_IOU))

    def _count_results(
        self, truth: Truth, pairs: dict[int, tuple[int, float]], shown: list[int]
    ) -> None:
        fits = {column for column, iou in pairs.values() if iou >= MATCH_IOU}
        small = {column for row, (column, _) in pairs.items() if not truth.counted[row]}
        judged = set(shown) - (small - fits)
        self._results += len(judged)
        self._false_alarms += len(judged - fits)


def _matched_ids(
    truth: Truth,
    iou: NDArray[np.float64],
    object_ids: NDArray[np.int64],
    before: Mapping[int, int],
) -> dict[int, int | None]:
    """The counted truth objects' ids with those of the results that stand for them.

    Who stood for an object `before` does so for as long as its IoU is at least `MATCH_IOU`, even
    where another result fits better (CLEAR MOT, Bernardin and Stiefelhagen 2008); the others are
    paired by falling IoU.
    """
    good = np.where(iou >= MATCH_IOU, iou, 0.0)
    for row, truth_id in enumerate(truth.object_ids.tolist()):
        good[row, object_ids == before.get(truth_id, -1)] *= _STAYS
    pairs = match(good)
    return {
        int(truth.object_ids[row]): int(object_ids[pairs[row][0]]) if row in pairs else None
        for row in np.flatnonzero(truth.counted).tolist()
    }


def mask_iou(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float64]:
    """IoU of every pair of bit-packed masks: (n, H, W8) and (m, H, W8) to float64 (n, m).

    Two empty masks have IoU 0.
    """
    size = a.shape[1] * a.shape[2]
    flat_a, flat_b = a.reshape(len(a), size), b.reshape(len(b), size)
    area_a = np.bitwise_count(flat_a).sum(axis=1, dtype=np.int64)
    area_b = np.bitwise_count(flat_b).sum(axis=1, dtype=np.int64)
    both = np.array(
        [[np.bitwise_count(row & col).sum(dtype=np.int64) for col in flat_b] for row in flat_a],
        dtype=np.int64,
    ).reshape(len(a), len(b))
    either = area_a[:, None] + area_b[None, :] - both
    iou: NDArray[np.float64] = both / np.maximum(either, 1)
    return iou


def match(iou: NDArray[np.float64]) -> dict[int, tuple[int, float]]:
    """Row → (column, IoU): pairs by falling IoU, each row and column once, IoU > 0."""
    pairs: dict[int, tuple[int, float]] = {}
    taken: set[int] = set()
    for flat in np.argsort(-iou, axis=None, kind="stable"):
        row, column = divmod(int(flat), iou.shape[1])
        if iou[row, column] <= 0:
            break
        if row not in pairs and column not in taken:
            pairs[row] = (column, float(iou[row, column]))
            taken.add(column)
    return pairs


def _ratio(part: float, whole: float) -> float | None:
    return round(float(part) / float(whole), 4) if whole else None
