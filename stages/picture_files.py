"""Single pictures from files that a person names. Imports no torch."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stages.errors import SourceError
from stages.sources.images import FORMATS, read_picture
from stages.sources.limits import MAX_PICTURE_PIXELS
from stages.sources.natural_order import natural_key

_EXPECTED: Final = f"expected files that end in {', '.join(FORMATS)}"


def find_pictures(targets: Sequence[str]) -> list[Path]:
    """The files that `targets` name: files, folders (their pictures, in the order of the numbers
    in their names), and patterns with `*`, `?`, `[...]` and `**`; each once.

    Raises `SourceError` for one that names no picture.
    """
    found: dict[Path, None] = {}
    for target in targets:
        found |= dict.fromkeys(_named_by(os.path.expanduser(target)))
    return list(found)


def read_file(path: Path) -> NDArray[np.uint8]:
    """uint8 (H, W) where grey is stored, else (H, W, 3) RGB; raises `SourceError`, also above the
    size limit of sources."""
    try:
        return read_picture(path, str(path))
    except SourceError as error:
        raise SourceError(str(error).removeprefix("source ")) from error
    except Exception as error:  # Pillow raises many kinds on a broken file
        if type(error).__name__ == "DecompressionBombError":  # Pillow's own limit came first
            most = f"expected at most {MAX_PICTURE_PIXELS}"
            raise SourceError(f"{path}: too many pixels, {most}") from error
        reason = getattr(error, "strerror", None) or type(error).__name__
        kind = FORMATS[path.suffix.lower()]
        raise SourceError(f"{path}: does not decode ({reason}), expected {kind}") from error


def names_for(paths: Sequence[Path], ends: Sequence[str] = ("",)) -> list[str]:
    """A name for what belongs to each: the file's without its end, and a number where another
    has that already; no two are equal with any of ``ends`` behind them."""
    taken: set[str] = set()
    names = []
    for path in paths:
        name, number = path.stem, 2
        while not taken.isdisjoint(wanted := {(name + end).lower() for end in ends}):
            name, number = f"{path.stem}_{number}", number + 1
        taken |= wanted
        names.append(name)
    return names


def _named_by(target: str) -> list[Path]:
    if os.path.isfile(target):  # never raises, whatever the name
        if Path(target).suffix.lower() not in FORMATS:
            raise SourceError(f"{target}: {_EXPECTED}")
        return [Path(target)]
    folder = os.path.isdir(target)
    if not folder and ("\0" in target or not glob.has_magic(target)):
        raise SourceError(f"{target!r}: no such file or folder")
    pattern = os.path.join(glob.escape(target), "*") if folder else target
    files = (Path(name) for name in glob.iglob(pattern, recursive=True))
    pictures = {path for path in files if path.suffix.lower() in FORMATS and path.is_file()}
    if not pictures:
        raise SourceError(f"{target}: no pictures there, {_EXPECTED}")
    return sorted(pictures, key=lambda path: (str(path.parent), natural_key(path.name)))
