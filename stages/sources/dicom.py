"""A DICOM ultrasound cine as a source: `DicomSource`."""

from __future__ import annotations

from collections.abc import Iterator
from os.path import expanduser, isfile
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stages.base import Buffer, Picture
from stages.errors import ConfigError, SourceError
from stages.sources.dicom_calibration import Calibration
from stages.sources.dicom_timing import CineTiming, even_timing
from stages.sources.limits import Fps, SourceId
from stages.sources.pacing import PacedSource
from stages.sources.region import SourceConfig, placed, window_in

_EXAMPLE: Final = "pydicom:"


class DicomConfig(SourceConfig):
    """A multi-frame DICOM file on this machine."""

    kind: Literal["dicom"] = "dicom"
    source_id: SourceId = "dicom"
    path: str = Field(min_length=1)
    """A file, or `pydicom:NAME` for an example that comes with pydicom; `pydicom:ybr_color` is
    a real echocardiography cine."""
    realtime: bool = True
    """False: as fast as asked."""
    loop: bool = False
    """Start again at the end, for ever; each pass is an epoch of its own."""
    fps: Fps | None = None
    """Overrides the times in the file."""
    allow_burned_in: bool = False
    """Take files that say that text is burned into their pictures."""


class DicomSource(PacedSource):
    """The frames of a cine at their times, grey or RGB as stored, one in memory at a time.

    Times come from the configured rate, else from the file (see `read_timing`). The schedule
    starts with the first `read`, and in real time a frame counts as captured at the moment it
    was due (else when it was read). Each pass raises the epoch: going back to the start is a
    seek. `calibration` says where `spacing_mm` comes from, or why there is none.

    The absence of the element Burned In Annotation says nothing: most ultrasound pictures carry
    text. Raises `ConfigError` where the path names no file, and `SourceError` for what
    `CineFile` refuses, a file without times where none are configured, and, from `read`, a
    frame that does not decode.
    """

    calibration: Calibration

    def __init__(self, config: DicomConfig) -> None:
        from stages.sources.dicom_file import CineFile

        self._config = config
        self._cine = CineFile(
            _local_file(config), config.source_id, allow_burned_in=config.allow_burned_in
        )
        self._window = window_in(config.roi, self._cine.size_hw, config.source_id)
        super().__init__(config.source_id, self._window.size_hw, realtime=config.realtime)
        self._timing = self._choose_timing()
        self.calibration = self._cine.calibration
        if config.spacing_mm is not None:
            self.calibration = Calibration(config.spacing_mm, "from the configuration")
        self._frames: Iterator[NDArray[np.integer[Any]]] = self._cine.frames()
        self._index = 0
        self._epoch = 0

    @property
    def description(self) -> str:
        """How the pixels are stored, and where their size comes from."""
        return f"{self._cine.description}; pixel size: {self.calibration.reason}"

    def _next(self, buffer: Buffer) -> Picture | None:
        frame = self._frame()
        if frame is None:
            return None
        timing = self._timing
        due = self._epoch * timing.pass_ns + timing.offsets_ns[self._index]
        self._index += 1
        captured_ns = self._pacer.wait(due)
        if captured_ns is None:
            return None
        pixels = buffer((*self._window.size_hw, *self._cine.shape[2:]))
        self._cine.write(self._window.cut(frame), pixels)
        return Picture(
            pixels=pixels,
            epoch=self._epoch,
            captured_ns=captured_ns,
            spacing_mm=self.calibration.spacing_mm,
            **placed(self._window),
        )

    def _frame(self) -> NDArray[np.integer[Any]] | None:
        """The next frame of this pass, else the first of the next one, else None."""
        frame = next(self._frames, None)
        if frame is None and self._config.loop:
            self._frames = self._cine.frames()
            self._index = 0
            self._epoch += 1
            frame = next(self._frames)
        return frame

    def _choose_timing(self) -> CineTiming:
        if self._config.fps is not None:
            return even_timing(1e3 / self._config.fps, self._cine.count)
        if self._cine.timing is None:
            raise SourceError(
                f"source {self.source_id}: the file tells no frame rate, expected fps to be set"
            )
        return self._cine.timing

    def _release(self) -> None:
        self._frames = iter(())


def _local_file(config: DicomConfig) -> Path:
    """The file that `path` names. Its name is not told: it may hold that of a person."""
    if config.path.startswith(_EXAMPLE):
        from pydicom import examples

        try:
            return Path(examples.get_path(config.path.removeprefix(_EXAMPLE)))
        except ValueError as error:
            raise ConfigError(
                f"source {config.source_id}: path: {config.path!r} is no example of pydicom's, "
                "expected one, such as pydicom:ybr_color"
            ) from error
    path = Path(expanduser(config.path))
    if not isfile(path):  # never raises, whatever the name
        raise ConfigError(f"source {config.source_id}: path names no file, expected a DICOM file")
    return path
