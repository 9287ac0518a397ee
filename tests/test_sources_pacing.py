"""Schedules that do not drift, time stamps that lie, and waking a reader that waits."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from stages.errors import SourceError
from stages.sources.limits import MAX_PICTURE_PIXELS, check_size
from stages.sources.pacing import Pacer, Timeline

MS = 1_000_000


def test_times_are_absolute_however_late_the_reader_is() -> None:
    pacer = Pacer(realtime=True)
    start = pacer.wait(0)
    assert start is not None
    time.sleep(0.05)  # a slow reader
    due = [pacer.wait(n * 10 * MS) for n in range(1, 9)]
    assert due == [start + n * 10 * MS for n in range(1, 9)]
    assert time.monotonic_ns() >= start + 80 * MS  # the last was waited for


def test_what_is_due_in_the_past_is_not_waited_for() -> None:
    pacer = Pacer(realtime=True)
    start = pacer.wait(0)
    assert start is not None
    time.sleep(0.03)
    before = time.monotonic_ns()
    assert pacer.wait(1 * MS) == start + 1 * MS
    assert before > start + 1 * MS


def test_the_first_call_sets_the_start_whatever_its_offset() -> None:
    pacer = Pacer(realtime=True)
    before = time.monotonic_ns()
    first = pacer.wait(3600 * 1000 * MS)
    assert first is not None
    assert before <= first <= time.monotonic_ns()


def test_without_realtime_nothing_is_waited_for() -> None:
    pacer = Pacer(realtime=False)
    before = time.monotonic_ns()
    times = [pacer.wait(n * 3600 * 1000 * MS) for n in range(3)]
    assert all(t is not None and before <= t <= time.monotonic_ns() for t in times)


@pytest.mark.parametrize("realtime", [True, False])
def test_a_closed_pacer_returns_none(realtime: bool) -> None:
    pacer = Pacer(realtime=realtime)
    pacer.close()
    assert pacer.wait(0) is None
    assert pacer.closed


def test_close_wakes_a_wait() -> None:
    pacer = Pacer(realtime=True)
    pacer.wait(0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(pacer.wait, 60 * 1000 * MS)
        time.sleep(0.05)
        assert not waiting.done()
        pacer.close()
        assert waiting.result(1.0) is None


def test_a_timeline_follows_the_stamps() -> None:
    timeline = Timeline(nominal_ns=40)
    assert [timeline.offset(stamp) for stamp in (1000, 1040, 1100, 1100)] == [0, 40, 100, 100]


@pytest.mark.parametrize("lie", [None, 900, 1000 + 86_400 * 10**9])
def test_a_stamp_that_lies_counts_as_one_nominal_step(lie: int | None) -> None:
    timeline = Timeline(nominal_ns=40)
    assert [timeline.offset(1000), timeline.offset(lie)] == [0, 40]
    follows = 2000 if lie is None else lie + 50
    assert timeline.offset(follows) == (80 if lie is None else 90)


def test_a_second_pass_follows_the_first() -> None:
    timeline = Timeline(nominal_ns=40)
    first = [timeline.offset(stamp) for stamp in (0, 30)]
    timeline.rewind()
    assert first + [timeline.offset(stamp) for stamp in (0, 30)] == [0, 30, 70, 100]


@pytest.mark.parametrize("size_hw", [(0, 10), (10, 0), (-1, -1), (MAX_PICTURE_PIXELS + 1, 1)])
def test_sizes_beyond_the_limits_are_refused(size_hw: tuple[int, int]) -> None:
    with pytest.raises(SourceError, match="source cam: pictures are"):
        check_size("cam", size_hw)


def test_sizes_at_the_limits_are_taken() -> None:
    check_size("cam", (1, 1))
    check_size("cam", (1, MAX_PICTURE_PIXELS))


def test_decoders_are_imported_only_when_a_source_is_opened() -> None:
    check = (
        "import sys, stages.sources.video, stages.sources.dicom, stages.sources.phantom\n"
        "assert not {'av', 'pydicom', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
