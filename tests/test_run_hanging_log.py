"""Whole runs whose log hangs: still watched from outside, over in time, and told of."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from run_watch import Seen, look_at

from pipeline.config import load_config
from pipeline.folder import RunFolder
from pipeline.frame_flow import RunOptions
from pipeline.run import start

FRAMES = 120
SETTINGS = (
    *(
        "results.endpoint=tcp://127.0.0.1:0",
        "http.port=0",
        "control.endpoint=tcp://127.0.0.1:0",
        f"source.ahead={FRAMES}",
    ),
    *("source.fps=30", "preview=null"),
)


@dataclass(slots=True)
class Watcher:
    """Looks at the run of a folder over HTTP, ten times a second, until it is over."""

    out: Path
    over: threading.Event = field(default_factory=threading.Event)
    seen: list[Seen] = field(default_factory=list)

    def watch(self) -> None:
        while not self.over.wait(0.1):
            with suppress(OSError, json.JSONDecodeError):  # not there yet, or no longer
                self.seen.append(look_at(self.out))


@contextmanager
def watched(out: Path) -> Iterator[Watcher]:
    watcher = Watcher(out)
    thread = threading.Thread(target=watcher.watch)
    thread.start()
    try:
        yield watcher
    finally:
        watcher.over.set()
        thread.join()


@pytest.fixture
def hanging_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The log of a run is a pipe that nobody empties: a write to it hangs once it is full."""
    readers: list[int] = []
    create = RunFolder.create

    def create_with_pipe(folder: RunFolder) -> None:
        create(folder)
        os.mkfifo(folder.kpi)
        reader = os.open(folder.kpi, os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
        readers.append(reader)

    monkeypatch.setattr(RunFolder, "create", create_with_pipe)
    monkeypatch.setattr("kpi.lane._HANG_S", 0.5)
    yield
    for reader in readers:
        os.close(reader)  # the write that hangs fails


def demo(out: Path) -> tuple[dict[str, Any], list[Seen], float]:
    """A run's summary, what was seen of it, and when it was over."""
    with watched(out) as watcher, (out.parent / "log.txt").open("w") as log:
        config = load_config("demo", SETTINGS)
        assert start(config, RunOptions(FRAMES, out), Console(file=log)) == 0
        ended = time.monotonic()
    return json.loads((out / "summary.json").read_text()), watcher.seen, ended


@pytest.mark.timeout(300)
def test_a_log_that_hangs_blinds_nobody_and_holds_up_no_end(
    tmp_path: Path, hanging_log: None
) -> None:
    summary, seen, ended = demo(tmp_path / "run")
    paused = [look for look in seen if look.recording == 0]
    assert paused, "the hang is told"
    for counts in (
        [look.metrics_published for look in paused],
        [look.status_published for look in paused],
    ):
        assert counts[-1] - counts[0] > FRAMES / 4, "what is told stays fresh"
    behind = [look.status_published - look.metrics_published for look in seen]
    assert max(behind) < 45, "by a second at most, and half of one for a machine that is busy"
    last_frame = next(
        look.at for look in seen if look.status_published == seen[-1].status_published
    )
    assert ended - last_frame < 10
    assert summary["frames"] == {"grabbed": FRAMES, "published": FRAMES, "dropped": {}}
    log = summary["kpi"]
    assert log["abandoned"] == ["JsonlSink"]
    assert log["lost"]["JsonlSink"] > FRAMES
    assert (log["lost"]["PrometheusSink"], log["lost"]["Health"], log["dropped"]) == (0, 0, 0)
    assert log["outages"]["JsonlSink"] == 1


@pytest.mark.timeout(300)
def test_a_log_that_does_not_hang_is_written_to_its_end(tmp_path: Path) -> None:
    summary, seen, _ = demo(tmp_path / "run")
    assert {look.recording for look in seen} - {None} == {1.0}
    log = summary["kpi"]
    assert (log["abandoned"], log["lost"]["JsonlSink"], log["outages"]["JsonlSink"]) == ([], 0, 0)
    last = (tmp_path / "run" / "kpi.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["event"] == "kpi_events_dropped"
