"""The frames of a recording as a source: `RecordedSource`."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from stages.base import Buffer, Picture
from stages.recorder.recorded_run import RecordedRun
from stages.sources.limits import SourceId, check_size
from stages.sources.pacing import PacedSource, Timeline
from stages.sources.region import SourceConfig, placed

_NOMINAL_NS = 40_000_000


class RecordedConfig(SourceConfig):
    """The frames that a run recorded, at their times, with their epochs."""

    kind: Literal["recorded"] = "recorded"
    source_id: SourceId = "recorded"
    path: str = Field(min_length=1)
    """The folder of a recording, or of the run that made it."""
    realtime: bool = True
    """False: as fast as asked."""

    @model_validator(mode="after")
    def _as_recorded(self) -> Self:
        if self.roi is not None:
            raise PydanticCustomError(
                "roi", "roi: got a region, expected none: what was recorded is taken in as it is"
            )
        return self


class RecordedSource(PacedSource):
    """Frame n of the recording as the n-th picture, pixel by pixel as it was taken in; it counts as
    captured when it was due, by its own Unix time as recorded.

    Raises `RecordingError` for what is no recording with frames, and where a frame is damaged.
    """

    def __init__(self, config: RecordedConfig) -> None:
        self._run = RecordedRun(config.path)
        self._run.need("frame")
        self._config = config
        self._timeline = Timeline(_NOMINAL_NS)
        self._place = 0
        first = self._run.picture(0).window.size_hw
        check_size(config.source_id, first)
        super().__init__(config.source_id, first, realtime=config.realtime)

    def _next(self, buffer: Buffer) -> Picture | None:
        place = self._place
        if place == len(self._run.frames):
            return None
        stamp = self._run.frames[place].stamp
        captured_ns = self._pacer.wait(self._timeline.offset(stamp.captured_ns))
        if captured_ns is None:
            return None
        self._place += 1
        shown = self._run.picture(place)
        check_size(self.source_id, shown.window.size_hw)
        pixels = buffer(shown.pixels.shape)
        np.copyto(pixels, shown.pixels)
        spacing_mm, pose = self._run.geometry(place)
        return Picture(
            pixels=pixels,
            epoch=stamp.epoch,
            captured_ns=captured_ns,
            captured_unix_ns=stamp.captured_unix_ns or None,
            spacing_mm=self._config.spacing_mm or spacing_mm,
            pose=pose,
            **placed(shown.window),
        )

    def _release(self) -> None:
        self._run.close()
