"""Published frames a second while somebody scrapes far too often, against the same run left alone.

    python -m benchmarks.scrape_storm [--quick] [--json FILE] [--rate 200] [--seconds 10]

The demo runs in a process of its own, at its 30 frames/s and as fast as it can; windows with and
without the storm take turns within one run, and every storm stands between two calm windows. The
storm is a third process on the same cores: what it costs there is part of `fall`, so `elsewhere`,
the same storm against a server that has nothing to do with the run, says how much of it is not the
run's own. `fall`: of published frames/s against the mean of the calm windows before and after, the
median of all; that of `calm` itself against its calm neighbours is the machine's noise. `asked`,
`answered` (whole, with status 200) and `refused` (anything else) scrapes a second: fewer asked than
`--rate` means that answers came too late to ask for more. `cpu_ms`: what the run's process spent
for a frame, which depends less on what else the machine does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import psutil

from benchmarks.report import parser, print_table, write_json

ROOT = Path(__file__).parent.parent
MODES = ("calm", "elsewhere", "storm")
ROUND = ("calm", "elsewhere", "calm", "storm")
MOST_FALL = 0.1
"""Share of the frames that a storm may cost."""
LEAST_ANSWERED = 0.95
"""Share of the scrapes asked for that must be answered, or it was no storm."""
PACES = {"paced": "30", "unpaced": "null"}
START_S = 120.0
STORM = "benchmarks.scraper"


@dataclass(frozen=True, slots=True)
class Plan:
    """How the windows are."""

    rate: float
    """Scrapes a second."""
    seconds: float
    """Of each window."""
    rounds: int


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of a run."""

    mode: str
    begin: float
    """Unix seconds."""
    end: float
    cpu_s: float
    """That the run's process spent."""
    asked_per_s: float = 0.0
    answered_per_s: float = 0.0
    refused_per_s: float = 0.0
    ms_p99: float | None = None
    """Until a scrape is answered."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a run did in one mode; medians over its windows."""

    fps: float
    fall: float
    """Of frames/s against the calm windows beside it; 0.1 is a tenth fewer."""
    cpu_ms: float
    """Of the run's process, a frame."""
    latency_ms_p99: float
    asked_per_s: float
    answered_per_s: float
    refused_per_s: float
    scrape_ms_p99: float | None


@contextmanager
def running(folder: Path, fps: str) -> Iterator[tuple[str, psutil.Process]]:
    """The address of a run's metrics and its process, once frames flow; ends the run."""
    settings = (
        "results.endpoint=tcp://127.0.0.1:0",
        "http.port=0",
        "control.endpoint=tcp://127.0.0.1:0",
        "preview=null",
    )
    options = [word for one in (*settings, f"source.fps={fps}") for word in ("--set", one)]
    command = [sys.executable, "-m", "pipeline.cli", "run", "demo", "--out", str(folder / "run")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen([*command, *options], env=environment, stdout=log, stderr=log)
        try:
            _await_frames(folder / "run" / "kpi.jsonl", process)
            endpoints = json.loads((folder / "run" / "endpoints.json").read_text())
            yield endpoints["http"].removeprefix("http://"), psutil.Process(process.pid)
            process.send_signal(signal.SIGINT)
            process.wait(30)
        finally:
            process.kill()
            process.wait()


def _await_frames(log: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while not (log.exists() and log.read_text().count('"frame_published"') > 30):
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("the run did not start")
        time.sleep(0.2)


@contextmanager
def idle_server() -> Iterator[str]:
    """The address of a server like the run's, in a process that does nothing else."""
    command = [sys.executable, "-m", STORM, "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def watch(mode: str, address: str | None, run: psutil.Process, plan: Plan) -> Window:
    """One window: the storm on `address`, or peace."""
    begin, spent = time.time(), _cpu_s(run)
    told: dict[str, Any] = {}
    if address is None:
        time.sleep(plan.seconds)
    else:
        command = [sys.executable, "-m", STORM, address, str(plan.rate), str(plan.seconds)]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        told = json.loads(ended.stdout)
    cpu_s = _cpu_s(run) - spent
    return Window(mode, begin, time.time(), cpu_s, **told)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def summarize(windows: list[Window], events: list[dict[str, Any]]) -> dict[str, Shown]:
    """By mode."""
    frames = [event for event in events if event["event"] == "frame_published"]
    stamps = np.array([event["ts"] for event in frames])
    latencies = np.array([event["latency_ms"] for event in frames])
    inside = [(stamps >= window.begin) & (stamps < window.end) for window in windows]
    fps = [float(of.sum()) / (w.end - w.begin) for of, w in zip(inside, windows, strict=True)]
    falls = falls_of([window.mode for window in windows], fps)
    shown = {}
    for mode in MODES:
        rows = [row for row, window in enumerate(windows) if window.mode == mode]
        of = [windows[row] for row in rows]
        waits = [window.ms_p99 for window in of if window.ms_p99 is not None]
        shown[mode] = Shown(
            fps=median(fps[row] for row in rows),
            fall=median(falls[mode]),
            cpu_ms=median(windows[row].cpu_s / inside[row].sum() * 1e3 for row in rows),
            latency_ms_p99=median(np.percentile(latencies[inside[row]], 99) for row in rows),
            asked_per_s=median(window.asked_per_s for window in of),
            answered_per_s=median(window.answered_per_s for window in of),
            refused_per_s=median(window.refused_per_s for window in of),
            scrape_ms_p99=median(waits) if waits else None,
        )
    return shown


def falls_of(modes: list[str], fps: list[float]) -> dict[str, list[float]]:
    """By mode, of each window that has one: its fall against the calm windows beside it."""
    falls: dict[str, list[float]] = {mode: [] for mode in MODES}
    calm = [row for row, mode in enumerate(modes) if mode == "calm"]
    for row, mode in enumerate(modes):
        before, after = ([c for c in calm if c < row][-1:], [c for c in calm if c > row][:1])
        if before and after:
            falls[mode].append(1 - fps[row] / mean((fps[before[0]], fps[after[0]])))
    return falls


def measure(fps: str, plan: Plan) -> dict[str, Shown]:
    """One run, its windows in turns."""
    with tempfile.TemporaryDirectory() as name, idle_server() as elsewhere:
        folder = Path(name)
        with running(folder, fps) as (address, run):
            targets = {"calm": None, "elsewhere": elsewhere, "storm": address}
            turns = [*ROUND * plan.rounds, ROUND[0]]
            windows = [watch(mode, targets[mode], run, plan) for mode in turns]
        lines = (folder / "run" / "kpi.jsonl").read_text().splitlines()
        return summarize(windows, [json.loads(line) for line in lines])


def main() -> None:
    """Measure, print, write; exit 1 where the storm costs too much, or was none."""
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--rate", type=float, default=200.0, help="scrapes a second")
    made.add_argument("--seconds", type=float, default=10.0, help="of each window")
    made.add_argument("--rounds", type=int, default=4, help="each has two storms")
    options = made.parse_args()
    quick = Plan(options.rate, min(2.5, options.seconds), 1)
    plan = quick if options.quick else Plan(options.rate, options.seconds, options.rounds)
    results: dict[str, float | None] = {"load_before": round(os.getloadavg()[0], 2), **asdict(plan)}
    rows = []
    for pace, fps in PACES.items():
        for mode, shown in measure(fps, plan).items():
            rows.append((pace, mode, *astuple(shown)))
            for field, value in asdict(shown).items():
                key = f"{pace}_{mode}_{field}"
                results[key] = None if value is None else round(float(value), 4)
    scrapes = ("asked/s", "answered/s", "refused/s", "scrape p99 ms")
    columns = ("", "", "frames/s", "fall", "cpu ms", "latency p99 ms", *scrapes)
    print_table(f"{plan.rate:.0f} scrapes/s asked for", columns, rows)
    results["most_fall"] = MOST_FALL
    results["fine"] = all(
        float(results[f"{pace}_storm_fall"]) <= MOST_FALL
        and float(results[f"{pace}_storm_answered_per_s"]) >= LEAST_ANSWERED * plan.rate
        for pace in PACES
    )
    write_json(options.json, "scrape_storm", results)
    sys.exit(0 if results["fine"] else 1)


if __name__ == "__main__":
    main()
