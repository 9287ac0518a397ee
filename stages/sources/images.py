"""A folder of pictures as a source: `ImagesSource`."""

from __future__ import annotations

import os
import warnings
from os.path import expanduser, isdir
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from pydantic import Field

from kpi import emit
from kpi.events import ErrorRaised
from stages.base import Buffer, Picture
from stages.errors import ConfigError, SourceError
from stages.sources.limits import Fps, SourceId, check_size
from stages.sources.natural_order import natural_key
from stages.sources.pacing import PacedSource
from stages.sources.region import SourceConfig, placed, window_in

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMATS: Final = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".tif": "TIFF",
    ".tiff": "TIFF", ".webp": "WEBP", ".pgm": "PPM", ".ppm": "PPM",
}  # fmt: skip
"""What is read, by the end of a file's name: Pillow's name of the one format it may then have."""
_GREY: Final = ("1", "L", "LA", "I;16", "I;16L", "I;16B", "I;16N")


class ImagesConfig(SourceConfig):
    """A folder of pictures on this machine, in the order of the numbers in their names."""

    kind: Literal["images"] = "images"
    source_id: SourceId = "images"
    path: str = Field(min_length=1)
    """A folder of png, jpg, bmp, tif, webp, pgm or ppm files; others in it are left alone."""
    fps: Fps = 25.0
    realtime: bool = True
    """False: as fast as asked."""
    loop: bool = False
    """Start again at the end, for ever; each pass is an epoch of its own."""


class ImagesSource(PacedSource):
    """Picture n of a folder n / fps seconds after the first `read`, grey or RGB as stored.

    16-bit grey shows its upper 8 bits, a palette its colours; transparency, rotation tags and all
    but the first page of a file are left alone. In real time a picture counts as captured at the
    moment it was due (else when it was read). A change of size, and every new pass, raises the
    epoch. A file that does not decode is skipped, and the first such is told as an `error` event.

    Raises `ConfigError` where the path names no folder, `SourceError` for one in which nothing
    decodes and, from `read`, for a picture that does not have the region.
    """

    def __init__(self, config: ImagesConfig) -> None:
        self._config = config
        self._paths = picture_files(config)
        self._told = False
        self._epoch = 0
        self._shown = 0
        self._shape: tuple[int, ...] | None = None
        self._ready = self._decode_from(0)
        if self._ready is None:
            raise SourceError(
                f"source {config.source_id}: none of the {len(self._paths)} pictures in the folder "
                f"decodes, expected {', '.join(sorted(set(FORMATS.values())))}"
            )
        height, width = self._ready[1].shape[:2]
        window = window_in(config.roi, (height, width), config.source_id)
        super().__init__(config.source_id, window.size_hw, realtime=config.realtime)

    @property
    def description(self) -> str:
        """How many there are."""
        return f"{len(self._paths)} files"

    def _next(self, buffer: Buffer) -> Picture | None:
        ready = self._ready
        if ready is None:
            return None
        captured_ns = self._pacer.wait(round(self._shown * 1e9 / self._config.fps))
        if captured_ns is None:
            return None
        index, picture = ready
        window = window_in(self._config.roi, (picture.shape[0], picture.shape[1]), self.source_id)
        if self._shape not in (None, picture.shape):
            self._epoch += 1
        self._shape = picture.shape
        pixels = buffer((*window.size_hw, *picture.shape[2:]))
        pixels[...] = window.cut(picture)
        epoch, self._shown = self._epoch, self._shown + 1
        self._ready = self._decode_from(index + 1)
        return Picture(
            pixels=pixels,
            epoch=epoch,
            captured_ns=captured_ns,
            spacing_mm=self._config.spacing_mm,
            **placed(window),
        )

    def _decode_from(self, index: int) -> tuple[int, NDArray[np.uint8]] | None:
        """The first picture from ``index`` on that decodes, and its index; in the next pass where
        there is one; None where nothing is left."""
        for at in range(index, len(self._paths)):
            picture = self._decode(at)
            if picture is not None:
                return at, picture
        if not self._config.loop or index == 0:
            return None
        self._epoch += 1
        return self._decode_from(0)

    def _decode(self, at: int) -> NDArray[np.uint8] | None:
        try:
            return read_picture(self._paths[at], self._config.source_id)
        except Exception as error:  # Pillow raises many kinds on a broken file
            if not self._told:
                self._told = True
                reason = str(error) if isinstance(error, SourceError) else type(error).__name__
                where = f"file {at + 1} of {len(self._paths)} does not decode; such are skipped"
                emit(ErrorRaised(self._config.source_id, f"{where}: {reason}"))
            return None


def read_picture(path: Path, source_id: str) -> NDArray[np.uint8]:
    """uint8 (H, W) where grey is stored, else (H, W, 3) RGB.

    Raises `SourceError` above the size limit, before anything is decoded, and what Pillow raises
    for a broken file.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes, which are checked here, and of odd tags
        with Image.open(path, formats=(FORMATS[path.suffix.lower()],)) as image:
            check_size(source_id, (image.height, image.width))
            if image.mode.startswith("I;16"):
                return (np.asarray(image) >> 8).astype(np.uint8)
            if image.mode in ("I", "F"):
                raise SourceError(
                    f"source {source_id}: pixels are {image.mode}, expected at most 16 bits"
                )
            return np.asarray(image.convert("L" if image.mode in _GREY else "RGB"))


def picture_files(config: ImagesConfig) -> list[Path]:
    """The pictures in the folder, in order; raises as `ImagesSource` does."""
    folder = Path(expanduser(config.path))
    if not isdir(folder):  # never raises, whatever the name
        raise ConfigError(
            f"source {config.source_id}: path: {config.path!r} is no folder, "
            "expected a folder of pictures on this machine"
        )
    found = sorted(
        (Path(entry.path) for entry in os.scandir(folder) if entry.is_file()),
        key=lambda path: natural_key(path.name),
    )
    pictures = [
        path for path in found if path.suffix.lower() in FORMATS and not path.name.startswith(".")
    ]
    if not pictures:
        raise SourceError(
            f"source {config.source_id}: the folder holds no pictures, expected files that end in "
            f"{', '.join(FORMATS)}"
        )
    return pictures
