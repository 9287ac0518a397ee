"""From the path of a clip to its frames: `open_frames`."""

from __future__ import annotations

from os.path import expanduser, isdir, isfile
from pathlib import Path
from typing import Final

from stages.clip.frames import Frames
from stages.errors import SourceError
from stages.sources.images import FORMATS, ImagesConfig

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
    if isdir(place):
        from stages.clip.stills import ImageFrames

        return ImageFrames(ImagesConfig(path=str(place), source_id=SOURCE_ID))
    if not isfile(place):
        raise SourceError(
            f"source {SOURCE_ID}: {name!r} is not there, expected a video file, a DICOM cine or a "
            "folder of pictures"
        )
    from stages.clip.video import VideoFrames

    return VideoFrames(place, SOURCE_ID)


def _is_dicom(place: Path) -> bool:
    """Whether it is a DICOM file, or a folder that holds one, and no pictures of other kinds."""
    if isdir(place):
        files = [entry for entry in place.iterdir() if entry.is_file()]
        pictures = any(entry.suffix.lower() in FORMATS for entry in files)
        return not pictures and any(map(_is_dicom, files))
    if not isfile(place):  # never raises, whatever the name
        return False
    if place.suffix.lower() == ".dcm":
        return True
    with open(place, "rb") as file:
        return file.read(_PREAMBLE + 4)[_PREAMBLE:] == _MAGIC
