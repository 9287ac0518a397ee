"""Millimetres per pixel of an ultrasound picture, from its calibrated regions.

DICOM PS3.3 C.8.5.5 (US Region Calibration): each region names its corner pixels, what its axes
mean, and how far one pixel reaches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_TWO_D: Final = 1  # Region Spatial Format: 2D (tissue or flow)
_CENTIMETRES: Final = 3  # Physical Units X, Y Direction
_MM_PER_CM: Final = 10.0
_MAX_MM: Final = 100.0
_SAME: Final = 0.01  # regions may differ by this much and still count as one scale


@dataclass(frozen=True, slots=True)
class Region:
    """One calibrated region; corners are pixels, (x1, y1) the last column and row in it."""

    x0: int
    y0: int
    x1: int
    y1: int
    spatial_format: int
    units_x: int
    units_y: int
    delta_x: float
    """Physical units a pixel; the sign tells the direction only."""
    delta_y: float

    @property
    def is_spatial(self) -> bool:
        """Whether both axes are lengths, and not time, velocity or a spectrum."""
        return self.spatial_format == _TWO_D and self.units_x == self.units_y == _CENTIMETRES

    def lies_in(self, size_hw: tuple[int, int]) -> bool:
        """Whether it is one of a picture of this size; corners may name the last pixel or, as
        some machines do, the one after it."""
        height, width = size_hw
        return 0 <= self.x0 < self.x1 <= width and 0 <= self.y0 < self.y1 <= height

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """(y, x) millimetres per pixel."""
        return _MM_PER_CM * abs(self.delta_y), _MM_PER_CM * abs(self.delta_x)


@dataclass(frozen=True, slots=True)
class Calibration:
    """(y, x) millimetres per pixel, or None; `reason` says how it was come by."""

    spacing_mm: tuple[float, float] | None
    reason: str


def calibrate(regions: Sequence[Region], size_hw: tuple[int, int]) -> Calibration:
    """The scale that all spatial regions share, or None where it cannot be trusted.

    A region that reaches beyond the picture shows that the picture was scaled or cropped after
    the scale was written, so no region of the file is believed then.
    """
    spatial = [region for region in regions if region.is_spatial]
    if not spatial:
        return Calibration(None, "the file calibrates no two-dimensional region in centimetres")
    height, width = size_hw
    for region in spatial:
        corners = f"region ({region.x0},{region.y0})-({region.x1},{region.y1})"
        if not region.lies_in(size_hw):
            return Calibration(None, f"{corners} does not lie in the {width}x{height} picture")
        if not all(0 < mm <= _MAX_MM for mm in region.spacing_mm):  # NaN fails too
            return Calibration(None, f"{corners} has no usable pixel size")
    first, *others = (region.spacing_mm for region in spatial)
    for other in others:
        if not all(math.isclose(a, b, rel_tol=_SAME) for a, b in zip(first, other, strict=True)):
            return Calibration(None, "the regions of the picture have different scales")
    return Calibration(first, f"from {len(spatial)} calibrated region(s)")


def spatial_bounds(
    regions: Sequence[Region], size_hw: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """x0, y0, x1, y1 (columns x0..x1-1, rows y0..y1-1) around all spatial regions; None where
    there is none, or one reaches beyond the picture."""
    spatial = [region for region in regions if region.is_spatial]
    height, width = size_hw
    if not spatial or any(not region.lies_in(size_hw) for region in spatial):
        return None
    x0, y0 = min(region.x0 for region in spatial), min(region.y0 for region in spatial)
    x1, y1 = max(region.x1 for region in spatial) + 1, max(region.y1 for region in spatial) + 1
    return x0, y0, min(x1, width), min(y1, height)


def read_regions(items: Iterable[Dataset]) -> tuple[Region, ...]:
    """The regions of a Sequence of Ultrasound Regions; one with a missing value counts as not
    spatial."""
    return tuple(
        Region(
            x0=_number(item, "RegionLocationMinX0"),
            y0=_number(item, "RegionLocationMinY0"),
            x1=_number(item, "RegionLocationMaxX1"),
            y1=_number(item, "RegionLocationMaxY1"),
            spatial_format=_number(item, "RegionSpatialFormat"),
            units_x=_number(item, "PhysicalUnitsXDirection"),
            units_y=_number(item, "PhysicalUnitsYDirection"),
            delta_x=float(item.get("PhysicalDeltaX") or 0.0),
            delta_y=float(item.get("PhysicalDeltaY") or 0.0),
        )
        for item in items
    )


def _number(item: Dataset, keyword: str) -> int:
    value = item.get(keyword)
    return -1 if value is None else int(value)
