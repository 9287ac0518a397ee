"""Percentiles of an endless series in fixed memory."""

from __future__ import annotations

import math

import numpy as np

_LOW_MS = 0.001
_STEP = 1.01
_BUCKETS = 2100
"""0.001 ms × 1.01^2100 is about 1.2e6 ms: twenty minutes."""


class Percentiles:
    """A histogram of milliseconds with buckets 1 % wide, so a percentile is within 1 %.

    Values below 0.001 ms count as 0.001 ms. `max` is exact.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(_BUCKETS, dtype=np.int64)
        self._max = 0.0

    def add(self, milliseconds: float) -> None:
        index = math.log(max(milliseconds, _LOW_MS) / _LOW_MS, _STEP)
        self._counts[min(int(index), _BUCKETS - 1)] += 1
        self._max = max(self._max, milliseconds)

    def at(self, quantile: float) -> float | None:
        """The value below which `quantile` (0..1) of the series lies; None without values."""
        cumulative = np.cumsum(self._counts)
        total = int(cumulative[-1])
        if total == 0:
            return None
        rank = max(1, math.ceil(quantile * total))
        bucket = int(np.searchsorted(cumulative, rank))
        middle = float(_LOW_MS * _STEP ** (bucket + 0.5))
        return min(middle, self._max)

    def summary(self) -> dict[str, float | None]:
        """p50, p95, p99 and max in milliseconds; None without values."""
        row = {name: self.at(q) for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}
        row["max"] = self._max if row["p50"] is not None else None
        return {name: None if v is None else round(v, 3) for name, v in row.items()}
