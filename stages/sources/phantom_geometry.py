"""Field of view of the synthetic scanner: a fan (convex probe) or a rectangle (linear probe).

Every pixel has beam coordinates: ``lateral``, from -1 on the first beam to 1 on the last one,
and ``depth``, in pixels along the beam from the transducer's face. Shadows and enhancement
follow beams, so they are drawn in these coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

FloatMap = NDArray[np.float32]
Box = tuple[slice, slice]
ViewKind = Literal["convex", "linear"]

_TOP: Final = 0.02  # of H: gap above the transducer's face
_REACH: Final = 0.95  # of H: height of the field of view


@dataclass(frozen=True, slots=True, eq=False)
class FieldOfView:
    """Where the scanner sees, and the beam coordinates of each pixel.

    ``inside`` bool (H, W); ``lateral`` float32 (H, W), in [-1, 1] inside; ``depth`` float32
    (H, W), pixels, in [0, ``depth_px``] inside. ``apex_yx`` is the fan's centre, ``radius_px``
    its face's radius and ``half_angle`` its half opening in radians; for a linear probe
    ``apex_yx`` is the middle of the face, ``radius_px`` is 0 and ``half_angle`` is unused.
    """

    kind: ViewKind
    size_hw: tuple[int, int]
    apex_yx: tuple[float, float]
    radius_px: float
    half_angle: float
    half_width_px: float
    depth_px: float
    inside: NDArray[np.bool_]
    lateral: FloatMap
    depth: FloatMap

    def point(self, lateral: float, depth: float) -> tuple[float, float]:
        """Pixel (y, x) of beam coordinates; ``depth`` in pixels."""
        if self.kind == "linear":
            return self.apex_yx[0] + depth, self.apex_yx[1] + lateral * self.half_width_px
        angle = lateral * self.half_angle
        radius = self.radius_px + depth
        return (
            self.apex_yx[0] + radius * float(np.cos(angle)),
            self.apex_yx[1] + radius * float(np.sin(angle)),
        )

    def beam(self, y: float, x: float) -> tuple[float, float]:
        """Beam coordinates (lateral, depth in pixels) of a pixel, which may lie outside."""
        dy, dx = y - self.apex_yx[0], x - self.apex_yx[1]
        if self.kind == "linear":
            return dx / self.half_width_px, dy
        return float(np.arctan2(dx, dy)) / self.half_angle, float(np.hypot(dx, dy)) - self.radius_px

    def pixels_per_lateral(self, depth: float) -> float:
        """Pixels across the beams that one unit of ``lateral`` spans at ``depth``."""
        if self.kind == "linear":
            return self.half_width_px
        return (self.radius_px + depth) * self.half_angle

    def wedge(self, lateral: float, half_lateral: float, from_depth: float) -> Box:
        """Smallest pixel box of the beams within ``lateral`` +- ``half_lateral`` below a depth."""
        corners = [
            self.point(lateral + side * half_lateral, depth)
            for side in (-1.0, 0.0, 1.0)
            for depth in (from_depth, self.depth_px)
        ]
        ys, xs = zip(*corners, strict=True)
        return clipped_box(self.size_hw, min(ys), max(ys), min(xs), max(xs))


def clipped_box(
    size_hw: tuple[int, int], y0: float, y1: float, x0: float, x1: float
) -> tuple[slice, slice]:
    """Pixel box that covers [y0, y1] x [x0, x1], cut to the picture; may be empty."""
    height, width = size_hw
    top, left = min(max(int(y0) - 1, 0), height), min(max(int(x0) - 1, 0), width)
    bottom, right = min(max(int(y1) + 2, top), height), min(max(int(x1) + 2, left), width)
    return slice(top, bottom), slice(left, right)


def beam_maps(
    fov_kind: ViewKind,
    apex_yx: tuple[float, float],
    radius_px: float,
    lateral_scale: float,
    ys: FloatMap,
    xs: FloatMap,
) -> tuple[FloatMap, FloatMap]:
    """(lateral, depth) of the pixels ``ys`` (rows, 1) by ``xs`` (1, columns)."""
    dy, dx = ys - np.float32(apex_yx[0]), xs - np.float32(apex_yx[1])
    if fov_kind == "linear":
        shape = (ys.shape[0], xs.shape[1])
        lateral = np.broadcast_to(dx / np.float32(lateral_scale), shape)
        return lateral, np.broadcast_to(dy, shape)
    return np.arctan2(dx, dy) / np.float32(lateral_scale), np.hypot(dx, dy) - np.float32(radius_px)


def make_field_of_view(
    kind: ViewKind, size_hw: tuple[int, int], rng: np.random.Generator
) -> FieldOfView:
    """Draw a field of view that fills the picture.

    A convex probe opens by 33 to 38 degrees to each side; its radius follows from the picture's
    size, so that the fan touches the picture's left and right border.
    """
    height, width = size_hw
    top = _TOP * height
    half_angle = float(np.deg2rad(rng.uniform(33.0, 38.0)))
    half_width = width * float(rng.uniform(0.43, 0.47))
    if kind == "linear":
        apex, radius, reach = (top, (width - 1) / 2), 0.0, _REACH * height
        scale = half_width
    else:
        outer = min(0.485 * width / np.sin(half_angle), 1.3 * height)
        radius = float(max((outer - _REACH * height) / np.cos(half_angle), 0.12 * outer))
        apex = (top - radius * float(np.cos(half_angle)), (width - 1) / 2)
        reach, scale = float(outer) - radius, half_angle
    ys = np.arange(height, dtype=np.float32)[:, None]
    xs = np.arange(width, dtype=np.float32)[None, :]
    lateral, depth = beam_maps(kind, apex, radius, scale, ys, xs)
    inside = (np.abs(lateral) <= 1.0) & (depth >= 0.0) & (depth <= reach)
    return FieldOfView(
        kind, size_hw, apex, radius, half_angle, half_width, reach, inside,
        np.ascontiguousarray(lateral), np.ascontiguousarray(depth),
    )  # fmt: skip
