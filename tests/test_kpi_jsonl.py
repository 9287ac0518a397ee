"""The JSON lines file: standard JSON, private, bounded, never torn."""

from __future__ import annotations

import json
import math
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kpi.events import ErrorRaised, FramePublished, StageMs, SubscriberState
from kpi.jsonl import JsonlSink, to_json
from kpi.logger import EventsDropped, KpiLogger
from kpi.memory import MemorySink


def event(number: int, topic: str = "result/cam") -> SubscriberState:
    return SubscriberState(topic=topic, subscribers=number)


def strict(line: str) -> dict[str, object]:
    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    loaded = json.loads(line, parse_constant=refuse)
    assert isinstance(loaded, dict)
    return loaded


def read(path: Path) -> list[dict[str, object]]:
    return [strict(line) for line in path.read_text().splitlines()]


def test_a_line_begins_with_ts_and_event(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "kpi.jsonl")
    sink.write(1763683919.25, event(3))
    sink.close()
    text = (tmp_path / "kpi.jsonl").read_text()
    assert text.startswith('{"ts":1763683919.25,"event":"subscriber_state",')
    assert text.endswith("\n")


def test_nan_and_infinity_become_null(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "kpi.jsonl")
    sink.write(
        1.0,
        FramePublished(
            *("cam", 0, 1),
            latency_ms=math.nan,
            age_ms=math.inf,
            stages_ms={"detect": StageMs(host=-math.inf, gpu=None)},
            objects=1,
            presence=(math.nan, 2.5),
        ),
    )
    sink.close()
    (line,) = read(tmp_path / "kpi.jsonl")
    assert line["latency_ms"] is None
    assert line["age_ms"] is None
    assert line["stages_ms"] == {"detect": {"host": None, "gpu": None}}
    assert line["presence"] == [None, 2.5]
    assert "NaN" in json.dumps(math.nan), "negative control: json writes a bare NaN by default"


def test_text_cannot_break_the_line(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "kpi.jsonl")
    sink.write(1.0, ErrorRaised(where="a\nb", message='"\u2028\r\n\x00{}'))
    sink.close()
    (line,) = read(tmp_path / "kpi.jsonl")
    assert line["message"] == '"\u2028\r\n\x00{}'


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError):
        to_json({"x": object()})


def test_lines_are_visible_after_each_flush(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "kpi.jsonl")
    sink.write(1.0, event(1))
    assert read(tmp_path / "kpi.jsonl") == []
    sink.flush()
    assert len(read(tmp_path / "kpi.jsonl")) == 1
    sink.close()


def test_files_are_private_also_under_an_open_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        sink = JsonlSink(tmp_path / "kpi.jsonl", max_bytes=100)
        for number in range(10):
            sink.write(1.0, event(number))
        sink.close()
    finally:
        os.umask(before)
    files = list(tmp_path.iterdir())
    assert len(files) > 1
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_an_existing_file_is_continued(tmp_path: Path) -> None:
    for number in range(2):
        sink = JsonlSink(tmp_path / "kpi.jsonl")
        sink.write(1.0, event(number))
        sink.close()
    assert [line["subscribers"] for line in read(tmp_path / "kpi.jsonl")] == [0, 1]


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_rotation_bounds_size_and_number_of_files(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "kpi.jsonl"
    sink = JsonlSink(path, max_bytes=200, keep=keep)
    for number in range(100):
        sink.write(1.0, event(number))
        if number % 7 == 0:
            sink.flush()
    sink.close()
    names = ["kpi.jsonl", *(f"kpi.jsonl.{n}" for n in range(1, keep + 1))]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    assert all(file.stat().st_size <= 200 for file in tmp_path.iterdir())
    kept = [line["subscribers"] for name in reversed(names) for line in read(tmp_path / name)]
    assert kept == list(range(100 - len(kept), 100)), "the newest lines, in order, none missing"
    assert len(kept) >= 2 * (keep + 1) - 1


def test_a_line_longer_than_a_file_gets_its_own(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "kpi.jsonl", max_bytes=100, keep=3)
    for topic in ("a", "b" * 300, "c"):
        sink.write(1.0, event(1, topic))
    sink.close()
    names = ("kpi.jsonl.2", "kpi.jsonl.1", "kpi.jsonl")
    assert [read(tmp_path / name)[0]["topic"] for name in names] == ["a", "b" * 300, "c"]


@pytest.mark.parametrize("bad", [{"max_bytes": 0}, {"keep": -1}])
def test_bad_limits_are_refused(tmp_path: Path, bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected at least"):
        JsonlSink(tmp_path / "kpi.jsonl", **bad)


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """A file may not grow beyond `size` bytes: writes come up short, then fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_comes_up_short_leaves_no_half_line(tmp_path: Path) -> None:
    path = tmp_path / "kpi.jsonl"
    sink = JsonlSink(path)
    sink.write(1.0, event(1))
    sink.flush()
    sink.write(1.0, event(2))
    with files_limited_to(path.stat().st_size + 10), pytest.raises(OSError, match="too large"):
        sink.flush()
    assert [line["subscribers"] for line in read(path)] == [1]
    sink.write(1.0, event(3))
    sink.close()
    assert [line["subscribers"] for line in read(path)] == [1, 3]


def test_a_full_disk_stops_neither_the_logger_nor_the_other_sinks() -> None:
    healthy = MemorySink()
    logger = KpiLogger([JsonlSink(Path("/dev/full")), healthy])
    for number in range(1000):
        logger.emit(event(number))
    assert logger.close(timeout=30)
    assert healthy.of(SubscriberState) == [event(number) for number in range(1000)]
    assert logger.lost["JsonlSink"] >= 1000
    assert logger.dropped == 0


def test_the_last_line_counts_the_drops(tmp_path: Path) -> None:
    path = tmp_path / "kpi.jsonl"
    logger = KpiLogger([JsonlSink(path)], capacity=10, period_s=60)
    for number in range(25):
        logger.emit(event(number))
    assert logger.close(timeout=30)
    lines = read(path)
    assert [line.get("subscribers") for line in lines[:-1]] == list(range(10))
    assert lines[-1]["event"] == EventsDropped.event
    assert lines[-1]["dropped"] == 15
