"""What every source checks the same way: names, rates, and how large a picture may be."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from stages.errors import SourceError

MAX_PICTURE_PIXELS: Final = 4096 * 4096
"""Largest picture that is taken in; a header that claims more is refused before decoding."""

SourceId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
"""Stands in topics, metrics and events."""

Fps = Annotated[float, Field(gt=0, le=240, strict=True)]
"""Pictures a second."""

_Millimetres = Annotated[float, Field(gt=0, le=100, strict=True)]
Spacing = tuple[_Millimetres, _Millimetres]
"""(y, x) millimetres per pixel."""


def check_size(source_id: str, size_hw: tuple[int, int]) -> None:
    """Raise `SourceError` unless (height, width) is that of a picture we take in."""
    height, width = size_hw
    if height < 1 or width < 1 or height * width > MAX_PICTURE_PIXELS:
        raise SourceError(
            f"source {source_id}: pictures are {width}x{height} pixels, "
            f"expected 1 to {MAX_PICTURE_PIXELS} pixels in all"
        )
