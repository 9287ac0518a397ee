"""From the path of a clip to its frames: `open_frames`."""

from __future__ import annotations

from os.path import expanduser
from pathlib import Path
from typing import Final

from stages.clip.frames import Frames
from stages.errors import SourceError

SOURCE_ID: Final = "clip"
"""Whom messages about its pictures name."""
_PREAMBLE: Final = 128
_MAGIC: Final = b"DICM"
_EXAMPLE: Final = "pydicom:"


def open_frames(path: str | Path, *, allow_burned_in: bool = False) -> Frames:
    """The pictures of a video file, a DICOM cine (a file, a folder of single frames, or
    `pydicom:NAME`), or a folder of pictures.

    `allow_burned_in`: take DICOM files that say that text is burned into their pictures. Raises
    `SourceError` for what is not there, cannot be read, or is a single picture.
    """
    name = str(path)
    place = Path(expanduser(name)).absolute()
    if name.startswith(_EXAMPLE) or _is_dicom(place):
        from stages.clip.stills import DicomFrames
        from stages.sources.dicom import DicomConfig

        named = name if name.startswith(_EXAMPLE) else str(place)
        return DicomFrames(
            DicomConfig(path=named, source_id=SOURCE_ID, allow_burned_in=allow_burned_in)
        )
    if place.is_dir():
        from stages.clip.stills import ImageFrames
        from stages.sources.images import ImagesConfig

        return ImageFrames(ImagesConfig(path=str(place), source_id=SOURCE_ID))
    if not place.is_file():
        raise SourceError(
            f"source {SOURCE_ID}: {name!r} is not there, expected a video file, a DICOM cine or a "
            "folder of pictures"
        )
    from stages.clip.video import VideoFrames

    return VideoFrames(place, SOURCE_ID)


def _is_dicom(place: Path) -> bool:
    """Whether it is a DICOM file, or a folder in which the first file is one."""
    if place.is_dir():
        first = min((entry for entry in place.iterdir() if entry.is_file()), default=None)
        return first is not None and (first.name.upper() == "DICOMDIR" or _is_dicom(first))
    if not place.is_file():
        return False
    if place.suffix.lower() == ".dcm":
        return True
    with open(place, "rb") as file:
        return file.read(_PREAMBLE + 4)[_PREAMBLE:] == _MAGIC
