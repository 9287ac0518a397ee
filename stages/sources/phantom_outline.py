"""Outlines of the synthetic objects: what belongs to them, and what can be seen of them.

An outline is a signed distance in pixels on a pixel box, negative inside. Truth and picture use
the same outline: a pixel belongs to an object where its distance is below zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stages.sources.phantom_episodes import LESION, LUMEN, NEEDLE, Episode, Pose
from stages.sources.phantom_geometry import Box, FieldOfView, FloatMap, clipped_box

# Half thicknesses from a needle's axis to its reverberations, the furthest.
REVERBERATION_REACH: Final = 4.4
_ANGLES: Final = 256
_MIN_PIXELS: Final = 400
_EROSIONS: Final = 6  # what survives six one-pixel erosions is more than 12 px thick
_EDGE_PX: Final = {LUMEN: 2.0, LESION: 4.5, NEEDLE: 2.5}  # width of the edge's blur


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """An object's shape at one frame, on the pixels of ``box``.

    ``distance`` float32, pixels, negative inside. ``across`` float32: for a blob the share of
    the outline's normal that points along the beams (0..1), for a needle the signed distance
    from its axis, positive below. ``unit`` is the size of the picture over 480.
    """

    episode: Episode
    pose: Pose
    box: Box
    distance: FloatMap
    across: FloatMap
    unit: float


def outline(fov: FieldOfView, episode: Episode, pose: Pose) -> Outline | None:
    """The object's outline, or None where nothing of it can be inside the picture."""
    if episode.class_id == NEEDLE:
        return _needle_outline(fov, episode, pose)
    return _blob_outline(fov, episode, pose)


def grid(box: Box, origin_yx: tuple[float, float]) -> tuple[FloatMap, FloatMap]:
    """Rows (h, 1) and columns (1, w) of ``box``, in pixels from ``origin_yx``."""
    dy = np.arange(box[0].start, box[0].stop, dtype=np.float32) - np.float32(origin_yx[0])
    dx = np.arange(box[1].start, box[1].stop, dtype=np.float32) - np.float32(origin_yx[1])
    return dy[:, None], dx[None, :]


def _blob_outline(fov: FieldOfView, episode: Episode, pose: Pose) -> Outline | None:
    y, x = pose.centre_yx
    major, minor = (axis * pose.scale for axis in episode.half_axes)
    reach = major * (1.0 + float(episode.ripple[:, 1].sum())) + 2.0
    box = clipped_box(fov.size_hw, y - reach, y + reach, x - reach, x + reach)
    dy, dx = grid(box, pose.centre_yx)
    if dy.size == 0 or dx.size == 0:
        return None
    cos, sin = np.float32(np.cos(pose.angle)), np.float32(np.sin(pose.angle))
    along, across = dx * cos + dy * sin, dy * cos - dx * sin
    along /= np.float32(major)
    across /= np.float32(minor)
    radius = np.hypot(dx, dy) + np.float32(1e-3)
    stretch = np.hypot(along, across) + np.float32(1e-6)
    # Along the ray from the centre the outline lies at radius * rim / stretch.
    turn = np.arctan2(across, along) * np.float32(_ANGLES / (2 * np.pi))
    rim = _rim(episode, pose).take(turn.astype(np.int32), mode="wrap")
    distance = radius * (1 - rim / stretch)
    return Outline(
        episode,
        pose,
        box,
        distance,
        np.divide(np.abs(dy), radius, dtype=np.float32),
        min(fov.size_hw) / 480.0,
    )


def _rim(episode: Episode, pose: Pose) -> FloatMap:
    """Outline radius, relative to the ellipse, for `_ANGLES` directions."""
    order, size, phase, speed = episode.ripple.T[:, :, None]
    age = pose.age
    turn = np.arange(_ANGLES) * (2 * np.pi / _ANGLES)
    rim: FloatMap = (1 + (size * np.cos(order * turn + phase + speed * age)).sum(0)).astype(
        np.float32
    )
    return rim


def _needle_outline(fov: FieldOfView, episode: Episode, pose: Pose) -> Outline | None:
    (y0, x0), (y1, x1) = episode.path_yx[0], pose.centre_yx
    half = episode.half_axes[1]
    below = half * (REVERBERATION_REACH + 1.0)
    box = clipped_box(
        fov.size_hw, min(y0, y1) - half, max(y0, y1) + below,
        min(x0, x1) - below, max(x0, x1) + below,
    )  # fmt: skip
    dy, dx = grid(box, pose.centre_yx)
    if dy.size == 0 or dx.size == 0:
        return None
    cos, sin = np.float32(np.cos(pose.angle)), np.float32(np.sin(pose.angle))
    # From the tip forwards, and from the axis downwards whichever way the needle points.
    ahead = dx * cos + dy * sin
    across = dy * cos - dx * sin
    if cos < 0:
        across = -across
    # A bevelled tip: the lower edge ends first.
    tip = ahead + np.float32(0.8) * (across + np.float32(half)) * np.float32(0.5)
    distance = np.maximum(np.abs(across) - np.float32(half), tip)
    return Outline(episode, pose, box, distance, across, min(fov.size_hw) / 480.0)


def coverage(shape: Outline) -> FloatMap:
    """Opacity 0..1 of the object's pixels; one half or more exactly where truth may be."""
    soft = np.float32(_EDGE_PX[shape.episode.class_id] * shape.unit)
    alpha: FloatMap = np.clip(np.float32(0.5) - shape.distance / soft, 0, 1)
    return alpha if shape.pose.contrast >= 1 else alpha * np.float32(shape.pose.contrast)


def is_visible(shape: Outline) -> bool:
    """Whether the object has enough contrast for a person to be sure that it is there."""
    return shape.pose.contrast >= 0.5


def is_counted(mask: NDArray[np.bool_]) -> bool:
    """Whether a mask has at least 400 pixels and a part that is more than 12 px thick.

    Thick enough is what survives six erosions, by the 4- and the 8-neighbourhood in turn (their
    sum is close to a disc). ``mask`` bool (H, W); pixels beyond its border count as outside.
    """
    if int(np.count_nonzero(mask)) < _MIN_PIXELS:
        return False
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    core = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    for step in range(_EROSIONS):
        inner = core[:, 1:-1] & core[:, :-2] & core[:, 2:]
        if step % 2:
            kept = inner[1:-1] & inner[:-2] & inner[2:]
        else:
            kept = inner[1:-1] & core[:-2, 1:-1] & core[2:, 1:-1]
        core = np.zeros_like(core)
        core[1:-1, 1:-1] = kept
    return bool(core.any())
