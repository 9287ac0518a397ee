"""A disk that is full or gone: the KPI log pauses and goes on, every line whole or counted."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kpi_lines import event, files_limited_to, read

from kpi.edge_events import RecorderState, SubscriberState
from kpi.events import ErrorRaised
from kpi.jsonl import JsonlSink
from kpi.logger import KpiLogger
from kpi.memory import MemorySink


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


def test_an_event_that_cannot_be_written_pauses_nothing(tmp_path: Path) -> None:
    """It is a mistake of ours, told as an error; the events around it are written."""
    logger = KpiLogger([JsonlSink(tmp_path / "kpi.jsonl"), told := MemorySink()])
    logger.emit(event(1))
    logger.emit(SubscriberState("result/cam", object()))  # type: ignore[arg-type]
    logger.emit(event(2))
    assert logger.close(timeout=30)
    assert told.of(RecorderState) == []
    assert "TypeError" in told.of(ErrorRaised)[0].message
    assert logger.lost["JsonlSink"] == 1
    lines = read(tmp_path / "kpi.jsonl")
    assert [line["subscribers"] for line in lines if "subscribers" in line] == [1, 2]
