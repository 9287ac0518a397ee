"""What changed between two runs, and whether it is more than noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kpi.bootstrap import CONFIDENCE, Estimate, quantile, ratio
from kpi.history import Floats, History, Ints

Verdict = Literal["within noise", "more than noise", "too few to tell", "only in one"]
WARM_UP_FRAMES = 10
"""The first frames of a run are left out: everything is new to them."""
_SMALLEST_SHARE = 0.02
"""A smaller change is told as noise, however sure: nobody acts on it."""
_SMALLEST_MS = 0.01
_SHARES = (0.5, 0.95, 0.99)
_SPAN_S = 0.25
_SPANS_A_BLOCK = 4
_SEED = 20
"""The same two logs always give the same answer."""


@dataclass(frozen=True, slots=True)
class Words:
    """What more and less of a figure mean."""

    more: str
    less: str


_TIME, _RATE = Words("slower", "faster"), Words("faster", "slower")
_COUNT = Words("more", "fewer")


@dataclass(frozen=True, slots=True)
class Change:
    """One figure in both runs."""

    name: str
    """Like "latency p95 (ms)"."""
    a: float | None
    b: float | None
    low: float | None
    """The interval of `b` - `a` in the figure's unit; None where the data do not give one."""
    high: float | None
    verdict: Verdict
    words: Words

    @property
    def share(self) -> float | None:
        """`b` over `a`, less 1; None where `a` is 0 or either is unknown."""
        if self.a is None or self.b is None or self.a == 0:
            return None
        return self.b / self.a - 1

    @property
    def told(self) -> str:
        """Like "slower by 12.0 %, more than noise"."""
        if self.verdict != "more than noise" or self.a is None or self.b is None:
            return self.verdict
        word = self.words.more if self.b > self.a else self.words.less
        by = f"{abs(self.b - self.a):.3g}" if self.share is None else f"{abs(self.share):.1%}"
        return f"{word} by {by.replace('%', ' %')}, {self.verdict}"


def compare(a: History, b: History) -> tuple[Change, ...]:
    """Every figure that either run has. The interval knows the noise within the two runs only:
    what differs between any two runs of one program, it takes for a change."""
    return tuple(_Comparison(a, b).changes())


class _Comparison:
    def __init__(self, a: History, b: History) -> None:
        self._runs = (a, b)
        self._random = np.random.default_rng(_SEED)

    def changes(self) -> Iterator[Change]:
        first, second = self._runs
        a, b = first.frames, second.frames
        yield _change("frames a second", self._rate(first), self._rate(second), _RATE)
        dropped = (self._drop_share(first), self._drop_share(second))
        yield _change("dropped share", *dropped, _COUNT)
        yield from self._timed("latency", a.latency_ms, b.latency_ms)
        yield from self._timed("age", a.age_ms, b.age_ms)
        yield from self._timed("waiting", a.waiting_ms, b.waiting_ms)
        for name in dict.fromkeys(stage.name for stage in (*a.stages, *b.stages)):
            one, other = a.stage(name), b.stage(name)
            yield from self._timed(f"{name} host", one.host_ms, other.host_ms)
            yield from self._timed(f"{name} gpu", one.gpu_ms, other.gpu_ms)
        yield _change("objects, mean", self._mean(a.objects), self._mean(b.objects), _COUNT)

    def _timed(self, name: str, a: Floats, b: Floats) -> Iterator[Change]:
        """Percentiles and mean of milliseconds; nothing where neither run has them."""
        if np.isnan(a).all() and np.isnan(b).all():
            return
        for share in _SHARES:
            estimates = (self._quantile(a, share), self._quantile(b, share))
            yield _change(f"{name} p{share * 100:.0f} (ms)", *estimates, _TIME, _SMALLEST_MS)
        yield _change(f"{name} mean (ms)", self._mean(a), self._mean(b), _TIME, _SMALLEST_MS)

    def _quantile(self, values: Floats, share: float) -> Estimate | None:
        return quantile(_warm(values), share, self._random)

    def _mean(self, values: Floats | Ints) -> Estimate | None:
        known = _warm(values.astype(np.float64))
        return ratio(known, np.ones(len(known)), self._random)

    def _rate(self, history: History) -> Estimate | None:
        """Published frames a second."""
        edges = _edges(history)
        published, _ = np.histogram(history.frames.ts, edges)
        return ratio(published.astype(np.float64), np.diff(edges), self._random, _SPANS_A_BLOCK)

    def _drop_share(self, history: History) -> Estimate | None:
        """Dropped frames over all."""
        edges = _edges(history)
        published, _ = np.histogram(history.frames.ts, edges)
        dropped, _ = np.histogram(history.drops.ts, edges)
        counts = (dropped.astype(np.float64), (published + dropped).astype(np.float64))
        return ratio(*counts, self._random, _SPANS_A_BLOCK)


def _warm(values: Floats) -> Floats:
    """The known values after the first frames."""
    later = values[WARM_UP_FRAMES:]
    return later[~np.isnan(later)]


def _edges(history: History) -> Floats:
    """Short spans of time, from the first frame to the last; their edges."""
    ts = np.concatenate([history.frames.ts, history.drops.ts])
    if not len(ts) or not np.ptp(ts) > 0:
        return np.zeros(2)  # one span, of no length: nothing is a rate of it
    count = int(np.clip(np.ptp(ts) / _SPAN_S, 1, 1 << 20))
    edges: Floats = np.linspace(ts.min(), ts.max(), count + 1)
    return edges


def _change(
    name: str, a: Estimate | None, b: Estimate | None, words: Words, smallest: float = 0.0
) -> Change:
    one, other = None if a is None else a.value, None if b is None else b.value
    if a is None or b is None:
        return Change(name, one, other, None, None, "only in one", words)
    if a.resampled is None or b.resampled is None:
        return Change(name, one, other, None, None, "too few to tell", words)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(b.resampled - a.resampled, (tail, 1 - tail)).tolist()
    matters = abs(b.value - a.value) >= max(_SMALLEST_SHARE * abs(a.value), smallest)
    sure = low > 0 or high < 0
    verdict: Verdict = "more than noise" if sure and matters else "within noise"
    return Change(name, one, other, low, high, verdict, words)
