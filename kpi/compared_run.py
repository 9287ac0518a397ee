"""A run as `compare` sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from kpi.frame_columns import Floats, Frames, Seconds, Share
from kpi.history import History
from kpi.per_second import per_second

TimeName = Literal["latency", "age", "waiting"]
WARM_UP_FRAMES = 10
"""The first frames of a run are left out: everything is new to them."""


@dataclass(frozen=True, slots=True, eq=False)
class ComparedRun:
    """A run as it is compared: a row a frame, or a row a second where either log has only those."""

    history: History
    seconds: Seconds | None

    @property
    def rows(self) -> Frames:
        return self.history.frames if self.seconds is None else self.seconds.rows("p50")

    def times(self, name: TimeName, share: Share) -> Floats:
        """Latency, age or waiting; of a second, its `share`."""
        rows = self.rows if self.seconds is None else self.seconds.rows(share)
        return {"latency": rows.latency_ms, "age": rows.age_ms, "waiting": rows.waiting_ms}[name]

    @property
    def published(self) -> Floats:
        """Frames a row."""
        counts = np.ones(len(self.rows)) if self.seconds is None else self.seconds.published
        return counts.astype(np.float64)

    def warm(self, values: Floats) -> Floats:
        """The known ones after the first frames, or the first second."""
        later = values[WARM_UP_FRAMES if self.seconds is None else 1 :]
        return later[~np.isnan(later)]

    def spans(self) -> Floats:
        """Edges of spans of a second, from the first frame to the last."""
        ts = np.concatenate([self.rows.ts, self.history.drops.ts])
        if not len(ts) or not np.ptp(ts) > 0:
            return np.zeros(2)  # one span, of no length: nothing is a rate of it
        edges: Floats = np.linspace(ts.min(), ts.max(), int(np.clip(np.ptp(ts), 1, 1 << 20)) + 1)
        return edges


def compared_runs(a: History, b: History) -> tuple[ComparedRun, ComparedRun]:
    """Both in rows of the same kind."""
    if a.row == b.row == "frame":
        return ComparedRun(a, None), ComparedRun(b, None)
    first, second = (h.per_second if h.row == "second" else per_second(h.frames) for h in (a, b))
    return ComparedRun(a, first), ComparedRun(b, second)
