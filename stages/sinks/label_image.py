"""Masks as one picture of labels: `Labels`, `label_image`."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from stages.packets import HostPacket

LABELS: Final = 255
"""1 to 255; 0 is the background."""


class Labels:
    """Which label stands for which object, for as long as it is followed.

    The label of object ``object_id`` is ``object_id % 255 + 1``, or, where another object has
    that one, the next that is free. Frames that are segmented afresh (`identity` is `none`) have
    no lasting objects: their labels are 1, 2, 3, …
    """

    def __init__(self) -> None:
        self._epoch: int | None = None
        self._held: dict[int, int] = {}

    def of(self, packet: HostPacket) -> NDArray[np.uint8]:
        """uint8 (n,), a label a row, 1 to 255; rows beyond the 255th get 0."""
        if packet.info.identity == "none":
            rows = np.arange(1, len(packet.object_ids) + 1)
            return np.where(rows <= LABELS, rows, 0).astype(np.uint8)
        ids = [int(each) for each in packet.object_ids]
        if packet.info.epoch != self._epoch:
            self._epoch, self._held = packet.info.epoch, {}
        self._held = {each: self._held[each] for each in ids if each in self._held}
        taken = set(self._held.values())
        for each in ids:
            if each not in self._held and len(taken) < LABELS:
                self._held[each] = _free(each % LABELS, taken)
                taken.add(self._held[each])
        return np.array([self._held.get(each, 0) for each in ids], np.uint8)


def label_image(packet: HostPacket, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 (H, W) of the full picture: each pixel has the label of the mask that it lies in, 0
    outside; where masks overlap, the smaller one is on top.

    ``labels`` (n,) has a label a row. Raises `ValueError` where the packet carries no masks.
    """
    if packet.masks is None:
        raise ValueError("this packet carries no masks")
    window = packet.info.window
    full = np.zeros(window.full_hw, np.uint8)
    inside = window.cut(full)
    oy, ox = window.origin_yx
    for row in np.argsort(-packet.area_px.astype(np.int64), kind="stable"):
        x1, y1, x2, y2 = packet.mask_boxes_xyxy[row] - np.array([ox, oy, ox, oy])
        if x2 <= x1 or y2 <= y1:
            continue
        first = x1 // 8
        packed = packet.masks[row, y1:y2, first : -(-x2 // 8)]
        bits = np.unpackbits(packed, axis=-1)[:, x1 - 8 * first : x2 - 8 * first]
        place = inside[y1:y2, x1:x2]
        place ^= (place ^ labels[row]) & np.negative(bits)  # a bit of 1 chooses the label
    return full


def _free(wish: int, taken: set[int]) -> int:
    """The first label from ``wish`` + 1 on, around the circle, that is not taken; one is free."""
    return next(
        label for step in range(LABELS) if (label := (wish + step) % LABELS + 1) not in taken
    )
