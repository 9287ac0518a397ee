"""The JSON lines file: standard JSON, private, bounded, never torn."""

from __future__ import annotations

import ast
import errno
import json
import math
import os
import resource
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import kpi
from kpi.events import ErrorRaised, FramePublished, RecorderState, StageMs, SubscriberState
from kpi.guarded import EventsLostError
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


def test_a_full_disk_stops_neither_the_logger_nor_the_other_sinks() -> None:
    healthy = MemorySink()
    logger = KpiLogger([JsonlSink(Path("/dev/full")), healthy])
    for number in range(1000):
        logger.emit(event(number))
    assert logger.close(timeout=30)
    assert healthy.of(SubscriberState) == [event(number) for number in range(1000)]
    (paused,) = healthy.of(RecorderState)
    assert (paused.recorder, paused.state) == ("kpi", "paused")
    assert "No space left" in (paused.reason or "")
    assert logger.lost["JsonlSink"] >= 1000
    assert logger.dropped == 0


@contextmanager
def recording(path: Path) -> Iterator[tuple[KpiLogger, MemorySink]]:
    """A logger that writes to `path` and tells what it told in a sink of memory."""
    logger = KpiLogger([JsonlSink(path), told := MemorySink()], period_s=0.005)
    try:
        yield logger, told
    finally:
        assert logger.close(timeout=30)


def emit_until(logger: KpiLogger, told: MemorySink, state: str, seen: int = 0) -> None:
    deadline = time.monotonic() + 20
    while [change.state for change in told.of(RecorderState)][seen:] != [state]:
        assert time.monotonic() < deadline, f"not {state} within 20 s"
        logger.emit(event(0, "filler"))
        time.sleep(0.005)


def check_the_gap(path: Path, logger: KpiLogger, told: MemorySink, reason: str) -> None:
    """Every event is a whole line of the file or counted as lost, and the file says why."""
    paused, recording = told.of(RecorderState)
    assert (paused.state, recording.state) == ("paused", "recording")
    assert reason in (paused.reason or "")
    assert recording.reason == paused.reason
    assert recording.lost >= paused.lost > 0
    lines = read(path)
    assert [line["lost"] for line in lines if line["event"] == "recorder_state"] == [recording.lost]
    assert len(lines) + logger.lost["JsonlSink"] == len(told.events)
    assert {line["topic"] for line in lines if "topic" in line} >= {"before", "after"}


def test_the_log_pauses_on_a_full_disk_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "kpi.jsonl"
    with recording(path) as (logger, told):
        logger.emit(event(1, "before"))
        while not path.stat().st_size:
            time.sleep(0.001)
        with files_limited_to(path.stat().st_size + 30):
            emit_until(logger, told, "paused")
            assert all(line["topic"] == "before" for line in read(path))
        emit_until(logger, told, "recording", seen=1)
        logger.emit(event(2, "after"))
    check_the_gap(path, logger, told, "too large")


def test_the_log_pauses_while_its_folder_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with recording(folder / "kpi.jsonl") as (logger, told):
        logger.emit(event(1, "before"))
        while not (folder / "kpi.jsonl").stat().st_size:
            time.sleep(0.001)
        folder.rename(tmp_path / "away")
        emit_until(logger, told, "paused")
        (tmp_path / "away").rename(folder)
        emit_until(logger, told, "recording", seen=1)
        logger.emit(event(2, "after"))
    check_the_gap(folder / "kpi.jsonl", logger, told, "No such file")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB; skipped where this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "maskstream-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_the_log_pauses_on_a_small_disk_and_goes_on(small_disk: Path) -> None:
    path = small_disk / "kpi.jsonl"
    with recording(path) as (logger, told):
        logger.emit(event(1, "before"))
        while not path.stat().st_size:
            time.sleep(0.001)
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space"):
            filler.write_bytes(bytes(1 << 20))
        for number in range(300):
            logger.emit(event(number, "filler"))
        emit_until(logger, told, "paused")
        filler.unlink()
        emit_until(logger, told, "recording", seen=1)
        logger.emit(event(2, "after"))
    check_the_gap(path, logger, told, "No space left")


def test_a_paused_log_rests_between_two_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    writes = []

    def fail(fd: int, data: bytes) -> int:
        writes.append(time.monotonic())
        raise OSError(errno.EIO, "Input/output error")

    sink = JsonlSink(Path("/dev/null"))
    logger = KpiLogger([sink], period_s=0.005)
    with monkeypatch.context() as patch:
        patch.setattr("kpi.jsonl.os.write", fail)
        begin = time.monotonic()
        while time.monotonic() - begin < 0.5:
            logger.emit(event(0))
            time.sleep(0.002)
        assert logger.close(timeout=30)
    assert 1 <= len(writes) <= 3, "one, and at the end the last lines are tried whatever was"
    assert len([at for at in writes if at - begin < 0.4]) == 1


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
