"""What a run counts about itself: written by the egress thread, read by display and summary."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

from kpi import emit
from kpi.events import DropReason, FrameDropped, StageMs
from pipeline.percentiles import Percentiles

_RATE_WINDOW_S = 2.0


class FrameName(NamedTuple):
    """What a frame is known by."""

    source_id: str
    epoch: int
    frame_id: int


class Tally:
    """Counts and distributions of the published frames; memory does not grow with the run."""

    def __init__(self, stages: tuple[str, ...]) -> None:
        self._lock = threading.Lock()
        self.published = 0
        self.upstream: Callable[[], Mapping[DropReason, int]] = dict
        """What Grab dropped before a frame reached the chain."""
        self.troubles: Callable[[], Counter[str]] = Counter
        """What the source counted before anything was grabbed, by kind."""
        self._dropped: Counter[DropReason] = Counter()
        self.objects = 0
        self.first_grab_ns: int | None = None
        self.last_publish_ns: int | None = None
        self.latency_ms = Percentiles()
        self.age_ms = Percentiles()
        self.host_ms = {stage: Percentiles() for stage in stages}
        self.gpu_ms = {stage: Percentiles() for stage in stages}
        self._window: list[int] = []

    def publish(
        self, grabbed_ns: int, now_ns: int, age_ms: float, stages: dict[str, StageMs], objects: int
    ) -> None:
        """Count one published frame; times on the monotonic clock."""
        with self._lock:
            self.published += 1
            self.objects = objects
            if self.first_grab_ns is None:
                self.first_grab_ns = grabbed_ns
            self.last_publish_ns = now_ns
            self.latency_ms.add((now_ns - grabbed_ns) / 1e6)
            self.age_ms.add(age_ms)
            for stage, spent in stages.items():
                self.host_ms[stage].add(spent.host)
                if spent.gpu is not None:
                    self.gpu_ms[stage].add(spent.gpu)
            self._window.append(now_ns)
            oldest = now_ns - int(_RATE_WINDOW_S * 1e9)
            while self._window[0] < oldest:
                self._window.pop(0)

    def drop(self, frame: FrameName, reason: DropReason) -> None:
        """Count one frame that will not be published, and tell."""
        with self._lock:
            self._dropped[reason] += 1
        emit(FrameDropped(*frame, reason))

    @property
    def dropped(self) -> dict[DropReason, int]:
        """Frames grabbed and not published, by reason."""
        with self._lock:
            return dict(self._dropped + Counter(self.upstream()))

    @property
    def fps(self) -> float | None:
        """Published frames over the time from the first grab to the last publish."""
        if self.first_grab_ns is None or self.last_publish_ns is None:
            return None
        return self.published / max((self.last_publish_ns - self.first_grab_ns) / 1e9, 1e-9)

    @property
    def recent_fps(self) -> float:
        """Published frames a second over the last two seconds."""
        oldest = time.monotonic_ns() - int(_RATE_WINDOW_S * 1e9)
        with self._lock:
            return sum(stamp >= oldest for stamp in self._window) / _RATE_WINDOW_S

    @property
    def since_publish_s(self) -> float | None:
        """Seconds since the last frame was published; None before the first."""
        last = self.last_publish_ns
        return None if last is None else (time.monotonic_ns() - last) / 1e9
