"""Draws the episodes of the synthetic scene: who comes, where, how large, for how long.

Sizes and speeds are those of a picture with a short side of 480 px and scale with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stages.sources.phantom_episodes import LUMEN, NEEDLE, Episode
from stages.sources.phantom_geometry import FieldOfView

_FADE_FRAMES: Final = 10.0
_DRIFT_PX: Final = 2.0  # largest drift of a 480-line picture, pixels a frame
_ADVANCE_PX: Final = 2.0  # mean advance of a needle, likewise
# Anchors, spread over the view: (lateral, share of the depth).
_SITES_AT: Final = ((-0.45, 0.30), (0.45, 0.33), (-0.64, 0.70), (0.02, 0.74), (0.64, 0.68))
SITES: Final = len(_SITES_AT)


def draw_episode(
    fov: FieldOfView,
    rng: np.random.Generator,
    *,
    object_id: int,
    class_id: int,
    start: int,
    room: int,
    site: int,
) -> Episode:
    """Draw an episode of at most ``room`` frames that begins at frame ``start``.

    ``site`` (0 to `SITES` - 1) is the object's place in the field of view.
    """
    if class_id == NEEDLE:
        return _draw_needle(fov, rng, object_id, start, room)
    unit = min(fov.size_hw) / 480.0
    length = int(rng.integers(int(0.55 * room), room))
    path = _draw_path(fov, rng, site, length * _DRIFT_PX * unit / 1.5)
    look = _draw_lumen(unit, rng) if class_id == LUMEN else _draw_lesion(unit, rng)
    orders, spread = look.orders, look.spread
    ripple = np.stack(
        [
            orders,
            spread * rng.uniform(0.4, 1.0, orders.size),
            rng.uniform(0, 2 * np.pi, orders.size),
            rng.normal(0, 0.02, orders.size),
        ],
        axis=1,
    )
    sway = np.stack(
        [unit * rng.uniform(3, 11, 2), 2 * np.pi / rng.uniform(80, 150, 2), rng.uniform(0, 6.3, 2)],
        axis=1,
    )
    return Episode(
        object_id, class_id, start, length, float(rng.random()), path, look.half_axes,
        float(rng.normal(0, 0.35)), ripple, sway, _FADE_FRAMES, look.level, look.shade,
        _draw_texture_shift(fov, rng),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """What tells a lumen from a lesion: size, harmonics of the outline, grey levels."""

    half_axes: tuple[float, float]
    orders: NDArray[np.float64]
    spread: NDArray[np.float64]
    level: float
    shade: float


def _draw_lumen(unit: float, rng: np.random.Generator) -> _Look:
    """Nearly elliptic, 62 to 157 px wide in a 480-line picture; enhances what lies behind."""
    minor = unit * float(rng.uniform(31.0, 54.0))
    axes = (minor * float(rng.uniform(1.05, 1.45)), minor)
    orders, spread = np.array([2.0, 3.0]), np.array([0.07, 0.06])
    return _Look(axes, orders, spread, float(rng.uniform(4, 22)), float(rng.uniform(14, 34)))


def _draw_lesion(unit: float, rng: np.random.Generator) -> _Look:
    """Irregular, 68 to 146 px wide in a 480-line picture; shades what lies behind."""
    minor = unit * float(rng.uniform(34.0, 56.0))
    axes = (minor * float(rng.uniform(1.0, 1.3)), minor)
    orders, spread = np.arange(2.0, 7.0), np.array([0.11, 0.10, 0.08, 0.06, 0.04])
    return _Look(axes, orders, spread, float(rng.uniform(43, 60)), -float(rng.uniform(26, 48)))


def _draw_texture_shift(fov: FieldOfView, rng: np.random.Generator) -> tuple[int, int]:
    """Where an object's centre lies in the texture, far enough from its borders for any size."""
    height, width = fov.size_hw
    return int(height * rng.uniform(0.62, 0.85)), int(width * rng.uniform(0.47, 0.62))


def _draw_path(
    fov: FieldOfView, rng: np.random.Generator, site: int, reach_px: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """From near the site: mostly a short way, at times towards another site or out of view."""
    here = _near_site(fov, rng, site)
    kind = rng.random()
    if kind < 0.45:
        there = _near_site(fov, rng, site)
    elif kind < 0.75:
        there = _near_site(fov, rng, int(rng.integers(SITES)))
    else:
        lateral, depth = fov.beam(*here)
        side = 1.0 if lateral > 0 else -1.0
        there = fov.point(side * 1.45, depth)
    distance = float(np.hypot(there[0] - here[0], there[1] - here[1]))
    part = min(1.0, reach_px / max(distance, 1.0))
    there = (here[0] + part * (there[0] - here[0]), here[1] + part * (there[1] - here[1]))
    return (there, here) if rng.random() < 0.5 else (here, there)


def _near_site(fov: FieldOfView, rng: np.random.Generator, site: int) -> tuple[float, float]:
    lateral, depth = _SITES_AT[site]
    return fov.point(lateral + rng.normal(0, 0.09), fov.depth_px * (depth + rng.normal(0, 0.04)))


def _draw_needle(
    fov: FieldOfView, rng: np.random.Generator, object_id: int, start: int, room: int
) -> Episode:
    """A needle from the left or the right edge of the view, 15 to 60 degrees downwards."""
    unit = min(fov.size_hw) / 480.0
    best: tuple[float, float, tuple[float, float]] = (-1.0, 0.0, (0.0, 0.0))
    for _ in range(12):
        side = 1.0 if rng.random() < 0.5 else -1.0
        slope = float(np.deg2rad(rng.uniform(15.0, 60.0)))
        entry = fov.point(side * 1.02, fov.depth_px * rng.uniform(0.1, 0.5))
        angle = slope if side < 0 else float(np.pi) - slope
        reach = _free_length(fov, entry, angle, unit * float(rng.uniform(150.0, 300.0)))
        if reach > best[0]:
            best = (reach, angle, entry)
        if reach >= 150.0 * unit:
            break
    reach, angle, entry = max(best[0], 40.0 * unit), best[1], best[2]
    length = min(int(rng.integers(int(0.7 * room), room)), 400)
    sway = np.zeros((2, 3))
    sway[0] = 0.05 * reach, 2 * np.pi / rng.uniform(60, 110), rng.uniform(0, 6.3)
    ramp = max(reach / (_ADVANCE_PX * unit), 1.0)
    tip = (entry[0] + reach * float(np.sin(angle)), entry[1] + reach * float(np.cos(angle)))
    return Episode(
        object_id, NEEDLE, start, length, float(rng.random()) + 0.3, (entry, tip),
        (reach, unit * float(rng.uniform(11.0, 15.0))), angle, np.zeros((0, 4)), sway, ramp,
        float(rng.uniform(70, 98)), -float(rng.uniform(8, 16)), _draw_texture_shift(fov, rng),
    )  # fmt: skip


def _free_length(
    fov: FieldOfView, entry: tuple[float, float], angle: float, wanted: float
) -> float:
    """How far, up to ``wanted`` pixels, a needle runs before it nears the view's other borders."""
    for length in np.arange(wanted, 0.0, -10.0).tolist():
        lateral, depth = fov.beam(
            entry[0] + length * float(np.sin(angle)), entry[1] + length * float(np.cos(angle))
        )
        if abs(lateral) < 0.85 and depth < 0.9 * fov.depth_px:
            return float(length)
    return 0.0
