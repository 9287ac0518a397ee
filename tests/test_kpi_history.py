"""What is kept of a run: columns equal to the raw lines, seconds equal to frames, causes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kpi_examples import FULL
from kpi_logs import Made, events, write_events, write_log

from kpi.decoding import UnknownEvent
from kpi.detail import EverySecond
from kpi.events import (
    EventsDropped,
    FramePublished,
    RunFinished,
    RunStarted,
    SourceStateChanged,
    StageMs,
)
from kpi.gather import gather
from kpi.history import History
from kpi.jsonl import JsonlSink
from kpi.marks import MARKS, coincidence
from kpi.per_second import per_second
from kpi.stats import along, spread
from kpi.worst import worst_frames


def write_seconds(folder: Path, made: Made) -> History:
    folder.mkdir()
    sink = JsonlSink(folder / "kpi.jsonl", detail=EverySecond(made.source_id))
    for ts, event in events(made):
        sink.write(ts, event)
    sink.close()
    return gather(folder)


def test_columns_are_what_the_lines_say(tmp_path: Path) -> None:
    history = gather(write_log(tmp_path, Made(frames=60, drop_every=7)))
    raw = [json.loads(line) for line in (tmp_path / "kpi.jsonl").read_text().splitlines()]
    frames = [line for line in raw if line["event"] == "frame_published"]
    columns = history.frames
    assert columns.ts.tolist() == [line["ts"] for line in frames]
    assert columns.frame_id.tolist() == [line["frame_id"] for line in frames]
    for name in ("latency_ms", "age_ms", "queue_ms"):
        assert getattr(columns, name) == pytest.approx([line[name] for line in frames], rel=1e-6)
    for stage in columns.stages:
        told = [line["stages_ms"][stage.name]["gpu"] for line in frames]
        assert stage.gpu_ms == pytest.approx(told, rel=1e-6)
    assert [stage.name for stage in columns.stages] == ["detect", "segment"]
    assert columns.presence_low.tolist() == [-1.0] * len(frames)
    assert [(row.reason, row.count) for row in history.drops.by_reason] == [("mailbox", 8)]
    assert history.published + history.drops.total == 60


def test_a_stage_that_begins_late_or_pauses_is_unknown_meanwhile(tmp_path: Path) -> None:
    def frame(number: int, **stages: StageMs) -> FramePublished:
        return FramePublished("a", 0, number, 1.0, 1.0, stages, 0)

    one, two = StageMs(1.0), StageMs(2.0)
    told = [(1.0, frame(0, a=one)), (2.0, frame(1, a=one, b=two)), (3.0, frame(2, b=two))]
    history = gather(write_events(tmp_path, list(told)))
    a, b = history.frames.stages
    assert np.array_equal(a.host_ms, [1, 1, math.nan], equal_nan=True)
    assert np.array_equal(b.host_ms, [math.nan, 2, 2], equal_nan=True)


def test_a_log_of_seconds_counts_as_one_of_frames(tmp_path: Path) -> None:
    made = Made(frames=200, drop_every=9)
    frames, seconds = gather(write_log(tmp_path / "a", made)), write_seconds(tmp_path / "b", made)
    assert (frames.row, seconds.row) == ("frame", "second")
    assert frames.published == seconds.published
    assert frames.drops.by_reason == seconds.drops.by_reason
    assert seconds.fps == frames.fps
    made_so = per_second(frames.frames)
    told = seconds.per_second
    assert made_so.published.tolist() == told.published.tolist()
    for share in ("p50", "p95", "p99", "max"):
        ours, theirs = made_so.latency.of(share), told.latency.of(share)
        assert ours == pytest.approx(theirs, abs=1e-3), share


def test_percentiles_have_the_rank_of_the_summary() -> None:
    values = np.arange(1, 101, dtype=np.float64)
    row = spread(np.append(values, math.nan))
    assert row is not None
    assert (row.p50, row.p95, row.p99, row.max) == (50, 95, 99, 100)
    assert spread(np.array([math.nan])) is None


def test_spans_along_time_hold_their_own_values() -> None:
    bins = along(np.array([0.0, 1.0, 9.9, 10.0]), np.array([1.0, 3.0, 7.0, math.nan]), 10.0, 5)
    assert np.array_equal(bins.max, [3, math.nan, math.nan, math.nan, 7], equal_nan=True)
    assert bins.seconds.tolist() == [1, 3, 5, 7, 9]


def test_the_worst_frame_has_its_cause(tmp_path: Path) -> None:
    history = gather(write_log(tmp_path, Made(slow_frame=100)))
    worst, *others = worst_frames(history)
    assert worst.frame_id == 100
    assert worst.causes[0].startswith("waiting between threads: 40")
    assert "device fault: xid XID 31" in worst.causes
    assert len(others) == 9
    assert all("device fault: xid XID 31" not in frame.causes for frame in others[3:])


def test_a_key_frame_is_told_as_such_where_that_is_all(tmp_path: Path) -> None:
    """Key frames are the slowest anyway: nothing of them is unusual among their kind."""
    history = gather(write_log(tmp_path, Made(key_every=5)))
    for frame in worst_frames(history):
        assert frame.frame_id % 5 == 0
        assert frame.causes[0].startswith("key frame: ")
        assert not any(cause.startswith(("segment", "detect")) for cause in frame.causes)


def test_where_kinds_are_not_told_every_key_frame_is_blamed_on_its_stages(tmp_path: Path) -> None:
    history = gather(write_log(tmp_path, Made(key_every=5, kinds_told=False)))
    for frame in worst_frames(history):
        assert frame.causes[0].startswith("segment: ")
        assert not any("key" in cause for cause in frame.causes)


@pytest.mark.parametrize(("slow_frame", "kind"), [(100, "key"), (101, "followed")])
def test_a_frame_is_compared_with_its_kind(tmp_path: Path, slow_frame: int, kind: str) -> None:
    history = gather(write_log(tmp_path, Made(key_every=5, slow_frame=slow_frame)))
    worst = worst_frames(history)[0]
    assert worst.frame_id == slow_frame
    assert worst.causes[0].startswith("waiting between threads: 40")
    assert f"its median among {kind} frames is" in worst.causes[0]
    assert not any(cause.startswith((f"{kind} frame", "segment")) for cause in worst.causes)


def test_a_key_frame_that_is_slow_even_for_one_has_both_causes(tmp_path: Path) -> None:
    told = events(Made(key_every=5))
    index = next(i for i, (_, e) in enumerate(told) if getattr(e, "frame_id", None) == 100)
    ts, usual = told[index]
    assert isinstance(usual, FramePublished)
    segment = StageMs(130.0, 260.0)
    slow = replace(
        usual,
        latency_ms=usual.latency_ms + 260.0 - (usual.stages_ms["segment"].gpu or 0),
        stages_ms={**usual.stages_ms, "segment": segment},
    )
    told[index] = (ts, slow)
    worst = worst_frames(gather(write_events(tmp_path, told)))[0]
    assert worst.frame_id == 100
    first, second = worst.causes[:2]
    assert first.startswith("key frame: ")
    assert second.startswith("segment: 260.0 ms, its median among key frames is 1")


def test_few_of_a_kind_are_compared_with_all(tmp_path: Path) -> None:
    history = gather(write_log(tmp_path, Made(key_every=100)))
    assert worst_frames(history)[0].causes[0].startswith("segment: ")


def test_what_marks_a_moment_explains_a_frame_or_says_why_not() -> None:
    explaining = {type(event) for event in FULL if coincidence(event) is not None}
    assert explaining < set(MARKS)
    assert set(MARKS) - explaining == {RunStarted, RunFinished, EventsDropped}
    assert coincidence(SourceStateChanged("cam", 0, "streaming")) is None
    assert coincidence(UnknownEvent("later")) is None


def test_the_first_frames_are_told_as_such(tmp_path: Path) -> None:
    history = gather(write_log(tmp_path, Made(slow_frame=2)))
    assert "frame 3 of its epoch" in worst_frames(history)[0].causes
    later = gather(write_log(tmp_path / "later", Made(slow_frame=200)))
    assert not any("of its epoch" in cause for cause in worst_frames(later)[0].causes)


def test_of_seconds_the_worst_is_the_one_with_the_slow_frame(tmp_path: Path) -> None:
    history = write_seconds(tmp_path / "run", Made(slow_frame=100))
    worst = worst_frames(history)[0]
    assert worst.latency_ms > 400
    assert worst.causes[0].startswith("waiting between threads")
    assert "device fault: xid XID 31" in worst.causes


def test_a_run_that_crashed_has_no_end(tmp_path: Path) -> None:
    history = gather(write_log(tmp_path, Made(finished=False)))
    assert history.finished is None
    assert history.fps == pytest.approx(30, rel=0.01)
