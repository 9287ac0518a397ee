"""A log followed while it is written: nothing missed, nothing twice, an end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import StartCli
from kpi_lines import event
from kpi_logs import HOSTILE, Made, hostile_events, write_events, write_log

from kpi.decoding import Record
from kpi.edge_events import SubscriberState
from kpi.events import RunFinished
from kpi.jsonl import JsonlSink
from kpi.lines import describe
from kpi.reading import LogError
from kpi.tail import Tail

END = RunFinished(0, 1, 1, {}, None)


class Writer:
    """Goes on writing each time that the reader waits."""

    def __init__(
        self, folder: Path, *steps: Callable[[JsonlSink], None], size: int = 1 << 20
    ) -> None:
        self._sink = JsonlSink(folder / "kpi.jsonl", max_bytes=size, keep=3)
        self._steps = list(steps)

    def __call__(self, seconds: float) -> None:
        if self._steps:
            self._steps.pop(0)(self._sink)
            self._sink.flush()


def adds(*numbers: int) -> Callable[[JsonlSink], None]:
    return lambda sink: [sink.write(1.0, event(n)) for n in numbers] and None


def ends(sink: JsonlSink) -> None:
    sink.write(2.0, END)


def told(tail: Tail) -> list[int]:
    events = [line.record.event for line in tail]
    return [e.subscribers for e in events if isinstance(e, SubscriberState)]


def test_it_tells_the_last_lines_then_what_comes_then_ends(tmp_path: Path) -> None:
    write_events(tmp_path, [(1.0, event(n)) for n in range(20)])
    writer = Writer(tmp_path, adds(20), adds(21, 22), ends)
    assert told(Tail(tmp_path, last=3, sleep=writer)) == [17, 18, 19, 20, 21, 22]


def test_a_run_that_is_over_ends_at_once(tmp_path: Path) -> None:
    write_events(tmp_path, [(1.0, event(1)), (2.0, END)])
    assert len(list(Tail(tmp_path, last=10))) == 2


@pytest.mark.parametrize("burst", [1, 4, 9])
def test_it_follows_across_rotations(tmp_path: Path, burst: int) -> None:
    """Also across several between two looks."""
    write_events(tmp_path, [(1.0, event(0))])
    numbers = list(range(1, 1 + 20 * burst))
    steps = [adds(*numbers[n : n + burst]) for n in range(0, len(numbers), burst)]
    tail = Tail(tmp_path, last=1, sleep=Writer(tmp_path, *steps, ends, size=260))
    assert told(tail) == [0, *numbers]
    assert tail.gaps == 0
    assert (tmp_path / "kpi.jsonl.3").exists()


def test_what_was_rotated_away_unread_is_told_as_a_gap(tmp_path: Path) -> None:
    write_events(tmp_path, [(1.0, event(0))])
    writer = Writer(tmp_path, adds(*range(1, 100)), ends, size=260)
    tail = Tail(tmp_path, last=1, sleep=writer)
    numbers = told(tail)
    assert tail.gaps == 1
    assert numbers == sorted(set(numbers))
    assert (numbers[0], numbers[-1]) == (0, 99)
    assert len(numbers) < 50


def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    path = tmp_path / "kpi.jsonl"
    write_events(tmp_path, [(1.0, event(1)), (2.0, END)])
    line, end = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(line[:30])
    parts = [line[30:], end]

    def go_on(seconds: float) -> None:
        if parts:
            with path.open("ab") as file:
                file.write(parts.pop(0))

    tail = Tail(tmp_path, last=5, sleep=go_on)
    assert told(tail) == [1]
    assert tail.broken == 0


def test_half_a_line_that_is_cut_off_again_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "kpi.jsonl"
    write_events(tmp_path, [(1.0, event(1))])
    whole = path.stat().st_size
    with path.open("ab") as file:
        file.write(b'{"ts":1,"ev')
    steps = [lambda: os.truncate(path, whole), lambda: append(path, event(2)), lambda: end(path)]
    tail = Tail(tmp_path, last=5, sleep=lambda s: steps.pop(0)() if steps else None)
    assert told(tail) == [1, 2]
    assert tail.broken == 0


def append(path: Path, one: SubscriberState) -> None:
    write_events(path.parent, [(1.0, one)])


def end(path: Path) -> None:
    write_events(path.parent, [(1.0, END)])


def test_a_log_that_is_removed_is_told(tmp_path: Path) -> None:
    write_events(tmp_path, [(1.0, event(1))])
    removed = threading.Event()

    def remove(seconds: float) -> None:
        if not removed.is_set():
            (tmp_path / "kpi.jsonl").unlink()
            removed.set()

    with pytest.raises(LogError, match="it was removed"):
        list(Tail(tmp_path, last=1, sleep=remove))


def test_no_file_stays_open(tmp_path: Path) -> None:
    write_events(tmp_path, [(1.0, event(0))])
    before = len(os.listdir("/proc/self/fd"))
    writer = Writer(tmp_path, *[adds(*range(n, n + 5)) for n in range(0, 50, 5)], ends, size=260)
    list(Tail(tmp_path, last=1, sleep=writer))
    assert len(os.listdir("/proc/self/fd")) == before + 1, "the writer's own"


@pytest.mark.parametrize("ts_and_event", hostile_events(), ids=lambda pair: pair[1].event)
def test_a_line_for_a_person_is_one_printable_line(ts_and_event: tuple[float, object]) -> None:
    line = describe(Record(*ts_and_event))  # type: ignore[arg-type]
    assert line.isprintable()
    assert len(line) <= 400
    assert not HOSTILE.isprintable(), "negative control"


# The command


def start_tail(start_cli: StartCli, folder: Path, *args: str) -> subprocess.Popen[str]:
    return start_cli("kpi", "tail", str(folder), *args, cwd=folder)


def test_the_command_prints_a_line_an_event(tmp_path: Path, start_cli: StartCli) -> None:
    write_log(tmp_path, Made(frames=30))
    stdout, stderr = start_tail(start_cli, tmp_path, "--last", "1000").communicate(timeout=60)
    assert stderr == ""
    assert stdout.count("frame_published") == 30
    assert len(stdout.splitlines()) == len((tmp_path / "kpi.jsonl").read_text().splitlines())


def test_raw_lines_of_chosen_events(tmp_path: Path, start_cli: StartCli) -> None:
    write_log(tmp_path, Made(frames=30))
    args = ("--json", "--event", "run_started", "--event", "prompt", "--last", "1000")
    process = start_tail(start_cli, tmp_path, *args)
    stdout, _ = process.communicate(timeout=60)
    assert [json.loads(line)["event"] for line in stdout.splitlines()] == ["run_started", "prompt"]
    assert set(stdout.splitlines()) <= set((tmp_path / "kpi.jsonl").read_text().splitlines())
    assert process.returncode == 0


def test_it_does_not_end_while_the_run_goes_on(tmp_path: Path, start_cli: StartCli) -> None:
    write_log(tmp_path, Made(frames=5, finished=False))
    process = start_tail(start_cli, tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.5)
    write_events(tmp_path, [(2e9, END)])
    assert process.wait(30) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(
    tmp_path: Path, start_cli: StartCli, number: signal.Signals
) -> None:
    write_log(tmp_path, Made(frames=5, finished=False))
    process = start_tail(start_cli, tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (0, "")


def test_it_ends_cleanly_where_nobody_reads(tmp_path: Path, start_cli: StartCli) -> None:
    write_log(tmp_path, Made(frames=5000))
    process = start_tail(start_cli, tmp_path, "--last", "100000")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr.read() == ""
