"""Points, boxes and masks as they stand on a command line. Imports no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stages.errors import UsageError

_NUMBER: Final = r"-?\d+(?:\.\d+)?"


def numbers(option: str, text: str, count: int) -> tuple[float, ...]:
    """`count` numbers with commas between; raises `UsageError` naming `option`."""
    if re.fullmatch(rf"{_NUMBER}(?:,{_NUMBER}){{{count - 1}}}", text, re.ASCII) is None:
        raise UsageError(f"{option} {text}: expected {count} numbers with commas between")
    return tuple(float(part) for part in text.split(","))


def read_mask(option: str, path: Path) -> NDArray[np.bool_]:
    """bool (H, W) of a PNG: whatever is not black; raises `UsageError` naming `option`."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=("PNG",)) as picture:
            return np.asarray(picture.convert("L")) > 0
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UsageError(f"{option} {path}: cannot be read (expected a PNG)") from error
