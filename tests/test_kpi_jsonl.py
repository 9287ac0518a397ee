"""The JSON lines file: standard JSON, private, bounded, never torn."""

from __future__ import annotations

import ast
import errno
import json
import math
import os
import stat
import time
from pathlib import Path

import pytest
from kpi_lines import event, files_limited_to, read

import kpi
from kpi.events import ErrorRaised, EventsDropped, FramePublished, StageMs
from kpi.guarded import EventsLostError
from kpi.jsonl import JsonlSink, to_json
from kpi.logger import KpiLogger
from kpi.memory import MemorySink


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


def test_a_write_that_comes_up_short_leaves_no_half_line(tmp_path: Path) -> None:
    path = tmp_path / "kpi.jsonl"
    sink = JsonlSink(path)
    sink.write(1.0, event(1))
    sink.flush()
    sink.write(1.0, event(2))
    with files_limited_to(path.stat().st_size + 10):
        with pytest.raises(EventsLostError, match="too large") as lost:
            sink.flush()
        assert lost.value.count == 1
    assert [line["subscribers"] for line in read(path)] == [1]
    sink.write(1.0, event(3))
    sink.close()
    assert [line["subscribers"] for line in read(path)] == [1, 3]


def test_what_reached_the_file_before_the_disk_was_full_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "kpi.jsonl"
    sink = JsonlSink(path, max_bytes=200, keep=9)
    for number in range(5):
        sink.write(1.0, event(number))
    sink.write(1.0, event(5, "result/" + "x" * 500))
    with files_limited_to(300), pytest.raises(EventsLostError) as lost:
        sink.flush()
    sink.close()
    kept = [line for name in sorted(tmp_path.iterdir()) for line in read(name)]
    assert lost.value.count == 1
    assert sorted(str(line["subscribers"]) for line in kept) == list("01234")


def test_a_disk_that_takes_no_new_file_keeps_every_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kpi.jsonl"
    sink = JsonlSink(path, max_bytes=200, keep=2)
    for number in range(8):
        sink.write(1.0, event(number))
    sink.flush()
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert len(before) == 3
    real = os.open

    def refuse(name: Path, flags: int, mode: int = 0o777) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    for _ in range(5):
        for number in range(8, 12):
            sink.write(1.0, event(number))
        with pytest.raises(EventsLostError, match="Read-only"):
            sink.flush()
    monkeypatch.setattr(os, "open", real)
    first = before["kpi.jsonl"]
    now = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert now.pop("kpi.jsonl").startswith(first), "what fitted was still appended"
    assert now == {name: data for name, data in before.items() if name != "kpi.jsonl"}
    sink.write(1.0, event(99))
    sink.close()
    assert read(path)[-1]["subscribers"] == 99


def test_a_file_that_was_taken_away_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "run" / "kpi.jsonl"
    path.parent.mkdir()
    sink = JsonlSink(path)
    sink.write(1.0, event(1))
    sink.flush()
    path.rename(tmp_path / "taken")
    sink.write(1.0, event(2))
    sink.flush()
    assert [line["subscribers"] for line in read(path)] == [2]
    path.unlink()
    path.parent.rmdir()
    sink.write(1.0, event(3))
    with pytest.raises(EventsLostError, match="No such file"):
        sink.flush()
    path.parent.mkdir()
    sink.write(1.0, event(4))
    sink.close()
    assert [line["subscribers"] for line in read(path)] == [4]


def test_lines_wait_for_the_flush_interval(tmp_path: Path) -> None:
    path = tmp_path / "kpi.jsonl"
    logger = KpiLogger([JsonlSink(path), told := MemorySink()], period_s=0.001, flush_s=3600)
    for number in range(3):  # the first flush is due at once
        logger.emit(event(number))
        while len(told.events) <= number:
            time.sleep(0.001)
    assert [line["subscribers"] for line in read(path)] == [0]
    assert logger.close(timeout=30)
    assert [line.get("subscribers") for line in read(path)][:3] == [0, 1, 2]


def test_no_event_is_ever_synced_to_the_disk() -> None:
    """A sync can take seconds; whoever wants one mounts the folder so."""
    for path in Path(kpi.__path__[0]).glob("*.py"):
        calls = {
            ast.unparse(n.func)
            for n in ast.walk(ast.parse(path.read_text()))
            if isinstance(n, ast.Call)
        }
        assert not calls & {"os.fsync", "os.fdatasync", "os.sync"}, path


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
