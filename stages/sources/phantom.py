"""The synthetic ultrasound stream as a source: `PhantomSource`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stages.base import Buffer, Picture
from stages.packets import Truth
from stages.sources.limits import Fps, SourceId
from stages.sources.pacing import PacedSource
from stages.sources.phantom_outline import is_counted
from stages.sources.phantom_scene import CLASS_NAMES, PhantomScene, SceneTruth
from stages.sources.region import SourceConfig, placed, window_in
from stages.window import Window

_Side = Annotated[int, Field(ge=96, le=4096, strict=True)]


class PhantomConfig(SourceConfig):
    """A synthetic scan with known truth."""

    kind: Literal["phantom"] = "phantom"
    source_id: SourceId = "phantom"
    seed: int = Field(default=0, ge=0, strict=True)
    """Seeds from 10000 on are kept for evaluation."""
    size_hw: tuple[_Side, _Side] = (480, 640)
    """(height, width) in pixels, each 96 to 4096."""
    view: Literal["convex", "linear", "auto"] = "auto"
    max_objects: int = Field(default=5, ge=1, le=5, strict=True)
    fps: Fps | None = 30.0
    """None: as fast as asked."""
    frames: int | None = Field(default=None, ge=1, strict=True)
    """Ends after so many pictures; None: never."""
    ahead: int = Field(default=0, ge=0, le=2000, strict=True)
    """So many pictures and their truth are made when the source opens, to leave the processor to
    the run; about 0.4 MB each at 480x640. Later ones are made as they are due."""


@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    """A picture made ahead, with its truth."""

    picture: NDArray[np.uint8]
    """What lies in the window."""
    object_ids: NDArray[np.int64]
    class_ids: NDArray[np.int32]
    packed: NDArray[np.uint8]
    """uint8 (n, H, ceil(W / 8)): the masks, an eighth of their size."""
    counted: NDArray[np.bool_]
    full_width: int

    def truth(self, frame_id: int) -> Truth:
        width = self.full_width
        masks = np.unpackbits(self.packed, axis=-1, count=width).view(np.bool_)
        return Truth(frame_id, self.object_ids, self.class_ids, masks, self.counted)


class PhantomSource(PacedSource):
    """Grey pictures of a `PhantomScene`, frame 0 first; a `TruthSource`.

    With a rate it keeps the schedule of a live camera: picture n is due n / fps seconds after
    the first. Pictures due in the past are delivered at once, one by one, none left out. A
    picture counts as captured when it is delivered, for it shows nothing that existed before.
    The epoch stays 0. Of a region, the truth is what can be seen in it.
    """

    class_names = CLASS_NAMES

    def __init__(self, config: PhantomConfig) -> None:
        self._window = window_in(config.roi, config.size_hw, config.source_id)
        super().__init__(config.source_id, self._window.size_hw, realtime=config.fps is not None)
        self._scene = PhantomScene(config.seed, config.size_hw, config.view, config.max_objects)
        self._spacing_mm = config.spacing_mm or self._scene.spacing_mm
        self._period_ns = 1e9 / config.fps if config.fps is not None else 0.0
        self._frames = config.frames
        self._index = 0
        self._ahead = [self._make(index) for index in range(config.ahead)]

    def truth(self, frame_id: int) -> Truth:
        """What can be seen in picture ``frame_id`` (>= 0); pure, so callable from any thread."""
        if frame_id < len(self._ahead):
            return self._ahead[frame_id].truth(frame_id)
        seen = seen_in(self._window, self._scene.truth(frame_id))
        return Truth(frame_id, seen.object_ids, seen.class_ids, seen.masks, seen.counted)

    def _make(self, index: int) -> _Made:
        seen = seen_in(self._window, self._scene.truth(index))
        packed = np.packbits(seen.masks, axis=-1)
        picture = np.ascontiguousarray(self._window.cut(self._scene.render(index)))
        width = self._window.full_hw[1]
        return _Made(picture, seen.object_ids, seen.class_ids, packed, seen.counted, width)

    def _render(self, index: int) -> NDArray[np.uint8]:
        if index < len(self._ahead):
            return self._ahead[index].picture
        return self._window.cut(self._scene.render(index))

    def _next(self, buffer: Buffer) -> Picture | None:
        if self._index == self._frames:
            return None
        rendered = self._render(self._index)  # before the wait, so as to be on time
        if self._pacer.wait(round(self._index * self._period_ns)) is None:
            return None
        self._index += 1
        captured_ns = time.monotonic_ns()
        pixels = buffer(rendered.shape)
        pixels[...] = rendered
        return Picture(
            pixels=pixels,
            epoch=0,
            captured_ns=captured_ns,
            spacing_mm=self._spacing_mm,
            **placed(self._window),
        )


def seen_in(window: Window, truth: SceneTruth) -> SceneTruth:
    """What of ``truth`` can be seen in ``window``; masks stay as large as the full picture."""
    if window.is_whole:
        return truth
    shown = window.place(np.ones(window.size_hw, np.bool_))
    masks = truth.masks & shown
    rows = np.flatnonzero(masks.any(axis=(1, 2)))
    return SceneTruth(
        truth.object_ids[rows],
        truth.class_ids[rows],
        masks[rows],
        np.array([is_counted(mask) for mask in masks[rows]], np.bool_),
    )
