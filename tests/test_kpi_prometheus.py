"""The metrics: names, values, a fixed number of series, valid text."""

from __future__ import annotations

import math
import subprocess
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families
from services import require

from kpi.device_events import DeviceFault, DeviceSample
from kpi.edge_events import (
    ControlCommands,
    PacketsSent,
    RecorderState,
    SubscriberMessages,
    SubscriberState,
)
from kpi.events import (
    DropReason,
    ErrorRaised,
    Event,
    EventsDropped,
    FrameDropped,
    FramePublished,
    HostCopies,
    ObjectAdded,
    ObjectDropped,
    ObjectRefused,
    PromptEnded,
    SourceState,
    SourceStateChanged,
    StageMs,
)
from kpi.logger import KpiLogger
from kpi.metrics import Expectations
from kpi.prometheus import PrometheusSink
from kpi.sometimes import RECORDERS, THROTTLE_REASONS, Judge

STAGES = ("grab", "detect", "segment", "pack", "to_host")
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]

FULL = DeviceSample(
    gpu="GPU-1",
    gpu_utilization=0.5,
    gpu_memory_utilization=0.25,
    gpu_memory_used_bytes=1 << 30,
    gpu_memory_total_bytes=2 << 30,
    gpu_process_memory_bytes=1 << 29,
    gpu_process_utilization=0.4,
    gpu_power_watts=2.0,
    gpu_energy_joules=900.0,
    gpu_temperature_celsius=3.0,
    gpu_sm_clock_hertz=1.98e9,
    gpu_memory_clock_hertz=2.6e9,
    gpu_throttle_reasons=("hw_thermal_slowdown",),
    gpu_pcie_receive_bytes_per_second=7e6,
    gpu_pcie_transmit_bytes_per_second=8e6,
    gpu_decoder_utilization=0.1,
    gpu_encoder_utilization=0.2,
    gpu_ecc_corrected=5,
    gpu_ecc_uncorrected=6,
    gpu_sm_active=0.6,
    gpu_dram_active=0.7,
    process_cpu=0.5,
    process_rss_bytes=4,
    process_threads=9,
)
"""A GPU that tells everything."""
FULL_SERIES = 3 + 14 + len(THROTTLE_REASONS) + 2 + 2 + 1
"""Of the process; gauges, throttle reasons, PCIe, ECC and energy of the GPU."""
EXPECTED = Expectations(latency_budget_s=0.05, subscribers=2)


def make(source: str = "cam", *, gpu: bool = True) -> PrometheusSink:
    build = {"version": "0.1", "torch": "2.15"}
    judge = Judge(lambda: None, lambda: None)
    return PrometheusSink(source, STAGES, build, gpu_clock=gpu, expected=EXPECTED, judge=judge)


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
        PromptEnded("cam", 0, 0, 1, source, source, None),
        RecorderState(recorder=source, state="paused", reason=source),
        DeviceFault(gpu=source, kind="xid", detail=source),
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
    sink.write(0.0, SourceStateChanged("cam", 1, "streaming"))
    assert value(sink, "frame_age_seconds", source="cam") == pytest.approx(5.03), "no new result"


def test_frame_age_counts_from_the_streaming_on_while_no_frame_has_come() -> None:
    now = 100.0
    sink = PrometheusSink("cam", STAGES, {}, clock=lambda: now)
    sink.write(0.0, SourceStateChanged("cam", 0, "connecting"))
    assert value(sink, "frame_age_seconds", source="cam") is None
    sink.write(0.0, SourceStateChanged("cam", 0, "streaming"))
    now = 107.0
    sink.write(0.0, SourceStateChanged("cam", 0, "connecting"))
    sink.write(0.0, SourceStateChanged("cam", 1, "streaming"))
    sink.write(0.0, FrameDropped("cam", 1, 0, "mailbox"))
    assert value(sink, "frame_age_seconds", source="cam") == pytest.approx(7)
    sink.write(0.0, published(age_ms=30.0))
    assert value(sink, "frame_age_seconds", source="cam") == pytest.approx(0.03)


def test_live_and_ready_are_judged_at_each_scrape_and_absent_without_a_judge() -> None:
    wrong: dict[str, str | None] = {"live": None, "ready": "the models are loading"}
    judge = Judge(lambda: wrong["live"], lambda: wrong["ready"])
    sink = PrometheusSink("cam", STAGES, {}, judge=judge)

    def judged(sink: PrometheusSink) -> tuple[float | None, float | None]:
        return value(sink, "live", source="cam"), value(sink, "ready", source="cam")

    assert judged(sink) == (1, 0)
    wrong |= {"live": "the frame loop hangs", "ready": None}
    assert judged(sink) == (0, 1)
    assert judged(PrometheusSink("cam", STAGES, {})) == (None, None)


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


@pytest.mark.parametrize(
    ("between", "reconnects"),
    [
        (("stale",), 0),
        (("frozen", "stale"), 0),
        (("reconnecting",), 1),
        (("stale", "reconnecting"), 1),
    ],
)
def test_a_source_that_gives_nothing_is_down_and_back_only_after_a_new_connection(
    between: tuple[SourceState, ...], reconnects: int
) -> None:
    sink = make()
    for state in ("connecting", "reconnecting", "streaming"):
        sink.write(0.0, SourceStateChanged("cam", 0, state))
    assert value(sink, "source_reconnects_total", source="cam") == 0, "the first time is no return"
    for state in between:
        sink.write(0.0, SourceStateChanged("cam", 0, state))
        assert value(sink, "source_up", source="cam") == 0
    sink.write(0.0, SourceStateChanged("cam", 1, "streaming"))
    assert value(sink, "source_up", source="cam") == 1
    assert value(sink, "source_reconnects_total", source="cam") == reconnects


def test_copies_subscribers_packets() -> None:
    sink = make()
    sink.write(0.0, HostCopies("d2h", "header", 30, 30 * 4096))
    sink.write(0.0, SubscriberState("result/cam", 2))
    sink.write(0.0, PacketsSent(packets=2, packet_bytes=1500))
    assert value(sink, "host_copies_total", direction="d2h", where="header") == 30
    assert value(sink, "host_copy_bytes_total", direction="d2h", where="header") == 122880
    assert value(sink, "host_copies_total", direction="d2h", where="as_numpy") == 0
    assert value(sink, "subscribers", source="cam", topic="result") == 2
    assert value(sink, "packets_sent_total", source="cam", topic="result") == 2
    assert value(sink, "packet_bytes_total", source="cam", topic="result") == 1500


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


def test_a_gpu_that_tells_everything() -> None:
    sink = make()
    sink.write(0.0, FULL)
    gpu = {"gpu": "GPU-1"}
    assert value(sink, "gpu_memory_total_bytes", **gpu) == 2 << 30
    assert value(sink, "gpu_process_memory_bytes", **gpu) == 1 << 29
    assert value(sink, "gpu_process_utilization_ratio", **gpu) == 0.4
    assert value(sink, "gpu_energy_joules_total", **gpu) == 900
    assert value(sink, "gpu_sm_clock_hertz", **gpu) == 1.98e9
    assert value(sink, "gpu_dram_active_ratio", **gpu) == 0.7
    assert value(sink, "gpu_pcie_bytes_per_second", direction="h2d", **gpu) == 7e6
    assert value(sink, "gpu_pcie_bytes_per_second", direction="d2h", **gpu) == 8e6
    assert value(sink, "gpu_ecc_errors_total", kind="uncorrected", **gpu) == 6
    assert value(sink, "gpu_decoder_utilization_ratio", **gpu) == 0.1
    assert value(sink, "process_threads") == 9


@pytest.mark.parametrize(
    ("reasons", "now"),
    [
        (None, None),
        ((), set()),
        (("sw_power_cap", "hw_slowdown"), {"sw_power_cap", "hw_slowdown"}),
        (("not_yet_invented",), {"other"}),
    ],
)
def test_throttling_by_reason(reasons: tuple[str, ...] | None, now: set[str] | None) -> None:
    sink = make()
    sink.write(0.0, DeviceSample(gpu="GPU-1", gpu_throttle_reasons=reasons))
    found = {
        reason: value(sink, "gpu_throttled", gpu="GPU-1", reason=reason)
        for reason in THROTTLE_REASONS
    }
    assert found == {r: None if now is None else float(r in now) for r in THROTTLE_REASONS}


def test_gpu_faults_are_counted_by_kind() -> None:
    sink = make()
    sink.write(0.0, DeviceFault("GPU-1", "xid", "79"))
    assert value(sink, "gpu_faults_total", kind="xid") == 1
    assert value(sink, "gpu_faults_total", kind="ecc") == 0


def test_a_recorder_is_absent_until_it_tells() -> None:
    sink = make()
    kpi = {"recorder": "kpi"}
    assert value(sink, "recorder_recording", **kpi) is None
    assert value(sink, "recorder_lost_records_total", **kpi) is None
    seen = []
    for state, lost in (("recording", 0), ("paused", 7), ("recording", 9)):
        sink.write(0.0, RecorderState("kpi", state, lost=lost))  # type: ignore[arg-type]
        names = ("recorder_recording", "recorder_lost_records_total")
        seen.append([value(sink, name, **kpi) for name in names])
    assert seen == [[1, 0], [0, 7], [1, 9]]


def test_time_in_queues() -> None:
    sink = make()
    sink.write(0.0, published(queue_ms=3.0))
    sink.write(0.0, published())
    span = {"source": "cam", "span": "queue"}
    assert value(sink, "latency_seconds_count", **span) == 1, "unknown is not 0"
    assert value(sink, "latency_seconds_sum", **span) == pytest.approx(0.003)


def test_objects_prompts_and_errors() -> None:
    sink = make()
    where = ("cam", 0, 1)
    for event in (
        ObjectAdded(*where, 1, 0),
        ObjectAdded(*where, 2, 0),
        ObjectDropped(*where, 1, 0),
        ObjectRefused(*where, "no_slot"),
        PromptEnded(*where, 1, "add", None, 2),
        PromptEnded(*where, 2, "add", "bad_box", None),
        ErrorRaised("somewhere", "something"),
    ):
        sink.write(0.0, event)
    cam = {"source": "cam"}
    assert value(sink, "objects_added_total", **cam) == 2
    assert value(sink, "objects_dropped_total", **cam) == 1
    assert value(sink, "objects_refused_total", reason="no_slot", **cam) == 1
    assert value(sink, "objects_refused_total", reason="bad_prompt", **cam) == 0
    assert value(sink, "prompts_total", action="add", outcome="applied", **cam) == 1
    assert value(sink, "prompts_total", action="add", outcome="refused", **cam) == 1
    assert value(sink, "prompts_total", action="remove", outcome="applied", **cam) == 0
    assert value(sink, "errors_total") == 1


def test_commands_by_how_they_ended() -> None:
    sink = make()
    for counts in ({"applied": 2, "too_fast": 7}, {"applied": 1}):
        sink.write(0.0, ControlCommands(counts))
    cam = {"source": "cam"}
    assert value(sink, "control_commands_total", outcome="applied", **cam) == 3
    assert value(sink, "control_commands_total", outcome="too_fast", **cam) == 7
    assert value(sink, "control_commands_total", outcome="uninvited", **cam) == 0
    for count in (2, 3):
        sink.write(1.0, SubscriberMessages({"heard": count, "refused": 1}))
    assert value(sink, "subscriber_messages_total", outcome="heard", **cam) == 5
    assert value(sink, "subscriber_messages_total", outcome="refused", **cam) == 2
    assert value(sink, "subscriber_messages_total", outcome="let_in", **cam) == 0


def test_what_is_expected_stands_beside_what_is() -> None:
    assert value(make(), "subscribers_expected", source="cam") == 2
    assert value(make(), "latency_budget_seconds", source="cam") == 0.05
    promised_nothing = PrometheusSink("cam", STAGES, {})
    assert value(promised_nothing, "latency_budget_seconds", source="cam") is None
    assert value(promised_nothing, "subscribers_expected", source="cam") == 0


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
    assert {key for key in series(sink) if key[0] != "maskstream_frame_age_seconds"} == at_start
    assert value(sink, "kpi_events_ignored_total") == 200 * 10
    sink.write(0.0, published())
    sink.write(0.0, FULL)
    for recorder in RECORDERS:
        sink.write(0.0, RecorderState(recorder, "paused"))
    assert len(series(sink)) == len(at_start) + 1 + FULL_SERIES + 2 * len(RECORDERS)
    assert len(series(sink)) <= 500


@pytest.mark.parametrize("source", ['a"b', "a\\b", "a\nmaskstream_up 1", "Kamera-ä{}", ""])
def test_a_source_name_cannot_break_the_text(source: str) -> None:
    sink = make(source)
    sink.write(0.0, published(source))
    assert value(sink, "frames_total", source=source, outcome="published") == 1
    assert value(sink, "up") is None


def test_no_label_holds_an_id_of_a_frame_or_an_object() -> None:
    sink = make()
    sink.write(0.0, published())
    sink.write(0.0, FULL)
    keys = {key for _, labels in series(sink) for key, _ in labels}
    versions = {"version", "torch"}
    assert keys - versions == {
        *("source", "outcome", "reason", "stage", "clock", "span", "le", "direction", "where"),
        *("topic", "socket", "action", "kind", "gpu"),
    }
    assert b"# {" not in sink.render(), "no exemplars"


def test_every_name_has_the_prefix_and_no_created_series() -> None:
    names = {name for name, _ in series(make())}
    assert all(name.startswith("maskstream_") for name in names)
    assert not [name for name in names if name.endswith("_created")]


def promtool_says(text: bytes) -> tuple[int, bytes, bytes]:
    command = [require("promtool"), "check", "metrics"]
    check = subprocess.run(command, input=text, capture_output=True, check=False)
    return check.returncode, check.stdout, check.stderr


def test_promtool_finds_nothing_to_say() -> None:
    sink = make()
    sink.write(0.0, published())
    sink.write(0.0, FULL)
    sink.write(0.0, RecorderState("kpi", "recording"))
    assert promtool_says(sink.render()) == (0, b"", b"")


def test_promtool_would_say_something() -> None:
    text = b"# TYPE maskstream_lost counter\nmaskstream_lost 1\n"
    code, _, said = promtool_says(text)
    assert code != 0
    assert b"counter metrics should have" in said
