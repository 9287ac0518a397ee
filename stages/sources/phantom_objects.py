"""How each class of the synthetic objects looks, and how it shades what lies behind it."""

from __future__ import annotations

from typing import Final

import numpy as np

from stages.sources.phantom_episodes import LESION, LUMEN, NEEDLE, Pose
from stages.sources.phantom_geometry import FieldOfView, FloatMap
from stages.sources.phantom_outline import REVERBERATION_REACH, Outline, coverage, grid
from stages.sources.phantom_texture import MARGIN_PX, Textures, cut

# Half thicknesses below a needle's axis, and grey levels.
_REVERBERATIONS: Final = ((2.3, 52.0), (3.4, 36.0), (REVERBERATION_REACH, 22.0))


def paint(shape: Outline, echo: FloatMap, textures: Textures) -> None:
    """Draw the object into ``echo`` (H, W), grey levels without depth gain."""
    rows, columns = shape.box
    target = echo[rows, columns]
    y, x = shape.pose.centre_yx
    shift = shape.episode.texture_shift
    at = (shift[0] + rows.start - round(y), shift[1] + columns.start - round(x))
    size = (target.shape[0], target.shape[1])
    speckle = cut(textures.speckle, size, at)
    look = _LOOKS[shape.episode.class_id](shape, speckle, cut(textures.coarse, size, at))
    if shape.episode.class_id == NEEDLE:
        _add_reverberations(shape, target)
    elif shape.episode.class_id == LESION:
        look += _local_brightness(textures, shape.pose)
    look -= target
    look *= coverage(shape)
    target += look


def _local_brightness(textures: Textures, pose: Pose) -> np.float32:
    """What to add so that a lesion stands out from bright tissue as much as from dark tissue."""
    height, width = textures.shade.shape
    row = min(max(round(pose.centre_yx[0]) + MARGIN_PX, 0), height - 1)
    column = min(max(round(pose.centre_yx[1]) + MARGIN_PX, 0), width - 1)
    return max(textures.shade[row, column], np.float32(0))


def _look_lumen(shape: Outline, speckle: FloatMap, coarse: FloatMap) -> FloatMap:
    """Almost echo-free inside; a bright wall, brightest where it faces the beam."""
    wall_px = np.float32(5.2 * shape.unit)
    wall = np.clip((shape.distance + wall_px) * np.float32(0.4 / shape.unit) + 0.5, 0, 1)
    bright = np.float32(16) + np.float32(56) * shape.across**2 + np.float32(14) * coarse
    # Reverberation haze below the upper wall, as in a real vessel.
    dy, _ = grid(shape.box, shape.pose.centre_yx)
    minor = shape.episode.half_axes[1] * shape.pose.scale
    haze = np.clip(np.float32(0.1) - dy * np.float32(1 / minor), 0, 1) * np.float32(40)
    inside = np.float32(shape.episode.level - 86) + haze + np.float32(7) * coarse
    look: FloatMap = inside + (bright - inside) * wall + speckle * np.float32(0.7)
    return look


def _look_lesion(shape: Outline, speckle: FloatMap, coarse: FloatMap) -> FloatMap:
    """Brighter than tissue, coarse and uneven."""
    look: FloatMap = np.float32(shape.episode.level) + speckle + np.float32(11) * coarse
    return look


def _look_needle(shape: Outline, speckle: FloatMap, coarse: FloatMap) -> FloatMap:
    """A strong reflector, brightest along its axis, whose echo comes and goes along its way."""
    profile = np.abs(shape.across) * np.float32(1 / shape.episode.half_axes[1])
    level = np.float32(shape.episode.level) - np.float32(36) * profile * profile
    look: FloatMap = level + np.float32(0.8) * speckle + np.float32(22) * coarse
    return look


_LOOKS: Final = {LUMEN: _look_lumen, LESION: _look_lesion, NEEDLE: _look_needle}


def _add_reverberations(shape: Outline, target: FloatMap) -> None:
    """Weak copies of the needle below it, fading with depth; no part of the truth."""
    half = np.float32(shape.episode.half_axes[1])
    beyond_tip = shape.distance > np.abs(shape.across) + half
    offset = shape.across / half
    total = np.zeros_like(offset)
    for place, grey in _REVERBERATIONS:
        total += np.float32(grey) * np.maximum(1 - (4 * (offset - np.float32(place))) ** 2, 0)
    total[beyond_tip] = 0
    target += total


def shade(shape: Outline, fov: FieldOfView, gain: FloatMap) -> None:
    """Add the object's enhancement or shadow to ``gain`` (H, W), along the beams behind it."""
    y, x = shape.pose.centre_yx
    if shape.episode.class_id == NEEDLE:
        return
    lateral, depth = fov.beam(y, x)
    half_px = shape.episode.half_axes[0] * shape.pose.scale * 0.9
    half = half_px / max(fov.pixels_per_lateral(depth), 1.0)
    rows, columns = fov.wedge(lateral, half, max(depth, 0.0))
    across = (fov.lateral[rows, columns] - np.float32(lateral)) * np.float32(1 / half)
    profile = np.clip(np.float32(1.6) * (1 - across * across), 0, 1)
    behind = fov.depth[rows, columns] - np.float32(depth + 0.55 * shape.episode.half_axes[1])
    onset = np.clip(behind * np.float32(1 / (18 * shape.unit)), 0, 1)
    fading = np.clip(1 - behind * np.float32(0.6 / fov.depth_px), 0, 1)
    profile *= onset
    profile *= fading
    profile *= np.float32(shape.episode.shade * shape.pose.contrast)
    gain[rows, columns] += profile
