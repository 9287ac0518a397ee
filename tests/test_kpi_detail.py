"""How much the log says of each frame; Prometheus is told everything whatever it says."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from kpi.detail import DetailName, EverySecond, make_detail, spread
from kpi.device_events import DeviceSample
from kpi.events import (
    Event,
    FrameDropped,
    FramePublished,
    FrameSecond,
    ObjectAdded,
    RunFinished,
    SamMaskOutput,
    SourceStateChanged,
    Spread,
    StageMs,
)
from kpi.jsonl import JsonlSink
from kpi.logger import KpiLogger
from kpi.prometheus import PrometheusSink

STATE = SourceStateChanged("cam", 0, "streaming")
FINISHED = RunFinished(0, 1, 1, {}, None)


def published(number: int, latency: float = 5.0, objects: int = 1) -> FramePublished:
    stages = {"detect": StageMs(host=latency / 2, gpu=latency / 4)}
    return FramePublished("cam", 0, number, latency, 2 * latency, stages, objects, (), 1.0)


def through(
    detail: EverySecond, events: Sequence[tuple[float, Event]]
) -> list[tuple[float, Event]]:
    out = [line for ts, event in events for line in detail.lines(ts, event)]
    return [*out, *detail.rest()]


def test_a_second_of_frames_is_one_line() -> None:
    frames = [
        (10.0 + n / 100, published(n, latency=float(n + 1), objects=n % 3)) for n in range(99)
    ]
    masks = [(10.5, SamMaskOutput(0, "cpu", 3))] * 99
    drops = [(10.9, FrameDropped("cam", 0, 99 + n, "mailbox")) for n in range(2)]
    drops.append((10.95, FrameDropped("cam", 0, 101, "stale")))
    (line,) = through(EverySecond("cam"), [*frames, *masks, *drops])
    assert line == (
        11.0,
        FrameSecond(
            source_id="cam",
            epoch=0,
            frame_id=101,
            published=99,
            dropped={"mailbox": 2, "stale": 1},
            mask_outputs=99,
            objects=2,
            objects_max=2,
            latency_ms=Spread(50.0, 95.0, 99.0, 99.0),
            age_ms=Spread(100.0, 190.0, 198.0, 198.0),
            queue_ms=Spread(1.0, 1.0, 1.0, 1.0),
            stages_ms={"detect": StageMs(host=25.0, gpu=12.5)},
        ),
    )


def test_seconds_are_told_apart_and_other_events_keep_their_place() -> None:
    told = through(
        EverySecond("cam"),
        [
            (1.1, published(0)),
            (1.2, STATE),
            (1.9, published(1)),
            (2.0, DeviceSample()),
            (2.5, published(2)),
            (7.5, published(3)),
        ],
    )
    assert [(ts, event.event) for ts, event in told] == [
        (1.2, "source_state"),
        (2.0, "frame_second"),
        (2.0, "device_sample"),
        (3.0, "frame_second"),
        (8.0, "frame_second"),
    ]
    seconds = [event for _, event in told if isinstance(event, FrameSecond)]
    assert [second.published for second in seconds] == [2, 1, 1]


def test_each_source_has_its_own_line() -> None:
    other = FrameDropped("other", 3, 7, "oom")
    told = through(EverySecond("cam"), [(1.0, published(0)), (1.1, other), (1.2, published(1))])
    seconds = [event for _, event in told if isinstance(event, FrameSecond)]
    assert [(s.source_id, s.published, s.dropped) for s in seconds] == [
        ("cam", 2, {}),
        ("other", 0, {"oom": 1}),
    ]
    assert (seconds[1].epoch, seconds[1].latency_ms, seconds[1].stages_ms) == (3, None, None)


def test_the_last_second_is_told_before_the_run_has_finished() -> None:
    told = through(EverySecond("cam"), [(1.0, published(0)), (1.5, FINISHED)])
    assert [(ts, event.event) for ts, event in told] == [
        (1.5, "frame_second"),
        (1.5, "run_finished"),
    ]


def test_a_clock_that_is_set_back_holds_up_nothing() -> None:
    times = [100.1, 100.2, 40.3, 40.4, 41.5]
    told = through(EverySecond("cam"), [(ts, published(n)) for n, ts in enumerate(times)])
    assert [event.published for _, event in told if isinstance(event, FrameSecond)] == [2, 2, 1]


def test_predictions_alone_name_no_frame() -> None:
    ((_, second),) = through(EverySecond("cam"), [(1.0, SamMaskOutput(1, "cuda:0"))])
    assert isinstance(second, FrameSecond)
    assert (second.frame_id, second.published, second.mask_outputs) == (None, 0, 1)


def test_an_event_that_comes_late_is_counted_once() -> None:
    told = through(EverySecond("cam"), [(2.0, published(1)), (1.99, published(0))])
    assert [(ts, event.published) for ts, event in told if isinstance(event, FrameSecond)] == [
        (3.0, 2)
    ]


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf, math.nan]])
def test_nothing_finite_has_no_spread(values: list[float]) -> None:
    assert spread(values) is None


def test_what_is_not_finite_does_not_spoil_the_rest() -> None:
    assert spread([math.nan, 3.0, 1.0]) == Spread(1.0, 3.0, 3.0, 3.0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("frame", ["frame_published", "sam_mask_output", "frame_dropped", "device_sample"]),
        ("second", ["device_sample", "frame_second"]),
        ("off", []),
    ],
)
def test_prometheus_sees_everything_whatever_the_log_says(
    tmp_path: Path, name: DetailName, expected: list[str]
) -> None:
    metrics = PrometheusSink("cam", ("detect",), {})
    lines = JsonlSink(tmp_path / "kpi.jsonl", detail=make_detail(name, "cam"))
    logger = KpiLogger([metrics, lines], clock=lambda: 5.0)
    happened = [STATE, ObjectAdded("cam", 0, 0, 1, 0)]
    figures = [published(0), SamMaskOutput(0, "cpu"), FrameDropped("cam", 0, 1, "oom")]
    for event in (*happened, *figures, DeviceSample(process_threads=1), FINISHED):
        logger.emit(event)
    assert logger.close(timeout=30)
    told = [json.loads(line)["event"] for line in (tmp_path / "kpi.jsonl").read_text().splitlines()]
    assert told == ["source_state", "object_added", *expected, "run_finished", "kpi_events_dropped"]
    text = metrics.render().decode()
    assert 'maskstream_frames_total{outcome="published",source="cam"} 1.0' in text
    assert 'maskstream_frames_dropped_total{reason="oom",source="cam"} 1.0' in text
