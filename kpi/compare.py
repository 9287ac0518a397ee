"""What changed between two runs, and whether it is more than noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kpi.bootstrap import CONFIDENCE, Estimate, quantile, ratio
from kpi.compared_run import ComparedRun, TimeName, compared_runs
from kpi.frame_columns import Floats, Share
from kpi.history import History

Verdict = Literal["within noise", "more than noise", "too few to tell", "only in one"]
_SMALLEST_SHARE = 0.02
"""A smaller change is told as noise, however sure: nobody acts on it."""
_SMALLEST_MS = 0.01
_TIMES: tuple[TimeName, ...] = ("latency", "age", "waiting")
_SEED = 20
"""The same two logs always give the same answer."""


@dataclass(frozen=True, slots=True)
class _Percentile:
    name: Share
    rank: float


_SHARES = (_Percentile("p50", 0.5), _Percentile("p95", 0.95), _Percentile("p99", 0.99))


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
        self._a, self._b = compared_runs(a, b)
        self._random = np.random.default_rng(_SEED)

    def changes(self) -> Iterator[Change]:
        a, b = self._a, self._b
        yield _change("frames a second", self._rate(a), self._rate(b), _RATE)
        yield _change("dropped share", self._drop_share(a), self._drop_share(b), _COUNT)
        for name in _TIMES:
            for share in _SHARES:
                times = (a.times(name, share.name), b.times(name, share.name))
                rank = share.rank if a.seconds is None else 0.5
                yield from self._percentile(f"{name} {share.name}", *times, rank)
            yield from self._mean(f"{name} mean", a.times(name, "p50"), b.times(name, "p50"))
        yield from self._stages()
        objects = (self._average(run, run.rows.objects.astype(np.float64)) for run in (a, b))
        one, other = objects
        yield _change("objects, mean", one, other, _COUNT)

    def _stages(self) -> Iterator[Change]:
        a, b = self._a.rows, self._b.rows
        for name in dict.fromkeys(stage.name for stage in (*a.stages, *b.stages)):
            one, other = a.stage(name), b.stage(name)
            clocks = (("host", one.host_ms, other.host_ms), ("gpu", one.gpu_ms, other.gpu_ms))
            for clock, was, now in clocks:
                for share in _SHARES:
                    yield from self._percentile(
                        f"{name} {clock} {share.name}", was, now, share.rank
                    )
                yield from self._mean(f"{name} {clock} mean", was, now)

    def _percentile(self, name: str, a: Floats, b: Floats, rank: float) -> Iterator[Change]:
        """Nothing where neither run has it."""
        if not np.isnan(a).all() or not np.isnan(b).all():
            one = quantile(self._a.warm(a), rank, self._random)
            other = quantile(self._b.warm(b), rank, self._random)
            yield _change(f"{name} (ms)", one, other, _TIME, _SMALLEST_MS)

    def _mean(self, name: str, a: Floats, b: Floats) -> Iterator[Change]:
        if not np.isnan(a).all() or not np.isnan(b).all():
            one, other = self._average(self._a, a), self._average(self._b, b)
            yield _change(f"{name} (ms)", one, other, _TIME, _SMALLEST_MS)

    def _average(self, run: ComparedRun, values: Floats) -> Estimate | None:
        known = run.warm(values).astype(np.float64)
        return ratio(known, np.ones(len(known)), self._random)

    def _rate(self, run: ComparedRun) -> Estimate | None:
        """Published frames a second."""
        edges = run.spans()
        published, _ = np.histogram(run.rows.ts, edges, weights=run.published)
        return ratio(published, np.diff(edges), self._random, block_rows=1)

    def _drop_share(self, run: ComparedRun) -> Estimate | None:
        """Dropped frames over all."""
        edges, drops = run.spans(), run.history.drops
        published, _ = np.histogram(run.rows.ts, edges, weights=run.published)
        dropped, _ = np.histogram(drops.ts, edges, weights=drops.count.astype(np.float64))
        return ratio(dropped, published + dropped, self._random, block_rows=1)


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
