"""When each frame of a DICOM cine is due."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


@dataclass(frozen=True, slots=True)
class CineTiming:
    """Nanoseconds from the first frame of a pass to each frame, and to the next pass."""

    offsets_ns: tuple[int, ...]
    pass_ns: int


def even_timing(period_ms: float, frames: int) -> CineTiming:
    """``frames`` frames, ``period_ms`` apart."""
    times = [round(index * period_ms * 1e6) for index in range(frames + 1)]
    return CineTiming(tuple(times[:-1]), times[-1])


def timing_at(seconds: Sequence[float]) -> CineTiming | None:
    """Frames that were taken at ``seconds``; None where these do not rise."""
    steps_ms = [(b - a) * 1e3 for a, b in pairwise(seconds)]
    if not steps_ms or min(steps_ms) < 0 or sum(steps_ms) <= 0:
        return None
    return _stepped(steps_ms)


def read_timing(header: Dataset, frames: int) -> CineTiming | None:
    """The times of the file (DICOM PS3.3 C.7.6.5), None where it tells none.

    The first usable of Frame Time (ms), Frame Time Vector (ms since the frame before, the first
    of no meaning), Cine Rate and Recommended Display Frame Rate (frames a second). A value
    that is not a positive number, or a vector of the wrong length, is passed over.
    """
    period_ms = _positive(header.get("FrameTime"))
    if period_ms is not None:
        return even_timing(period_ms, frames)
    vector = _vector(header.get("FrameTimeVector"), frames)
    if vector is not None:
        return vector
    for keyword in ("CineRate", "RecommendedDisplayFrameRate"):
        rate = _positive(header.get(keyword))
        if rate is not None:
            return even_timing(1e3 / rate, frames)
    return None


def _vector(value: object, frames: int) -> CineTiming | None:
    if not isinstance(value, Sequence) or len(value) != frames or frames < 2:
        return None
    steps_ms = [float(step) for step in value][1:]
    if not all(math.isfinite(step) and step >= 0 for step in steps_ms) or sum(steps_ms) <= 0:
        return None
    return _stepped(steps_ms)


def _stepped(steps_ms: Sequence[float]) -> CineTiming:
    """The next pass begins one mean step after the last frame."""
    offsets = tuple(round(ms * 1e6) for ms in accumulate(steps_ms, initial=0.0))
    return CineTiming(offsets, round(offsets[-1] * (len(steps_ms) + 1) / len(steps_ms)))


def _positive(value: object) -> float | None:
    if value is None or value == "":
        return None
    number = float(value)  # type: ignore[arg-type]  # DS and IS are numbers
    return number if math.isfinite(number) and number > 0 else None
