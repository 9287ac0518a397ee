"""Percentiles of columns, of a whole run and along its time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpi.events import Spread

Floats = NDArray[np.floating[Any]]


def spread(values: Floats) -> Spread | None:
    """Exact percentiles of the known values; None without any. A percentile is the smallest value
    that so many do not exceed: the rank of the histograms behind `summary.json`."""
    known = np.sort(values[~np.isnan(values)])
    if not len(known):
        return None

    def at(share: float) -> float:
        return float(known[max(1, math.ceil(share * len(known))) - 1])

    return Spread(at(0.5), at(0.95), at(0.99), float(known[-1]))


def typical(p50: Floats, p95: Floats, p99: Floats, top: Floats) -> Spread | None:
    """Medians of percentiles, and the largest maximum; None where nothing is known."""
    middle, high, higher, highest = (spread(column) for column in (p50, p95, p99, top))
    if middle is None or high is None or higher is None or highest is None:
        return None
    return Spread(middle.p50, high.p50, higher.p50, highest.max)


@dataclass(frozen=True, slots=True, eq=False)
class Bins:
    """A column along the time axis, cut into equal spans; NaN where a span has no value."""

    seconds: Floats
    """The middle of each span, from the beginning of the axis."""
    p50: Floats
    p95: Floats
    max: Floats


def along(seconds: Floats, values: Floats, length: float, spans: int) -> Bins:
    """`values` at `seconds` within 0..`length`, in so many spans."""
    known = ~np.isnan(values)
    width = max(length, 1e-9) / spans
    span = np.clip((seconds[known] / width).astype(np.int64), 0, spans - 1)
    order = np.argsort(span, kind="stable")
    parts = np.split(values[known][order], np.searchsorted(span[order], np.arange(1, spans)))
    rows = [spread(part) for part in parts]
    p50, p95, top = (
        np.array([math.nan if row is None else getattr(row, name) for row in rows])
        for name in ("p50", "p95", "max")
    )
    return Bins((np.arange(spans) + 0.5) * width, p50, p95, top)
