"""The schema of the log: made from the events, true to the file, strict enough to catch a slip."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from kpi_examples import BARE, FULL

from kpi.device_events import DeviceSample
from kpi.event_types import EVENT_TYPES
from kpi.events import Event, FramePublished, SamMaskOutput
from kpi.jsonl import JsonlSink
from kpi.schema import DEFAULT_PATH, kpi_schema, main, text

VALIDATOR = Draft202012Validator(kpi_schema())


def written(path: Path, *events: Event) -> list[dict[str, Any]]:
    """The lines that `events` become, as any reader sees them."""
    sink = JsonlSink(path)
    for event in events:
        sink.write(1763683919.25, event)
    sink.close()
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(kpi_schema())


def test_the_file_is_what_the_events_make(tmp_path: Path) -> None:
    assert DEFAULT_PATH.read_text() == text(), "run python -m kpi.schema"
    main([str(tmp_path / "again.json")])
    assert (tmp_path / "again.json").read_text() == text()


def test_no_event_is_left_out() -> None:
    ours = (kind for kind in Event.__subclasses__() if kind.__module__.startswith("kpi."))
    assert {kind.event for kind in ours} == {kind.event for kind in EVENT_TYPES}


def test_there_is_an_example_of_every_event_with_every_field() -> None:
    assert [type(event) for event in FULL] == list(EVENT_TYPES)
    for event in FULL:
        blank = [f.name for f in fields(event) if getattr(event, f.name) is None]
        assert blank == [], event.event


@pytest.mark.parametrize("event", [*FULL, *BARE], ids=lambda event: event.event)
def test_every_event_fits(tmp_path: Path, event: Event) -> None:
    (line,) = written(tmp_path / "kpi.jsonl", event)
    assert [error.message for error in VALIDATOR.iter_errors(line)] == []


@pytest.mark.parametrize("event", [*FULL, *BARE], ids=lambda event: event.event)
def test_an_event_is_its_fields(event: Event) -> None:
    known = {name: value for name, value in asdict(event).items() if value is not None}
    assert repr(event.as_dict()) == repr({"event": event.event, **known}), "NaN equals nothing"


@pytest.mark.parametrize("event", FULL, ids=lambda event: event.event)
def test_a_line_without_a_required_field_does_not_fit(tmp_path: Path, event: Event) -> None:
    (line,) = written(tmp_path / "kpi.jsonl", event)
    required = kpi_schema()["$defs"][event.event]["required"]
    assert {"ts", "event"} <= set(required)
    for name in required:
        assert not VALIDATOR.is_valid({key: value for key, value in line.items() if key != name})


SLIPS: tuple[tuple[type[Event], str, object], ...] = (
    (SamMaskOutput, "as_numpy", 2),
    (SamMaskOutput, "as_numpy", True),
    (SamMaskOutput, "device", None),
    (SamMaskOutput, "event", "sam_mask_outputs"),
    (SamMaskOutput, "ts", "now"),
    (SamMaskOutput, "colour", "red"),
    (FramePublished, "frame_id", 1.5),
    (FramePublished, "latency_ms", "5 ms"),
    (FramePublished, "stages_ms", {"detect": {"host": 1.0}}),
    (FramePublished, "stages_ms", {"detect": 1.0}),
    (FramePublished, "presence", [1.0, "x"]),
    (DeviceSample, "gpu_ecc_corrected", None),
    (DeviceSample, "gpu_throttle_reasons", "hot"),
)


@pytest.mark.parametrize(("kind", "name", "value"), SLIPS)
def test_a_slip_does_not_fit(tmp_path: Path, kind: type[Event], name: str, value: object) -> None:
    event = next(event for event in FULL if type(event) is kind)
    (line,) = written(tmp_path / "kpi.jsonl", event)
    assert VALIDATOR.is_valid(line)
    assert not VALIDATOR.is_valid({**line, name: value})


@pytest.mark.parametrize(
    ("event", "field"),
    [
        ("frame_dropped", "reason"),
        ("device_fault", "kind"),
        ("recorder_state", "state"),
        ("source_state", "state"),
        ("object_refused", "reason"),
        ("host_copies", "direction"),
    ],
)
def test_closed_lists_are_closed(tmp_path: Path, event: str, field: str) -> None:
    example = next(example for example in FULL if example.event == event)
    (line,) = written(tmp_path / "kpi.jsonl", example)
    assert "enum" in kpi_schema()["$defs"][event]["properties"][field]
    assert not VALIDATOR.is_valid({**line, field: "something else"})


def test_an_unknown_reason_of_a_drop_does_not_fit_in_a_second(tmp_path: Path) -> None:
    example = next(example for example in FULL if example.event == "frame_second")
    (line,) = written(tmp_path / "kpi.jsonl", example)
    assert not VALIDATOR.is_valid({**line, "dropped": {"bored": 1}})


def test_units_are_told() -> None:
    properties = kpi_schema()["$defs"]["frame_published"]["properties"]
    assert properties["age_ms"]["description"] == "Capture to publish."
    assert properties["queue_ms"]["description"].startswith("Of `latency_ms`")


def old_consumer(line: str) -> tuple[float, bool, str] | None:
    """What readers of the log did before there were other events."""
    record = json.loads(line)
    if record["event"] != "sam_mask_output":
        return None
    return float(record["ts"]), bool(record["as_numpy"]), str(record["device"])


OLD_LINE = '{"ts": 1763683919.25, "event": "sam_mask_output", "as_numpy": 0, "device": "cuda:0"}'


@pytest.mark.parametrize("objects", [None, 3])
@pytest.mark.parametrize("as_numpy", [0, 1])
def test_an_old_consumer_reads_a_new_log(
    tmp_path: Path, as_numpy: int, objects: int | None
) -> None:
    path = tmp_path / "kpi.jsonl"
    new = SamMaskOutput(1 if as_numpy else 0, "cuda:0", objects)
    lines = written(path, *FULL, new)
    assert lines[-1]["as_numpy"] is as_numpy, "a number, as it always was"
    read = [old_consumer(line) for line in path.read_text().splitlines()]
    assert read[-1] == (1763683919.25, bool(as_numpy), "cuda:0")
    assert len([found for found in read if found is not None]) == 2


def test_an_old_line_is_still_a_line_of_the_log() -> None:
    assert VALIDATOR.is_valid(json.loads(OLD_LINE))
    assert old_consumer(OLD_LINE) is not None
