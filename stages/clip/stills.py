"""A folder of pictures, or a DICOM cine, any frame at any time: `ImageFrames`, `DicomFrames`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.clip.frames import check_count
from stages.errors import SourceError
from stages.sources.dicom import DicomConfig, open_cine
from stages.sources.images import ImagesConfig, picture_files, read_picture


class ImageFrames:
    """`Frames` of a folder, in the order of the numbers in the files' names."""

    fps: float | None = None
    trouble: str | None = None

    def __init__(self, config: ImagesConfig) -> None:
        self._source_id = config.source_id
        self._paths = picture_files(config)
        self.count = len(self._paths)
        check_count(self.count, f"source {config.source_id}: the folder")
        height, width = self.read(0).shape[:2]
        self.size_hw = height, width

    def read(self, index: int) -> NDArray[Any]:
        """See `Frames.read`."""
        try:
            return read_picture(self._paths[index], self._source_id)
        except SourceError:
            raise
        except Exception as error:  # Pillow raises many kinds on a broken file
            raise SourceError(
                f"source {self._source_id}: frame {index} of {self.count} does not decode "
                f"({type(error).__name__}), expected a readable picture"
            ) from error

    def spacing_mm(self, index: int) -> tuple[float, float] | None:
        """See `Frames.spacing_mm`."""
        return None

    def time_s(self, index: int) -> float | None:
        """See `Frames.time_s`."""
        return None

    def close(self) -> None:
        """See `Frames.close`."""


class DicomFrames:
    """`Frames` of a multi-frame DICOM file, or of a folder of single frames."""

    trouble: str | None = None

    def __init__(self, config: DicomConfig) -> None:
        self._cine = open_cine(config)
        self.count = self._cine.count
        check_count(self.count, f"source {config.source_id}: the folder")
        self.size_hw = self._cine.size_hw
        self._timing = timing = self._cine.timing
        self.fps = None if timing is None else self.count * 1e9 / timing.pass_ns
        self._next = 0
        self._frames: Iterator[NDArray[Any]] = self._cine.frames()

    def read(self, index: int) -> NDArray[Any]:
        """See `Frames.read`."""
        if index == 0:
            self._frames, self._next = self._cine.frames(), 0
        if index == self._next:
            stored = next(self._frames)
            self._next += 1
        else:
            stored = self._cine.frame(index + 1)
        pixels = np.empty(self._cine.shape, np.uint8)
        self._cine.write(stored, pixels)
        return pixels

    def spacing_mm(self, index: int) -> tuple[float, float] | None:
        """See `Frames.spacing_mm`."""
        return self._cine.calibration_of(index + 1).spacing_mm

    def time_s(self, index: int) -> float | None:
        """See `Frames.time_s`."""
        return None if self._timing is None else self._timing.offsets_ns[index] / 1e9

    def close(self) -> None:
        """See `Frames.close`."""
        self._frames = iter(())
