"""What every source can be told: which region of its pictures to take, and how large a pixel is."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from stages.base import Section
from stages.errors import SourceError
from stages.sources.limits import SourceId, Spacing
from stages.window import Window, whole

_Place = Annotated[int, Field(ge=0, lt=1 << 15, strict=True)]
_Length = Annotated[int, Field(ge=1, le=1 << 15, strict=True)]


class RegionError(SourceError):
    """The picture does not have the region that was asked for."""


class Region(Section):
    """A rectangle of the picture, in its pixels."""

    y: _Place
    """First row."""
    x: _Place
    """First column."""
    height: _Length
    width: _Length


class SourceConfig(Section):
    """Base of every source's configuration."""

    kind: str
    source_id: SourceId
    roi: Region | None = None
    """Only the pixels of this region are taken in and uploaded. Results, and prompts, stay in the
    coordinates of the full picture."""
    spacing_mm: Spacing | None = None
    """(y, x) millimetres per pixel; overrides what the source tells."""


def window_in(roi: Region | None, full_hw: tuple[int, int], source_id: str) -> Window:
    """The part of a picture of ``full_hw`` (height, width) to take in.

    Raises `RegionError` where the region does not fit the picture.
    """
    if roi is None:
        return whole(full_hw)
    if roi.y + roi.height > full_hw[0] or roi.x + roi.width > full_hw[1]:
        raise RegionError(
            f"source {source_id}: roi reaches to row {roi.y + roi.height} and column "
            f"{roi.x + roi.width}, expected a region of the {full_hw[1]}x{full_hw[0]} picture"
        )
    return Window((roi.height, roi.width), (roi.y, roi.x), full_hw)


def placed(window: Window) -> dict[str, Any]:
    """What a `Picture` or an `Arrival` says of its place."""
    return {"origin_yx": window.origin_yx, "full_hw": window.full_hw}
