"""Percentiles of columns, of a whole run and along its time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kpi.history import Floats


@dataclass(frozen=True, slots=True)
class Spread:
    """Exact percentiles of the values that are known."""

    count: int
    p50: float
    p95: float
    p99: float
    max: float


def spread(values: Floats) -> Spread | None:
    """None without values. A percentile is the smallest value that so many do not exceed, the
    rank of the histograms behind `summary.json`."""
    known = np.sort(values[~np.isnan(values)])
    if not len(known):
        return None

    def at(share: float) -> float:
        return float(known[max(1, math.ceil(share * len(known))) - 1])

    return Spread(len(known), at(0.5), at(0.95), at(0.99), float(known[-1]))


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
