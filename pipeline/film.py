"""The short film that a run leaves behind: its last frames with their masks, at half size."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from pipeline.film_encoder import FilmEncoder
from pipeline.preview import draw, of_region
from stages.packets import HostPacket
from stages.records import Frame

_MOST_FPS, _LEAST_FPS = 60, 1


class Film:
    """A sink that keeps the last `frames` frames and their packets, and encodes them when closed.

    Frames stay on the device until then (one reference each); masks are asked for every frame.
    """

    wants_masks = True

    def __init__(self, path: Path, frames: int, class_names: tuple[str, ...]) -> None:
        self._path = path
        self._class_names = class_names
        self._offered: deque[Frame] = deque(maxlen=frames + 16)
        self._kept: deque[tuple[Frame, HostPacket]] = deque(maxlen=frames)

    def offer(self, frame: Frame) -> None:
        """Called by the frame loop before each frame."""
        self._offered.append(frame)

    def write(self, packet: HostPacket) -> None:
        for frame in list(self._offered):
            if frame.frame_id == packet.info.frame_id and packet.masks is not None:
                self._kept.append((frame, packet))
        while self._offered and self._offered[0].frame_id <= packet.info.frame_id:
            self._offered.popleft()

    def poll(self) -> None:
        """Nothing to look after."""

    def close(self) -> None:
        """Write the film, if there were two frames of one size; atomically."""
        shown = [item for item in self._kept if item[0].size_hw == self._kept[-1][0].size_hw]
        if len(shown) < 2:
            return
        temporary = self._path.with_suffix(".tmp.mp4")
        height, width = shown[0][0].size_hw
        with FilmEncoder(temporary, (height // 2, width // 2), _rate(shown)) as film:
            for frame, packet in shown:
                film.add(self._picture(frame, packet))
        os.replace(temporary, self._path)

    def _picture(self, frame: Frame, packet: HostPacket) -> np.ndarray:
        pixels = frame.rgb[:, ::2, ::2].permute(1, 2, 0).cpu().numpy()
        return np.asarray(draw(pixels, halved(of_region(packet)), self._class_names))


def halved(packet: HostPacket) -> HostPacket:
    """`packet` as it would be of a frame of half the height and width, for drawing."""
    masks = [packet.mask(row)[::2, ::2] for row in range(len(packet.object_ids))]
    height, width = packet.info.size_hw
    size = (-(-height // 2), -(-width // 2))
    stacked = np.array(masks, dtype=np.bool_).reshape(len(masks), *size)
    return replace(
        packet,
        info=replace(packet.info, size_hw=size),
        mask_boxes_xyxy=packet.mask_boxes_xyxy // 2,
        masks=np.packbits(stacked, axis=-1),
    )


def _rate(shown: list[tuple[Frame, HostPacket]]) -> Fraction:
    """Frames a second, from when they were captured."""
    span = (shown[-1][0].captured_ns - shown[0][0].captured_ns) / 1e9
    rate = (len(shown) - 1) / span if span > 0 else _MOST_FPS
    return Fraction(round(min(max(rate, _LEAST_FPS), _MOST_FPS)))
