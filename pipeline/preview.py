"""The picture that a run leaves behind: one frame with its masks in colour, ids and scores."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.painting import colour_of, fill, tag
from stages.packets import HostPacket
from stages.records import Frame


class Preview:
    """A sink that remembers the candidate frame with most objects and draws it when closed.

    The frame stays on the device until then: one reference, one copy at the very end.
    """

    def __init__(self, path: Path, every: int, class_names: tuple[str, ...]) -> None:
        self.wants_masks = False
        self._path = path
        self._every = every
        self._class_names = class_names
        self._candidates: dict[int, Frame] = {}
        self._best: tuple[Frame, HostPacket] | None = None

    def offer(self, frame: Frame) -> None:
        """Called by the frame loop before each frame; every n-th becomes a candidate."""
        self.wants_masks = frame.frame_id % self._every == 0
        if self.wants_masks:
            self._candidates[frame.frame_id] = frame

    def write(self, packet: HostPacket) -> None:
        for earlier in [key for key in list(self._candidates) if key < packet.info.frame_id]:
            del self._candidates[earlier]  # dropped on its way: no packet will ask for it
        frame = self._candidates.pop(packet.info.frame_id, None)
        if frame is None or packet.masks is None:
            return
        if self._best is None or len(packet.object_ids) >= len(self._best[1].object_ids):
            self._best = (frame, packet)

    def poll(self) -> None:
        """Nothing to look after."""

    def close(self) -> None:
        """Write the picture, if there was a frame; atomically."""
        if self._best is None:
            return
        frame, packet = self._best
        pixels = frame.rgb.permute(1, 2, 0).cpu().numpy()
        temporary = self._path.with_suffix(".tmp.png")
        draw(pixels, of_region(packet), self._class_names).save(temporary)
        os.replace(temporary, self._path)


def of_region(packet: HostPacket) -> HostPacket:
    """`packet` as it would be of a source that has nothing but the region, for drawing on it."""
    window = packet.info.window
    y, x = window.origin_yx
    return replace(
        packet,
        info=replace(packet.info, size_hw=window.size_hw, region=None),
        mask_boxes_xyxy=packet.mask_boxes_xyxy - np.array([x, y, x, y], np.int32),
        centroids_xy=packet.centroids_xy - np.array([x, y], np.float32),
    )


def draw(
    pixels: NDArray[np.uint8], packet: HostPacket, class_names: tuple[str, ...]
) -> Image.Image:
    """`pixels` uint8 (H, W, 3) with each mask of `packet`, whose full picture they are, filled,
    outlined and labelled."""
    masks = [packet.mask(row) for row in range(len(packet.object_ids))]
    colours = [colour_of(int(class_id), row) for row, class_id in enumerate(packet.class_ids)]
    image = fill(pixels, masks, colours)
    for row, colour in enumerate(colours):
        if masks[row].any():  # out of sight its label would have no place
            x, y = int(packet.mask_boxes_xyxy[row, 0]), int(packet.mask_boxes_xyxy[row, 1])
            tag(image, (x, y), label(packet, row, class_names), colour)
    return image


def label(packet: HostPacket, row: int, class_names: tuple[str, ...]) -> str:
    """`#id name score` of one object."""
    name = packet.label(row, class_names) or f"class {packet.class_ids[row]}"
    return f"#{packet.object_ids[row]} {name} {packet.scores[row]:.2f}"
