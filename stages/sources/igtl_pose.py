"""Poses sent over OpenIGTLink, and which of them belongs to a picture: `PoseTrack`."""

from __future__ import annotations

import math
import struct
from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stages.sources.igtl_header import MessageError

POSE_BYTES: Final = {"TRANSFORM": (48,), "POSITION": (28, 24, 12), "QTRANS": (28, 24, 12)}
"""Sizes that a pose of each type may have; a quaternion may leave out w, or be left out."""

_KEPT: Final = 128  # transforms: a second of a fast tracker
_SILENT_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Posed:
    """A transform at its time."""

    unix_ns: int | None
    arrived_ns: int
    """Monotonic clock."""
    matrix: NDArray[np.float64]
    """float64 (4, 4)."""


def parse_pose(kind: str, content: bytes) -> NDArray[np.float64]:
    """float64 (4, 4) from the content of a TRANSFORM, POSITION or QTRANS message, in mm.

    Raises `MessageError` for a size that the type does not have, and for what is not finite.
    """
    if len(content) not in POSE_BYTES[kind]:
        sizes = " or ".join(map(str, POSE_BYTES[kind]))
        raise MessageError(f"a {kind} of {len(content)} bytes, expected {sizes}")
    values = struct.unpack(f">{len(content) // 4}f", content)
    if not all(map(math.isfinite, values)):
        raise MessageError(f"a {kind} that is not finite")
    pose = np.eye(4)
    if kind == "TRANSFORM":  # the columns of the upper three rows
        pose[:3] = np.array(values).reshape(4, 3).T
        return pose
    pose[:3, 3] = values[:3]
    pose[:3, :3] = _rotation(kind, values[3:])
    return pose


class PoseTrack:
    """The transforms of one tool, and the one that belongs to a picture.

    That is the one nearest in time, at most ``max_skew_ns`` away. Times are those that the sender
    stamped where both carry one, else those of arrival. A sender may send the transform behind
    its picture, so a picture `waits` for a transform of its time or later, if they are coming at
    all.
    """

    def __init__(self, max_skew_ns: int) -> None:
        self._max_skew_ns = max_skew_ns
        self._seen: deque[Posed] = deque(maxlen=_KEPT)
        self._heard_ns = 0

    def begin(self, now_ns: int) -> None:
        """The connection stands (monotonic clock): transforms may come."""
        self._heard_ns = now_ns

    def add(self, posed: Posed) -> None:
        self._seen.append(posed)
        self._heard_ns = posed.arrived_ns

    def nearest(self, unix_ns: int | None, arrived_ns: int) -> NDArray[np.float64] | None:
        """The matrix for a picture stamped and arrived then; None where there is none in time."""
        apart = [(abs(_later(posed, unix_ns, arrived_ns)), posed) for posed in self._seen]
        distance_ns, found = min(apart, key=lambda each: each[0], default=(0, None))
        if found is None or distance_ns > self._max_skew_ns:
            return None
        return found.matrix

    def waits(self, unix_ns: int | None, arrived_ns: int, now_ns: int) -> bool:
        """Whether a better one may still come, seen from ``now_ns`` (monotonic)."""
        if now_ns - self._heard_ns >= _SILENT_NS:
            return False
        return all(_later(posed, unix_ns, arrived_ns) < 0 for posed in self._seen)


def _later(posed: Posed, unix_ns: int | None, arrived_ns: int) -> int:
    """Nanoseconds from a picture to a transform."""
    if posed.unix_ns is None or unix_ns is None:
        return posed.arrived_ns - arrived_ns
    return posed.unix_ns - unix_ns


def _rotation(kind: str, quaternion: tuple[float, ...]) -> NDArray[np.float64]:
    """(3, 3) of a unit quaternion (x, y, z, w); w is positive where it was left out."""
    if not quaternion:
        return np.eye(3)
    x, y, z, *rest = quaternion
    w = rest[0] if rest else math.sqrt(max(0.0, 1.0 - x * x - y * y - z * z))
    length = math.sqrt(x * x + y * y + z * z + w * w)
    if not length:
        raise MessageError(f"a {kind} whose quaternion is zero")
    x, y, z, w = (value / length for value in (x, y, z, w))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
