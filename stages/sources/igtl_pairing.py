"""From a complete OpenIGTLink picture to an `Arrival`, with its pose: `Pairing`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stages.sources.feed import Arrival
from stages.sources.igtl_pose import Posed, PoseTrack
from stages.sources.igtl_told import PictureEnds, PoseTold
from stages.sources.lag import LagLimit
from stages.sources.region import placed
from stages.window import Window

_SAME: Final = 1e-3
_UNHEARD_NS: Final = 1_000_000_000
"""A tool that is not heard of for so long since the connection stands may be misspelt."""
_NAMES: Final = 8  # of others that are told


@dataclass(frozen=True, slots=True, eq=False)
class Complete:
    """A picture that is all there."""

    told: PictureEnds
    pixels: NDArray[np.uint8]
    window: Window
    began_ns: int
    """Monotonic clock: its first byte was seen."""
    ended_ns: int
    """Its last one was."""


class Pairing:
    """Holds a picture until it has its pose, for one connection.

    Without a ``pose_device`` the pose is that of the picture itself; else the transform of that
    name moves it, and without one in time (see `PoseTrack`) there is no pose. A picture counts as
    captured when its first byte was seen, less what it waited by the sender's stamps (see
    `LagLimit`), so that a queue on the way shows as age.
    """

    def __init__(self, pose_device: str | None, max_skew_ns: int, max_lag_s: float | None) -> None:
        self._pose_device = pose_device
        self._max_skew_ns = max_skew_ns
        self._unheard = pose_device is not None
        self._others: set[str] = set()
        self._began_ns = 0
        self._poses = PoseTrack(max_skew_ns)
        self._lag = LagLimit(max_lag_s)
        self._complete: Complete | None = None
        self._spacing_mm: tuple[float, float] | None = None

    def begin(self, now_ns: int) -> None:
        """The connection stands (monotonic clock)."""
        self._began_ns = now_ns
        self._poses.begin(now_ns)

    def add_pose(self, told: PoseTold, began_ns: int) -> None:
        """A transform came, of whatever device."""
        if told.header.device == self._pose_device:
            self._unheard = False
            self._poses.add(Posed(told.header.unix_ns, began_ns, told.matrix))
        elif len(self._others) < _NAMES:
            self._others.add(told.header.device)

    def missing(self, now_ns: int) -> str | None:
        """Once, and after a while: that the ``pose_device`` was never heard of, and who was."""
        if not self._unheard or now_ns - self._began_ns < _UNHEARD_NS:
            return None
        self._unheard = False
        heard = ", ".join(map(repr, sorted(self._others))) or "none"
        return (
            f"pictures have no pose: no transform of pose_device {self._pose_device!r} came, "
            f"those that did are of {heard}"
        )

    def put(self, complete: Complete) -> None:
        """A picture came; the one before was taken."""
        self._complete = complete

    def until(self, until_ns: int) -> int:
        """How long to wait for the next message: less where a picture waits."""
        if self._complete is None:
            return until_ns
        return min(until_ns, self._complete.ended_ns + self._max_skew_ns)

    def take(self, now_ns: int, *, at_once: bool) -> Arrival | None:
        """The picture, if there is one that waits no longer; ``at_once``: it must not. Raises
        `FeedError` where the stream stays too late."""
        complete = self._complete
        if complete is None:
            return None
        header, layout = complete.told.header, complete.told.layout
        pose = layout.pose
        if self._pose_device is not None:
            times = header.unix_ns, complete.began_ns
            in_time = now_ns < complete.ended_ns + self._max_skew_ns
            if in_time and not at_once and self._poses.waits(*times, now_ns):
                return None
            tool = self._poses.nearest(*times)
            pose = None if tool is None or pose is None else tool @ pose
        self._complete = None
        return Arrival(
            pixels=complete.pixels,
            captured_ns=self._captured(complete.began_ns, header.unix_ns),
            captured_unix_ns=header.unix_ns,
            spacing_mm=self._spacing(layout.spacing_mm),
            pose=pose,
            **placed(complete.window),
        )

    def _captured(self, began_ns: int, unix_ns: int | None) -> int:
        if unix_ns is None:
            return began_ns
        return began_ns - self._lag.lag_ns(began_ns, unix_ns)

    def _spacing(self, told: tuple[float, float] | None) -> tuple[float, float] | None:
        """That of the picture before, unless this one tells another: lengths of vectors that turn
        differ in their last digits, and a change of spacing begins an epoch."""
        kept = self._spacing_mm
        if told is None or kept is None or not all(map(_same, kept, told)):
            self._spacing_mm = told
        return self._spacing_mm


def _same(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=_SAME)
