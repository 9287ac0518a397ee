"""A rib that sweeps through the view at times: a bright cap with a deep acoustic shadow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.sources.phantom_geometry import Box, FieldOfView, FloatMap

_START = 1.4  # lateral place, outside the view, where a sweep begins and ends


@dataclass(frozen=True, slots=True, eq=False)
class Rib:
    """Sweeps of ``sweep`` frames, one in every ``period`` frames from frame ``offset`` on.

    ``half`` is the shadow's half width in lateral units, ``depth`` the cap's top in pixels,
    ``sign`` the direction of the sweep, ``bend`` the cap's fall at its ends in pixels.
    """

    period: int
    offset: int
    sweep: int
    half: float
    depth: float
    bend: float
    sign: float

    def lateral(self, index: int) -> float | None:
        """The cap's lateral place at a frame; None between two sweeps."""
        age = (index - self.offset) % self.period
        if index < self.offset or age >= self.sweep:
            return None
        return self.sign * _START * (2.0 * age / self.sweep - 1.0)


def draw_rib(fov: FieldOfView, rng: np.random.Generator) -> Rib:
    """Draw a rib whose shadow moves by at most 3.6 px a frame (480 lines) at full depth."""
    unit = min(fov.size_hw) / 480.0
    fastest = rng.uniform(2.6, 3.6) * unit
    sweep = int(2 * _START * fov.pixels_per_lateral(fov.depth_px) / fastest)
    return Rib(
        period=sweep + int(rng.integers(180, 420)),
        offset=int(rng.integers(20, 200)),
        sweep=sweep,
        half=float(rng.uniform(0.19, 0.27)),
        depth=fov.depth_px * float(rng.uniform(0.06, 0.12)),
        bend=unit * float(rng.uniform(8, 16)),
        sign=1.0 if rng.random() < 0.5 else -1.0,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Shadow:
    """A rib at one frame, on the pixels of ``box``; float32 maps.

    ``dark``: 0..1, one in the shadow's core; ``cap``: 0..1, one on the bright cap.
    """

    box: Box
    dark: FloatMap
    cap: FloatMap

    def hides(self) -> NDArray[np.bool_]:
        """What cannot be seen: the shadow and the cap, bool, on the pixels of ``box``."""
        return (self.dark >= 0.5) | (self.cap >= 0.5)


def cast_shadow(rib: Rib, fov: FieldOfView, index: int) -> Shadow | None:
    """The rib's shadow at a frame; None where no rib is in the view."""
    place = rib.lateral(index)
    if place is None:
        return None
    unit = min(fov.size_hw) / 480.0
    box = fov.wedge(place, rib.half * 1.1, max(rib.depth - 12 * unit, 0.0))
    if box[0].start >= box[0].stop or box[1].start >= box[1].stop:
        return None
    across = np.abs(fov.lateral[box] - np.float32(place)) * np.float32(1 / rib.half)
    below = fov.depth[box] - np.float32(rib.depth) - np.float32(rib.bend) * across * across
    sides = np.clip((1 - across) * np.float32(9) + np.float32(0.5), 0, 1)
    cap = np.clip(1.3 - np.abs(below) * np.float32(1 / (7 * unit)), 0, 1) * sides
    dark = np.clip(below * np.float32(1 / (10 * unit)), 0, 1) * sides
    return Shadow(box, dark, cap)
