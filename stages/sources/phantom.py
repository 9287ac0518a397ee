"""The synthetic ultrasound stream as a source: `PhantomSource`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from stages.base import Buffer, Picture
from stages.packets import Truth
from stages.sources.limits import Fps, SourceId
from stages.sources.pacing import PacedSource
from stages.sources.phantom_faults import FaultPlan, PhantomFault, Showing
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
    faults: tuple[PhantomFault, ...] = Field(default=(), max_length=1000)
    """What goes wrong, and when; nothing, unless it is asked for."""

    @model_validator(mode="after")
    def _stalls_take_time(self) -> PhantomConfig:
        if self.fps is None and any(fault.kind == "stall" for fault in self.faults):
            raise ValueError("faults: got a stall without fps, expected a rate")
        return self


@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    """A picture made ahead, with its truth."""

    picture: NDArray[np.uint8]
    """What lies in the window."""
    object_ids: NDArray[np.int64]
    class_ids: NDArray[np.int32]
    packed: NDArray[np.uint8]
    """uint8 (n, H, ceil(W / 8)): the masks of the full picture, an eighth of their size."""
    counted: NDArray[np.bool_]

    def truth(self, full_hw: tuple[int, int]) -> SceneTruth:
        masks = np.unpackbits(self.packed, axis=-1, count=full_hw[1]).view(np.bool_)
        return SceneTruth(self.object_ids, self.class_ids, masks, self.counted)


class PhantomSource(PacedSource):
    """Grey pictures of a `PhantomScene`, frame 0 first; a `TruthSource`.

    With a rate it keeps the schedule of a live camera: picture n is due n / fps seconds after
    the first. Pictures due in the past are delivered at once, one by one, none left out. A
    picture counts as captured when it is delivered, for it shows nothing that existed before.
    The epoch stays 0. Of a region, the truth is what can be seen in it. Where `faults` are
    configured, all this holds for what is left of it, and the truth is that of what is shown.
    """

    class_names = CLASS_NAMES

    def __init__(self, config: PhantomConfig) -> None:
        height, width = config.size_hw
        halved_hw = -(-height // 2), -(-width // 2)
        self._window = window_in(config.roi, config.size_hw, config.source_id)
        self._halved = self._window
        if any(fault.kind == "resize" for fault in config.faults):
            self._halved = window_in(config.roi, halved_hw, config.source_id)
        super().__init__(config.source_id, self._window.size_hw, realtime=config.fps is not None)
        self._scene = PhantomScene(config.seed, config.size_hw, config.view, config.max_objects)
        self._config = config
        self._period_ns = 1e9 / config.fps if config.fps is not None else 0.0
        self._plan = FaultPlan(config.faults)
        self._number = 0
        self._ahead = [self._make(index) for index in range(config.ahead)]

    def truth(self, frame_id: int) -> Truth:
        """What can be seen in picture ``frame_id`` (>= 0); pure, so callable from any thread."""
        seen = self._seen(self._plan.showing(self._plan.picture(frame_id)))
        return Truth(frame_id, seen.object_ids, seen.class_ids, seen.masks, seen.counted)

    def _make(self, index: int) -> _Made:
        seen = seen_in(self._window, self._scene.truth(index))
        packed = np.packbits(seen.masks, axis=-1)
        picture = np.ascontiguousarray(self._window.cut(self._scene.render(index)))
        return _Made(picture, seen.object_ids, seen.class_ids, packed, seen.counted)

    def _seen(self, showing: Showing) -> SceneTruth:
        if showing.garbage or showing.halved:
            step = 2 if showing.halved else 1
            truth = self._scene.truth(showing.index)
            masks = truth.masks[:, ::step, ::step] & (not showing.garbage)
            shown = SceneTruth(truth.object_ids, truth.class_ids, masks, truth.counted)
            return recounted(seen_in(self._halved if showing.halved else self._window, shown))
        if showing.index < len(self._ahead):
            return self._ahead[showing.index].truth(self._window.full_hw)
        return seen_in(self._window, self._scene.truth(showing.index))

    def _render(self, showing: Showing) -> NDArray[np.uint8]:
        if not showing.halved and showing.index < len(self._ahead):
            picture = self._ahead[showing.index].picture
        elif showing.halved:
            picture = self._halved.cut(self._scene.render(showing.index)[::2, ::2])
        else:
            picture = self._window.cut(self._scene.render(showing.index))
        if not showing.garbage:
            return picture
        noise = np.random.default_rng((self._config.seed, showing.index))
        return noise.integers(0, 256, picture.shape, np.uint8)

    def _next(self, buffer: Buffer) -> Picture | None:
        place = self._plan.picture(self._number)
        if self._config.frames is not None and place >= self._config.frames:
            return None
        showing = self._plan.showing(place)
        rendered = self._render(showing)  # before the wait, so as to be on time
        if self._pacer.wait(round(showing.due * self._period_ns)) is None:
            return None
        self._number += 1
        captured_ns = time.monotonic_ns()
        pixels = buffer(rendered.shape)
        pixels[...] = rendered
        scale = 2 if showing.halved else 1
        y, x = self._scene.spacing_mm
        return Picture(
            pixels=pixels,
            epoch=showing.epoch,
            captured_ns=captured_ns,
            spacing_mm=self._config.spacing_mm or (y * scale, x * scale),
            **placed(self._halved if showing.halved else self._window),
        )


def seen_in(window: Window, truth: SceneTruth) -> SceneTruth:
    """What of ``truth`` can be seen in ``window``; masks stay as large as the full picture."""
    if window.is_whole:
        return truth
    inside = window.place(np.ones(window.size_hw, np.bool_))
    return recounted(
        SceneTruth(truth.object_ids, truth.class_ids, truth.masks & inside, truth.counted)
    )


def recounted(truth: SceneTruth) -> SceneTruth:
    """``truth`` whose masks were changed, without what they no longer show."""
    rows = np.flatnonzero(truth.masks.any(axis=(1, 2)))
    masks = truth.masks[rows]
    counted = np.array([is_counted(mask) for mask in masks], np.bool_)
    return SceneTruth(truth.object_ids[rows], truth.class_ids[rows], masks, counted)
