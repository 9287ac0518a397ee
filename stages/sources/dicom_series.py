"""A folder of single DICOM pictures as one cine: `SeriesFolder`. Imports pydicom.

No message tells a file's name: it may hold that of a person. Files are counted instead, in the
order in which they are shown.
"""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.valuerep import DT

from stages.errors import SourceError
from stages.sources.dicom_calibration import Calibration
from stages.sources.dicom_file import CineFile, open_unnamed
from stages.sources.dicom_timing import CineTiming, timing_at
from stages.sources.natural_order import natural_key

_ORDER: Final = (
    "InstanceNumber", "AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime",
    "ContentDate", "ContentTime", "SeriesInstanceUID",
)  # fmt: skip
_MOST: Final = 100_000
_PREAMBLE: Final = 128
_MAGIC: Final = b"DICM"


@dataclass(frozen=True, slots=True)
class _Place:
    """A file, and what tells its place among the others."""

    path: Path
    number: int | None
    seconds: float | None
    series: str


class SeriesFolder:
    """The pictures of a folder, shown as the first of them is; the face of a `CineFile`.

    In the order of Instance Number, else of acquisition time, else of the numbers in the files'
    names. Raises `SourceError` for a folder without DICOM files, one with several series, and for
    what `CineFile` refuses; from `frames`, too, for a picture of another kind than the first.
    """

    def __init__(self, folder: Path, source_id: str, *, allow_burned_in: bool) -> None:
        self._source_id = source_id
        self._allow_burned_in = allow_burned_in
        places = _read_places(folder, f"source {source_id}")
        self._places, self._sorted_by = _in_order(places)
        self.count = len(places)
        self._first = self._open(1)
        self.size_hw, self.shape = self._first.size_hw, self._first.shape
        self.regions, self.calibration = self._first.regions, self._first.calibration
        self.timing = self._read_timing()

    @property
    def description(self) -> str:
        """How the pictures are stored, and what their order comes from."""
        return f"{self.count} files by {self._sorted_by}, each {self._first.description}"

    def frames(self) -> Generator[NDArray[Any], None, None]:
        """See `CineFile.frames`; `calibration` is that of the newest frame."""
        for number in range(1, self.count + 1):
            file = self._file(number)
            self.calibration = file.calibration
            frames = file.frames()
            yield next(frames)
            frames.close()

    def frame(self, number: int) -> NDArray[Any]:
        """See `CineFile.frame`."""
        return self._file(number).frame(1)

    def calibration_of(self, number: int) -> Calibration:
        """That of a picture, 1 to `count`; raises `SourceError` as `frame`."""
        return self._file(number).calibration

    def write(self, frame: NDArray[Any], pixels: NDArray[np.uint8]) -> None:
        """See `CineFile.write`."""
        self._first.write(frame, pixels)

    def _file(self, number: int) -> CineFile:
        return self._first if number == 1 else self._open(number, self._first)

    def _open(self, number: int, first: CineFile | None = None) -> CineFile:
        return CineFile(
            self._places[number - 1].path,
            self._source_id,
            allow_burned_in=self._allow_burned_in,
            of_several=True,
            first=first,
            where=f": file {number} of {self.count}",
        )

    def _read_timing(self) -> CineTiming | None:
        seconds = [place.seconds for place in self._places]
        known = [second for second in seconds if second is not None]
        return timing_at(known) if len(known) == len(seconds) else None


def _read_places(folder: Path, name: str) -> list[_Place]:
    paths = sorted(
        (Path(entry.path) for entry in os.scandir(folder) if entry.is_file()),
        key=lambda path: natural_key(path.name),
    )
    paths = [path for path in paths if path.name.upper() != "DICOMDIR" and _is_dicom(path)]
    if not 0 < len(paths) <= _MOST:
        raise SourceError(
            f"{name}: the folder holds {len(paths)} DICOM files, expected 1 to {_MOST}"
        )
    places = [
        _read_place(path, f"{name}: file {number} of {len(paths)} by name")
        for number, path in enumerate(paths, start=1)
    ]
    series = len({place.series for place in places})
    if series > 1:
        raise SourceError(f"{name}: the folder holds {series} series, expected a folder for each")
    return places


def _is_dicom(path: Path) -> bool:
    if path.suffix.lower() == ".dcm":
        return True
    with open_unnamed(path) as file:
        return file.read(_PREAMBLE + 4)[_PREAMBLE:] == _MAGIC


def _read_place(path: Path, name: str) -> _Place:
    try:
        with open_unnamed(path) as file:
            header = dcmread(file, stop_before_pixels=True, specific_tags=list(_ORDER))
        number = header.get("InstanceNumber")
        return _Place(
            path,
            None if number in (None, "") else int(number),
            _acquired_s(header),
            str(header.get("SeriesInstanceUID") or ""),
        )
    except Exception as error:  # no DICOM file, deep nesting, bad lengths, ...
        raise SourceError(f"{name}: the DICOM header is damaged") from error


def _acquired_s(header: Dataset) -> float | None:
    """Seconds, from some begin that all files share, when the picture was taken."""
    whole = str(header.get("AcquisitionDateTime") or "")
    for kind in ("Acquisition", "Content"):
        whole = whole or _joined(header, kind)
    if not whole:
        return None
    try:
        taken = DT(whole)
    except ValueError:
        return None
    return None if taken is None else float(taken.timestamp())


def _joined(header: Dataset, kind: str) -> str:
    time = str(header.get(f"{kind}Time") or "")
    return f"{header.get(f'{kind}Date') or '20000101'}{time}" if time else ""


def _in_order(places: Sequence[_Place]) -> tuple[list[_Place], str]:
    """The places sorted, and by what."""
    numbers = [place.number for place in places]
    if None not in numbers and len(set(numbers)) == len(numbers):
        return sorted(places, key=lambda place: place.number or 0), "instance number"
    seconds = [place.seconds for place in places]
    if None not in seconds and len(set(seconds)) == len(seconds):
        return sorted(places, key=lambda place: place.seconds or math.nan), "acquisition time"
    return list(places), "name"
