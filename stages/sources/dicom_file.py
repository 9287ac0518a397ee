"""A multi-frame DICOM file, read frame by frame: `CineFile`. Imports pydicom.

Only the elements in `_HEADER` are ever read, so nothing about a patient enters the process. No
message tells the path: file names of studies hold names of people.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import UID

from stages.errors import SourceError
from stages.sources.dicom_calibration import Calibration, calibrate, read_regions
from stages.sources.dicom_checks import COLOUR, GREY, PALETTE, frame_count, refuse
from stages.sources.dicom_coded import coded_sizes
from stages.sources.dicom_grey import DisplayTable, grey_table, palette_table
from stages.sources.dicom_timing import CineTiming, read_timing
from stages.sources.limits import check_size

_HEADER: Final = (
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation",
    "BitsAllocated", "BitsStored", "PixelRepresentation", "BurnedInAnnotation",
    "FrameTime", "FrameTimeVector", "CineRate", "RecommendedDisplayFrameRate",
    "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "SequenceOfUltrasoundRegions",
    *(f"{c}PaletteColorLookupTable{part}" for c in ("Red", "Green", "Blue")
      for part in ("Descriptor", "Data")),
)  # fmt: skip


class _WrongSizeError(Exception):
    """A compressed frame has another size than the file's header says."""


class CineFile:
    """The frames of a DICOM cine, as they are to be shown.

    Raises `SourceError` for what is no DICOM file, a single frame, missing, oversized or
    unreadable pixels, a codec that is not installed, and text burned into the picture unless
    ``allow_burned_in``. One ``of_several`` holds a single frame, and is shown as the ``first``
    of them is; ``where`` says which of them it is.
    """

    def __init__(
        self,
        path: Path,
        source_id: str,
        *,
        allow_burned_in: bool,
        of_several: bool = False,
        first: CineFile | None = None,
        where: str = "",
    ) -> None:
        self._path = path
        self._name = f"source {source_id}{where}"
        header = self._read_header()
        try:
            refuse(header, self._name, allow_burned_in=allow_burned_in, of_several=of_several)
            self.count = frame_count(header)
            height, width = self.size_hw = int(header.Rows), int(header.Columns)
            check_size(source_id, self.size_hw)
            self.timing: CineTiming | None = read_timing(header, self.count)
            self.regions = read_regions(header.get("SequenceOfUltrasoundRegions") or ())
            self.calibration: Calibration = calibrate(self.regions, self.size_hw)
            self._stored_shape: tuple[int, ...] = (height, width)
            if header.PhotometricInterpretation in COLOUR:
                self._stored_shape = (height, width, 3)
            self.stored = _stored(header)
            self._table = self._make_table(header) if first is None else self._table_of(first)
        except SourceError:
            raise
        except Exception as error:  # a hostile header can break any conversion
            raise SourceError(f"{self._name}: the DICOM header is damaged") from error
        syntax = UID(header.file_meta.TransferSyntaxUID).name
        kind = f"{header.PhotometricInterpretation}, {header.BitsStored} bits"
        self.description = f"{self.count} frames, {kind}, {syntax}"
        grey = header.PhotometricInterpretation in GREY
        self.shape: tuple[int, ...] = (height, width) if grey else (height, width, 3)
        """Of the pixels that `write` fills."""

    def frames(self) -> Generator[NDArray[Any], None, None]:
        """The frames as stored, the first first, for `write`; one is in memory at a time.

        Raises `SourceError` naming the frame that does not decode.
        """
        with closing(self._decoded()) as decoded:
            for number in range(1, self.count + 1):
                yield self._decode(decoded, f"{self._name}: frame {number} of {self.count}")

    def frame(self, number: int) -> NDArray[Any]:
        """One of `frames`, 1 to `count`, without those before it."""
        where = f"{self._name}: frame {number} of {self.count}"
        with closing(self._decoded(number - 1)) as decoded:
            return self._decode(decoded, where)

    def calibration_of(self, number: int) -> Calibration:
        """Of one of `frames`, 1 to `count`: all have the same."""
        return self.calibration

    def write(self, frame: NDArray[Any], pixels: NDArray[np.uint8]) -> None:
        """Show a frame of `frames`, or a part of it, in ``pixels``, uint8 of its size."""
        if self._table is None:
            pixels[...] = frame
        else:
            self._table.write(frame, pixels)

    def _decoded(self, index: int | None = None) -> Generator[NDArray[Any], None, None]:
        """The frames as stored, or the one at ``index``; none is decoded that would be larger
        than the file's header says."""
        with (
            open_unnamed(self._path) as sizes,
            open_unnamed(self._path) as file,
            closing(_as_rgb(file, None if index is None else (index,))) as frames,
        ):
            for size_hw in coded_sizes(sizes, self.count, index):
                if size_hw not in (None, self.size_hw):
                    raise _WrongSizeError(size_hw)
                yield next(frames)

    def _decode(self, decoded: Iterator[NDArray[Any]], where: str) -> NDArray[Any]:
        try:
            frame = next(decoded)
        except _WrongSizeError as error:
            raise SourceError(
                f"{where} is compressed with (height, width) {error}, expected {self.size_hw} as "
                "in the header"
            ) from None
        except AttributeError as error:
            raise SourceError(f"{self._name}: the file holds no pixel data") from error
        except Exception as error:  # each codec has its own errors; StopIteration too
            raise SourceError(
                f"{where} does not decode; the file may be cut off or damaged"
            ) from error
        if frame.shape != self._stored_shape or frame.dtype.kind not in "ui":
            raise SourceError(
                f"{where} is {frame.dtype} {frame.shape}, "
                f"expected integers of shape {self._stored_shape}"
            )
        return frame

    def _read_header(self) -> Dataset:
        try:
            with open_unnamed(self._path) as file:
                return dcmread(file, stop_before_pixels=True, specific_tags=list(_HEADER))
        except InvalidDicomError as error:
            raise SourceError(f"{self._name}: the file is no DICOM file") from error
        except Exception as error:  # deep nesting, bad lengths, ...
            raise SourceError(f"{self._name}: the DICOM header is damaged") from error

    def _table_of(self, first: CineFile) -> DisplayTable | None:
        if self.stored != first.stored:
            raise SourceError(
                f"{self._name}: the picture is {self.stored}, expected {first.stored} as in the "
                "first"
            )
        return first._table

    def _make_table(self, header: Dataset) -> DisplayTable | None:
        """How stored values show; decodes the first frame, so that a file of no use is refused
        when it is opened."""
        frames = self.frames()
        first = next(frames)
        frames.close()
        if header.PhotometricInterpretation in GREY:
            return grey_table(header, first)
        return palette_table(header) if header.PhotometricInterpretation == PALETTE else None


def _stored(header: Dataset) -> str:
    """What must be the same in all files of a series, so that one table shows them all."""
    sign = "signed" if header.get("PixelRepresentation") else "unsigned"
    kind = f"{header.PhotometricInterpretation}, {header.BitsStored} bits {sign}"
    return f"{header.Columns}x{header.Rows} {kind}"


def _as_rgb(file: BinaryIO, indices: tuple[int, ...] | None) -> Generator[NDArray[Any], None, None]:
    """The frames as stored, but YBR as RGB, which is pydicom's default."""
    yield from iter_pixels(file, indices=indices)


def open_unnamed(path: Path) -> BinaryIO:
    """A file whose `name` is a number, so that no warning of pydicom's can tell the path."""
    return open(os.open(path, os.O_RDONLY), "rb")
