"""A log read back: the events it was written from, whatever happened to the file since."""

from __future__ import annotations

import json
import math
import os
import tracemalloc
from contextlib import ExitStack
from pathlib import Path

import pytest
from kpi_examples import BARE, FULL
from kpi_lines import event

from kpi.decoding import LONGEST_LINE, LineError, UnknownEvent, decode
from kpi.edge_events import SubscriberState
from kpi.events import Event, FramePublished
from kpi.jsonl import JsonlSink
from kpi.reading import KpiLog, LogError, open_files


def write(folder: Path, *told: Event, max_bytes: int = 64 << 20, keep: int = 8) -> Path:
    sink = JsonlSink(folder / "kpi.jsonl", max_bytes=max_bytes, keep=keep)
    for number, one in enumerate(told):
        sink.write(1000.0 + number, one)
    sink.close()
    return folder / "kpi.jsonl"


def numbers(path: Path) -> list[int]:
    records = [record.event for record in KpiLog(path)]
    return [e.subscribers for e in records if isinstance(e, SubscriberState)]


@pytest.mark.parametrize("told", [*FULL, *BARE], ids=lambda told: told.event)
def test_every_event_comes_back_as_it_was(tmp_path: Path, told: Event) -> None:
    write(tmp_path, told)
    (record,) = KpiLog(tmp_path)
    assert record.ts == 1000.0
    # A number that is not finite is null in JSON, and NaN again; NaN equals nothing but its text.
    assert repr(record.event) == repr(told).replace("=inf", "=nan")


def test_rotated_files_come_in_order(tmp_path: Path) -> None:
    path = write(tmp_path, *map(event, range(100)), max_bytes=500, keep=20)
    assert len(list(tmp_path.iterdir())) > 11, "more than ten, so that .10 must follow .9"
    assert numbers(tmp_path) == numbers(path) == list(range(100))
    assert 0 < len(numbers(tmp_path / "kpi.jsonl.3")) < 100, "a rotated file alone is that file"


def test_a_file_missing_in_the_middle_costs_only_its_own_lines(tmp_path: Path) -> None:
    write(tmp_path, *map(event, range(100)), max_bytes=500, keep=20)
    lost = numbers(tmp_path / "kpi.jsonl.4")
    (tmp_path / "kpi.jsonl.4").unlink()
    assert numbers(tmp_path) == [n for n in range(100) if n not in lost]


def test_a_rotation_while_the_files_are_opened_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, *map(event, range(20)), max_bytes=500)
    before = sorted(tmp_path.iterdir())
    plain, opened = Path.open, []

    def open_and_rotate(self: Path, mode: str = "r") -> object:
        file = plain(self, mode)
        if not opened:
            for number in range(len(before) - 1, -1, -1):
                name = path if number == 0 else path.with_name(f"kpi.jsonl.{number}")
                name.rename(path.with_name(f"kpi.jsonl.{number + 1}"))
            path.touch()
        opened.append(self)
        return file

    monkeypatch.setattr(Path, "open", open_and_rotate)
    with ExitStack() as stack:
        files = open_files(path, stack)
        lines = [json.loads(line) for file in files for line in file]
    assert [line["subscribers"] for line in lines] == list(range(20))
    assert len(opened) == len(before) + 1, "the newest was met twice"


def test_a_torn_last_line_is_skipped_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path, event(1), event(2))
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    log = KpiLog(tmp_path)
    assert len(list(log)) == 1
    assert (log.notes.torn, log.notes.broken) == (1, 0)
    path.write_bytes(whole)
    log = KpiLog(tmp_path)
    assert len(list(log)) == 2
    assert (log.notes.torn, log.notes.broken) == (0, 0), "negative control"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"\x00\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"event":"error"}', "no ts"),
        (b'{"ts":true,"event":"error"}', "no ts"),
        (b'{"ts":1e300,"event":"error"}', "no ts"),
        (b'{"ts":NaN,"event":"error"}', "no ts"),
        (b'{"ts":1}', "no event name"),
        (b'{"ts":1,"event":"error","where":"x"}', "error: no message"),
        (b'{"ts":1,"event":"subscriber_state","topic":1,"subscribers":1}', "topic: got 1"),
        (b'{"ts":1,"event":"subscriber_state","topic":"","subscribers":1.5}', "64-bit integer"),
        (b'{"ts":1,"event":"packets_sent","packets":1,"packet_bytes":%d}' % 10**30, "64-bit"),
    ],
)
def test_a_broken_line_is_counted_and_named(tmp_path: Path, line: bytes, reason: str) -> None:
    with pytest.raises(LineError, match=reason):
        decode(line)
    path = write(tmp_path, event(1))
    path.write_bytes(path.read_bytes() + line + b"\n\n" + path.read_bytes())
    log = KpiLog(tmp_path)
    assert len(list(log)) == 2
    assert log.notes.broken == 1, "an empty line is no fault"
    (named,) = log.notes.named
    assert named.startswith("kpi.jsonl:2: ")
    assert reason in named


def test_a_line_too_long_is_no_event_and_is_not_held(tmp_path: Path) -> None:
    path = write(tmp_path, event(1))
    with path.open("ab") as file:
        for _ in range(12):
            file.write(b"x" * LONGEST_LINE)
        file.write(b"\n")
        file.write(path.read_bytes().splitlines()[0] + b"\n")
    tracemalloc.start()
    log = KpiLog(tmp_path)
    assert len(list(log)) == 2
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert log.notes.broken == 1
    assert peak < path.stat().st_size / 2


def test_reading_takes_the_memory_of_a_line(tmp_path: Path) -> None:
    path = write(tmp_path, *map(event, range(30_000)))
    tracemalloc.start()
    count = sum(1 for _ in KpiLog(tmp_path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 30_000
    assert peak < path.stat().st_size / 4


def test_what_a_newer_version_says_is_kept_or_counted(tmp_path: Path) -> None:
    path = write(tmp_path, event(1))
    path.write_text(
        '{"ts":1,"event":"star_gazed","stars":3}\n'
        * 2
        + '{"ts":2,"event":"frame_dropped","source_id":"a","epoch":0,"frame_id":1,'
        '"reason":"a new one","shape":"round"}\n'
    )
    log = KpiLog(tmp_path)
    records = list(log)
    assert records[0].event == UnknownEvent("star_gazed")
    assert log.notes.unknown == {"star_gazed": 2}
    assert getattr(records[2].event, "reason", None) == "a new one"
    assert log.notes.broken == 0


@pytest.mark.parametrize("content", [b"", b"hello", b"a,b\n1,2\n" * 200, bytes(range(256)) * 50])
def test_somebody_elses_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "kpi.jsonl").write_bytes(content)
    with pytest.raises(LogError, match="expected the folder of a run") as told:
        list(KpiLog(tmp_path))
    assert "\n" not in str(told.value)


def test_a_large_foreign_file_is_refused_after_its_first_lines(tmp_path: Path) -> None:
    (tmp_path / "kpi.jsonl").write_bytes(b"a,b\n" * 1_000_000)
    log = KpiLog(tmp_path)
    with pytest.raises(LogError, match=r"kpi\.jsonl:1: not JSON"):
        list(log)
    assert log.notes.broken <= 100


def test_what_is_not_there_or_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="no such file or folder"):
        KpiLog(tmp_path / "missing")
    with pytest.raises(LogError, match=r"no kpi\.jsonl in it"):
        KpiLog(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "kpi.jsonl").mkdir()
    for name in ("pipe", "kpi.jsonl"):
        with pytest.raises(LogError, match=r"not a regular file|no kpi\.jsonl"):
            list(KpiLog(tmp_path / name))
    with pytest.raises(LogError, match="not a regular file"):
        list(KpiLog(Path("/dev/zero")))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A process's memory: a regular file that even root cannot read from its beginning."""
    (tmp_path / "kpi.jsonl").symlink_to("/proc/self/mem")
    with pytest.raises(LogError, match="Input/output error"):
        list(KpiLog(tmp_path))


def test_null_where_a_number_must_be_is_nan() -> None:
    line = (
        b'{"ts":1,"event":"frame_published","source_id":"a","epoch":0,"frame_id":1,'
        b'"latency_ms":null,"age_ms":2,"stages_ms":{"a":{"host":null}},"objects":0}'
    )
    told = decode(line).event
    assert isinstance(told, FramePublished)
    assert math.isnan(told.latency_ms)
    assert math.isnan(told.stages_ms["a"].host)
    assert told.stages_ms["a"].gpu is None
