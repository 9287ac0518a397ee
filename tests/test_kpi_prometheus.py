"""The metrics: names, values, a fixed number of series, valid text."""

from __future__ import annotations

import math
import subprocess
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families
from services import require

from kpi.events import (
    DeviceSample,
    DropReason,
    ErrorRaised,
    Event,
    FrameDropped,
    FramePublished,
    HostCopies,
    PacketsSent,
    SourceStateChanged,
    StageMs,
    SubscriberState,
)
from kpi.logger import EventsDropped, KpiLogger
from kpi.prometheus import PrometheusSink

STAGES = ("grab", "detect", "segment", "pack", "to_host")
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]

FULL = DeviceSample(
        gpu="GPU-1", gpu_utilization=0.5, gpu_memory_used_bytes=1, gpu_power_watts=2.0,
        gpu_temperature_celsius=3.0, process_cpu=0.5, process_rss_bytes=4,
)  # fmt: skip


def make(source: str = "cam", *, gpu: bool = True) -> PrometheusSink:
    return PrometheusSink(source, STAGES, {"version": "0.1", "torch": "2.15"}, gpu_clock=gpu)


def series(sink: PrometheusSink) -> Series:
    text = sink.render().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(sink: PrometheusSink, name: str, **labels: str) -> float | None:
    return series(sink).get((f"maskstream_{name}", frozenset(labels.items())))


def published(source: str = "cam", **changes: object) -> FramePublished:
    fields: dict[str, object] = {
        "latency_ms": 9.0,
        "age_ms": 30.0,
        "stages_ms": {stage: StageMs(host=1.5, gpu=3.0) for stage in STAGES},
        "objects": 2,
        "presence": (4.0, -4.0),
    }
    return FramePublished(source, 0, 1, **{**fields, **changes})  # type: ignore[arg-type]


def hostile(source: str) -> list[Event]:
    """Events with names from outside, none of which may become a series."""
    return [
        published(source),
        published(stages_ms={source: StageMs(host=1.0, gpu=1.0)}),
        SubscriberState(topic=source, subscribers=1),
        SubscriberState(topic=f"{source}/{source}", subscribers=1),
        HostCopies("d2h", source, 1, 1),
        FrameDropped(source, 0, 0, "stale"),
        SourceStateChanged(source, 0, "streaming", reason=source),
        ErrorRaised(where=source, message=source),
    ]


def test_frames_and_drops() -> None:
    sink = make()
    for _ in range(3):
        sink.write(0.0, published())
    sink.write(0.0, FrameDropped("cam", 0, 5, "mailbox"))
    assert value(sink, "frames_total", source="cam", outcome="published") == 3
    assert value(sink, "frames_total", source="cam", outcome="dropped") == 1
    drops = {
        reason: value(sink, "frames_dropped_total", source="cam", reason=reason)
        for reason in get_args(DropReason)
    }
    assert drops == {**dict.fromkeys(get_args(DropReason), 0), "mailbox": 1}


def test_times_are_seconds_in_buckets() -> None:
    sink = make()
    sink.write(0.0, published())
    span = {"source": "cam", "span": "grab_to_packet"}
    assert value(sink, "latency_seconds_sum", **span) == pytest.approx(0.009)
    assert value(sink, "latency_seconds_bucket", **span, le="0.008") == 0
    assert value(sink, "latency_seconds_bucket", **span, le="0.01") == 1
    span["span"] = "capture_to_publish"
    assert value(sink, "latency_seconds_sum", **span) == pytest.approx(0.03)
    stage = {"source": "cam", "stage": "segment"}
    assert value(sink, "stage_duration_seconds_sum", **stage, clock="host") == pytest.approx(0.0015)
    assert value(sink, "stage_duration_seconds_sum", **stage, clock="gpu") == pytest.approx(0.003)


def test_without_a_gpu_clock_there_are_no_gpu_series() -> None:
    sink = make(gpu=False)
    sink.write(0.0, published(stages_ms={"detect": StageMs(host=1.0)}))
    clocks = {dict(labels).get("clock") for _, labels in series(sink)}
    assert clocks == {None, "host"}
    assert value(sink, "kpi_events_ignored_total") == 0


def test_presence_is_a_probability() -> None:
    sink = make()
    sink.write(0.0, published(presence=(4.0, -4.0, -1024.0, 1e308)))
    assert value(sink, "object_presence_bucket", source="cam", le="0.01") == 1
    assert value(sink, "object_presence_bucket", source="cam", le="0.5") == 2
    assert value(sink, "object_presence_count", source="cam") == 4
    assert value(sink, "object_presence_sum", source="cam") == pytest.approx(2.0)
    assert value(sink, "objects", source="cam") == 2


def test_nan_never_reaches_a_sum() -> None:
    sink = make()
    bad = {"detect": StageMs(host=math.nan, gpu=math.inf)}
    sink.write(
        0.0,
        published(latency_ms=math.nan, age_ms=math.inf, presence=(math.nan,), stages_ms=bad),
    )
    sink.write(0.0, published())
    sums = [v for (name, _), v in series(sink).items() if name.endswith("_sum")]
    assert len(sums) > 5
    assert all(math.isfinite(v) for v in sums)


def test_frame_age_grows_until_the_next_frame() -> None:
    now = 100.0
    sink = PrometheusSink("cam", STAGES, {}, clock=lambda: now)
    assert value(sink, "frame_age_seconds", source="cam") is None, "absent before the first"
    sink.write(0.0, published(age_ms=30.0))
    assert value(sink, "frame_age_seconds", source="cam") == pytest.approx(0.03)
    now = 105.0
    assert value(sink, "frame_age_seconds", source="cam") == pytest.approx(5.03)


def test_source_state_and_reconnects() -> None:
    sink = make()
    assert value(sink, "source_up", source="cam") == 0
    states = ("connecting", "streaming", "streaming", "connecting", "streaming", "ended")
    seen = []
    for state in states:
        sink.write(0.0, SourceStateChanged("cam", 0, state))
        seen.append(
            (
                value(sink, "source_up", source="cam"),
                value(sink, "source_reconnects_total", source="cam"),
            )
        )
    assert seen == [(0, 0), (1, 0), (1, 0), (0, 0), (1, 1), (0, 1)]


def test_copies_subscribers_packets() -> None:
    sink = make()
    sink.write(0.0, HostCopies("d2h", "header", 30, 30 * 4096))
    sink.write(0.0, SubscriberState("result/cam", 2))
    sink.write(0.0, PacketsSent(packets=2, packet_bytes=1500))
    assert value(sink, "host_copies_total", direction="d2h", where="header") == 30
    assert value(sink, "host_copy_bytes_total", direction="d2h", where="header") == 122880
    assert value(sink, "host_copies_total", direction="d2h", where="as_numpy") == 0
    assert value(sink, "subscribers", source="cam", topic="result") == 2
    assert value(sink, "packets_sent_total", source="cam") == 2
    assert value(sink, "packet_bytes_total", source="cam") == 1500


def test_what_a_device_cannot_tell_is_absent() -> None:
    sink = make()
    names = ("gpu_utilization_ratio", "gpu_power_watts", "gpu_memory_used_bytes")
    assert [value(sink, name, gpu="GPU-1") for name in names] == [None] * 3
    assert value(sink, "process_resident_memory_bytes") is None
    sink.write(
        0.0, DeviceSample(gpu="GPU-1", gpu_utilization=0.25, process_cpu=1.5, process_rss_bytes=7)
    )
    assert [value(sink, name, gpu="GPU-1") for name in names] == [0.25, None, None]
    assert value(sink, "process_cpu_cores") == 1.5
    assert value(sink, "process_resident_memory_bytes") == 7


def test_build_info() -> None:
    assert value(make(), "build_info", version="0.1", torch="2.15") == 1


def test_dropped_events_are_counted_through_the_logger() -> None:
    sink = make()
    logger = KpiLogger([sink], capacity=5, period_s=60)
    for _ in range(12):
        logger.emit(published())
    logger.close(timeout=30)
    assert value(sink, "kpi_events_dropped_total") == 7
    assert value(sink, "frames_total", source="cam", outcome="published") == 5
    sink.write(0.0, EventsDropped(dropped=9, lost={}))
    assert value(sink, "kpi_events_dropped_total") == 9


def test_the_series_are_fixed_and_few() -> None:
    sink = make()
    at_start = set(series(sink))
    assert len(at_start) > 200
    for number in range(200):
        for event in hostile(f"x{number}"):
            sink.write(0.0, event)
    sometimes = {"maskstream_frame_age_seconds"}
    assert {key for key in series(sink) if key[0] not in sometimes} == at_start
    assert value(sink, "kpi_events_ignored_total") == 200 * 8
    sink.write(0.0, published())
    sink.write(0.0, FULL)
    assert len(series(sink)) == len(at_start) + 7
    assert len(series(sink)) <= 500


@pytest.mark.parametrize("source", ['a"b', "a\\b", "a\nmaskstream_up 1", "Kamera-ä{}", ""])
def test_a_source_name_cannot_break_the_text(source: str) -> None:
    sink = make(source)
    sink.write(0.0, published(source))
    assert value(sink, "frames_total", source=source, outcome="published") == 1
    assert value(sink, "up") is None


def test_every_name_has_the_prefix_and_no_created_series() -> None:
    names = {name for name, _ in series(make())}
    assert all(name.startswith("maskstream_") for name in names)
    assert not [name for name in names if name.endswith("_created")]


def test_promtool_finds_nothing_to_say() -> None:
    promtool = require("promtool")
    sink = make()
    sink.write(0.0, published())
    sink.write(0.0, FULL)
    check = subprocess.run(
        [promtool, "check", "metrics"], input=sink.render(), capture_output=True, check=False
    )
    assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")
