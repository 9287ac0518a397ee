"""The picture that a run leaves behind: one frame with its masks in colour, ids and scores."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from stages.packets import HostPacket
from stages.records import Frame

_FILL = 0.35
_GOLDEN_RATIO = 0.618034


class Preview:
    """A sink that remembers the candidate frame with most objects and draws it when closed.

    The frame stays on the device until then: one reference, one copy at the very end.
    """

    def __init__(self, path: Path, every: int, class_names: Sequence[str]) -> None:
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


def draw(pixels: NDArray[np.uint8], packet: HostPacket, class_names: Sequence[str]) -> Image.Image:
    """`pixels` uint8 (H, W, 3) with each mask of `packet`, whose full picture they are, filled,
    outlined and labelled."""
    canvas = pixels.astype(np.float32)
    masks = [packet.mask(row) for row in range(len(packet.object_ids))]
    colours = [_colour(int(class_id), row) for row, class_id in enumerate(packet.class_ids)]
    for mask, colour in zip(masks, colours, strict=True):
        canvas[mask] += _FILL * (np.array(colour, dtype=np.float32) - canvas[mask])
        canvas[_outline(mask)] = colour
    image = Image.fromarray(canvas.round().astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for row, colour in enumerate(colours):
        if not masks[row].any():
            continue  # out of sight: its label would have no place
        text = label(packet, row, class_names)
        x, y = int(packet.mask_boxes_xyxy[row, 0]), int(packet.mask_boxes_xyxy[row, 1])
        left, top, right, bottom = (round(edge) for edge in pen.textbbox((0, 0), text))
        width, height = right - left + 6, bottom - top + 6
        x = min(max(x, 0), max(image.width - width, 0))
        y = min(max(y - height - 2, 0), max(image.height - height, 0))
        pen.rectangle((x, y, x + width, y + height), fill=colour)
        pen.text((x + 3 - left, y + 3 - top), text, fill="black")
    return image


def label(packet: HostPacket, row: int, class_names: Sequence[str]) -> str:
    """`#id name score` of one object."""
    name = packet.label(row, class_names) or f"class {packet.class_ids[row]}"
    return f"#{packet.object_ids[row]} {name} {packet.scores[row]:.2f}"


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask's pixels with a 4-neighbour outside it."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _colour(class_id: int, row: int) -> tuple[int, int, int]:
    """A hue a class, a shade a row, so that neighbours of one class still differ."""
    hue = (0.08 + class_id * _GOLDEN_RATIO + (0.05 * row)) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)
