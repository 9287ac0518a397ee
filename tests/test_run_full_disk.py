"""A whole run whose disk is full for a while: the log pauses and goes on, frames never do."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import StartCli
from kpi_lines import read
from run_watch import Seen, look_at

SETTINGS = (
    *(
        "results.endpoint=tcp://127.0.0.1:0",
        "http.port=0",
        "control.endpoint=tcp://127.0.0.1:0",
        "source.ahead=60",
        "preview=null",
    ),
)
WAIT_S = 100.0


def await_look(process: subprocess.Popen[str], out: Path, enough: Callable[[Seen], bool]) -> Seen:
    """The first look at the run that is `enough`."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError, json.JSONDecodeError):
            seen = look_at(out)
            if enough(seen):
                return seen
        time.sleep(0.1)
    pytest.fail(f"not within {WAIT_S} s, or the run is over: {process.poll()}")


def limit_files(process: subprocess.Popen[str], size: int | None) -> None:
    """No file of the process may grow beyond `size` bytes (None: all it may), as on a full disk;
    for that one need not be root."""
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (hard if size is None else size, hard))


@pytest.mark.timeout(300)
def test_a_disk_that_is_full_for_a_while_costs_lines_and_no_frame(
    start_cli: StartCli, tmp_path: Path
) -> None:
    options = [word for setting in SETTINGS for word in ("--set", setting)]
    process = start_cli("run", "demo", "--out", "out", *options, cwd=tmp_path)
    out = tmp_path / "out"
    log = out / "kpi.jsonl"
    before = await_look(process, out, lambda seen: seen.status_published > 10)
    assert before.recording == 1
    limit_files(process, log.stat().st_size // 2)  # not one line fits, or it would flicker
    paused = await_look(process, out, lambda seen: seen.recording == 0)
    await_look(process, out, lambda seen: seen.metrics_published > paused.metrics_published + 20)
    assert look_at(out).recording == 0
    limit_files(process, None)
    resumed = await_look(process, out, lambda seen: seen.recording == 1)
    await_look(process, out, lambda seen: seen.status_published > resumed.status_published + 10)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, stderr

    summary = json.loads((out / "summary.json").read_text())
    frames, kept = summary["frames"], summary["kpi"]
    assert set(frames["dropped"]) <= {"stopped"}, "in flight at the end"
    assert frames["grabbed"] == frames["published"] + sum(frames["dropped"].values())
    assert frames["published"] > resumed.status_published
    assert (kept["outages"]["JsonlSink"], kept["recoveries"]["JsonlSink"]) == (1, 1)
    assert kept["lost"]["JsonlSink"] > 20
    assert (kept["lost"]["PrometheusSink"], kept["dropped"], kept["abandoned"]) == (0, 0, [])

    lines = read(log)
    told = [line for line in lines if line["event"] == "frame_published"]
    assert 0 < frames["published"] - len(told) <= kept["lost"]["JsonlSink"]
    (gap,) = [line for line in lines if line["event"] == "recorder_state" and "reason" in line]
    assert gap["state"] == "recording"
    assert "too large" in str(gap["reason"])
    assert gap["lost"] == kept["lost"]["JsonlSink"]


@pytest.mark.parametrize(("handled", "code"), [("SIG_IGN", 0), ("SIG_DFL", -signal.SIGXFSZ)])
def test_the_signal_of_that_limit_would_end_a_process_that_minds_it(
    tmp_path: Path, handled: str, code: int
) -> None:
    """Python ignores it from its start; the write fails instead."""
    script = f"""
import contextlib, resource, signal
from pathlib import Path
assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN
signal.signal(signal.SIGXFSZ, signal.{handled})
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
with contextlib.suppress(OSError):
    Path("full").write_bytes(bytes(200))
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False)
    assert ended.returncode == code
