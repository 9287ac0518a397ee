"""How late a stream is, told from its own clock."""

from __future__ import annotations

import numpy as np
import pytest

from stages.sources.lag import BurstWatch, LagWatch

MS = 1_000_000


def lags(arrivals_ms: list[float], stamps_ms: list[float]) -> list[float]:
    watch = LagWatch()
    return [
        watch.lag_ns(round(at * MS), round(stamp * MS)) / MS
        for at, stamp in zip(arrivals_ms, stamps_ms, strict=True)
    ]


def test_what_comes_in_time_is_not_late() -> None:
    assert lags([7000, 7040, 7080], [0, 40, 80]) == pytest.approx([0, 0, 0], abs=0.1)


def test_a_queue_shows_and_so_does_its_end() -> None:
    found = lags([0, 40, 1080, 1081, 1082, 200 + 1000], [0, 40, 80, 120, 160, 1200])
    assert found == pytest.approx([0, 0, 1000, 961, 922, 0], abs=3)


def test_a_burst_at_the_beginning_is_not_held_against_what_follows() -> None:
    """A server that sends the last second at once, to begin with."""
    assert lags([0, 1, 2, 42], [0, 40, 80, 120]) == pytest.approx([0, 0, 0, 0], abs=0.1)


@pytest.mark.parametrize(
    ("arrivals_ms", "stamps_ms", "over"),
    [
        ([0, 40, 81], [0, 40, 80], [False, True, True]),
        ([0, 5, 12, 30, 68, 69], [0, 40, 80, 120, 160, 200], [False] * 4 + [True] * 2),
        ([0, 5, 45], [0, 200, 160], [False, False, True]),  # a clock that ran backwards
        ([0, 900, 1800, 2700], [0, 2000, 4000, 6000], [False, False, False, True]),
        ([0, 5], [0, None], [False, True]),
    ],
    ids=["none", "four", "backwards", "always fast", "no clock"],
)
def test_a_burst_lasts_while_pictures_come_faster_than_they_were_sent(
    arrivals_ms: list[int], stamps_ms: list[int | None], over: list[bool]
) -> None:
    watch, found = BurstWatch(), []
    for at, stamp in zip(arrivals_ms, stamps_ms, strict=True):
        watch.see(at * MS, None if stamp is None else stamp * MS)
        found.append(watch.is_over)
    assert found == over


def test_another_quartz_does_not_look_like_a_queue() -> None:
    stamps = [float(at) for at in range(0, 6 * 3600 * 1000, 1000)]
    for error in (-1e-3, 1e-4, 1e-3):  # quartz, and cameras that are further off
        other = [at * (1 + error) for at in stamps]
        assert max(lags(other, stamps)) < 30
    overloaded = [at * 1.02 for at in stamps[:3600]]
    assert max(lags(overloaded, stamps[:3600])) > 60_000, "a real queue is seen"


@pytest.mark.parametrize("error", [0.0, 1e-3])
def test_a_queue_that_stays_as_it_is_goes_on_to_count(error: float) -> None:
    stamps = [float(at) for at in range(0, 3600 * 1000, 200)]
    jitter = np.random.default_rng(4).exponential(5.0, len(stamps))
    waits = [2500.0 * (at > 60_000) for at in stamps]
    came = [
        at * (1 + error) + wait + by for at, wait, by in zip(stamps, waits, jitter, strict=True)
    ]
    assert lags(came, stamps)[-100:] == pytest.approx([2500] * 100, abs=150)


@pytest.mark.parametrize("stamps", [[500.0, 0, 40], [0.0, 0, 0], [0, 3_600_000, 3_600_040.0]])
def test_a_clock_that_stands_still_or_jumps_tells_nothing(stamps: list[float]) -> None:
    assert lags([0, 10_000, 10_040], stamps) == pytest.approx([0, 0, 0], abs=3)
