"""A DICOM ultrasound cine as a source: `DicomSource`."""

from __future__ import annotations

from collections.abc import Iterator
from os.path import expanduser, isdir, isfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from stages.base import Buffer, Picture
from stages.errors import ConfigError, SourceError
from stages.sources.dicom_calibration import Calibration, spatial_bounds
from stages.sources.dicom_timing import CineTiming, even_timing
from stages.sources.limits import Fps, SourceId
from stages.sources.pacing import PacedSource
from stages.sources.region import Region, SourceConfig, placed, window_in

if TYPE_CHECKING:
    from stages.sources.dicom_file import CineFile
    from stages.sources.dicom_series import SeriesFolder

_EXAMPLE: Final = "pydicom:"


class DicomConfig(SourceConfig):
    """A multi-frame DICOM file on this machine, or a folder of single frames."""

    kind: Literal["dicom"] = "dicom"
    source_id: SourceId = "dicom"
    path: str = Field(min_length=1)
    """A file, a folder, or `pydicom:NAME` for an example that comes with pydicom;
    `pydicom:ybr_color` is a real echocardiography cine."""
    realtime: bool = True
    """False: as fast as asked."""
    loop: bool = False
    """Start again at the end, for ever; each pass is an epoch of its own."""
    fps: Fps | None = None
    """Overrides the times in the file."""
    allow_burned_in: bool = False
    """Take files that say that text is burned into their pictures."""
    crop: bool = False
    """Take in nothing but what the file calls its ultrasound image (its two-dimensional regions in
    centimetres), without the text around it. Instead of `roi`."""

    @model_validator(mode="after")
    def _one_region(self) -> DicomConfig:
        if self.crop and self.roi is not None:
            raise ValueError("crop: got true beside a roi, expected one of the two")
        return self


class DicomSource(PacedSource):
    """The frames of a cine at their times, grey or RGB as stored, one in memory at a time.

    Times come from the configured rate, else from the file (see `read_timing`). The schedule
    starts with the first `read`, and in real time a frame counts as captured at the moment it
    was due (else when it was read). Each pass raises the epoch, for going back to the start is a
    seek, and so does a file of a folder with another scale. `calibration` says where `spacing_mm`
    comes from, or why there is none. A folder is told in `SeriesFolder`.

    The absence of the element Burned In Annotation says nothing: most ultrasound pictures carry
    text. Raises `ConfigError` where the path names no file, and `SourceError` for what
    `CineFile` and `SeriesFolder` refuse, a file without times where none are configured, one
    without regions where it is to be cropped to them, and, from `read`, a frame that does not
    decode.
    """

    calibration: Calibration

    def __init__(self, config: DicomConfig) -> None:
        self._config = config
        self._cine = open_cine(config)
        roi = _ultrasound_region(self._cine, config.source_id) if config.crop else config.roi
        self._window = window_in(roi, self._cine.size_hw, config.source_id)
        super().__init__(config.source_id, self._window.size_hw, realtime=config.realtime)
        self._timing = self._choose_timing()
        self.calibration = self._calibrate()
        self._frames: Iterator[NDArray[np.integer[Any]]] = self._cine.frames()
        self._index = 0
        self._pass = 0
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
        due = self._pass * timing.pass_ns + timing.offsets_ns[self._index]
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
            self._pass += 1
            self._epoch += 1
            frame = next(self._frames)
        elif self._calibrate().spacing_mm != self.calibration.spacing_mm:
            self._epoch += 1
        self.calibration = self._calibrate()
        return frame

    def _calibrate(self) -> Calibration:
        if self._config.spacing_mm is not None:
            return Calibration(self._config.spacing_mm, "from the configuration")
        return self._cine.calibration

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


def open_cine(config: DicomConfig) -> CineFile | SeriesFolder:
    """The file or folder that is named; raises as `DicomSource` does."""
    from stages.sources.dicom_file import CineFile
    from stages.sources.dicom_series import SeriesFolder

    path, allowed = _local_path(config), config.allow_burned_in
    if isdir(path):
        return SeriesFolder(path, config.source_id, allow_burned_in=allowed)
    return CineFile(path, config.source_id, allow_burned_in=allowed)


def _ultrasound_region(cine: CineFile | SeriesFolder, source_id: str) -> Region:
    bounds = spatial_bounds(cine.regions, cine.size_hw)
    if bounds is None:
        raise SourceError(
            f"source {source_id}: crop: {cine.calibration.reason}, expected a file that tells "
            "where its ultrasound image lies, or roi"
        )
    x0, y0, x1, y1 = bounds
    return Region(y=y0, x=x0, height=y1 - y0, width=x1 - x0)


def _local_path(config: DicomConfig) -> Path:
    """The file or folder that `path` names. Its name is not told: it may hold that of a person."""
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
    if not isfile(path) and not isdir(path):  # never raise, whatever the name
        raise ConfigError(
            f"source {config.source_id}: path names no file, expected a DICOM file or a folder"
        )
    return path
