"""Published frames a second while somebody scrapes far too often, against the same run left alone.

    python -m benchmarks.scrape_storm [--quick] [--json FILE] [--rate 200] [--seconds 2.5]

The demo runs in a process of its own, at its 30 frames/s and as fast as it can; short windows with
and without the storm take turns within one run. The storm is a third process on the same cores:
what it costs there is part of `fall`, so `elsewhere`, the same storm against a server that has
nothing to do with the run, says how much of it is not the run's own. `fall`: of published frames/s
against the calm window before, the median of all pairs. `cpu_ms`: what the run's process spent for
a frame, which depends less on what else the machine does.
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
from statistics import median
from typing import Any

import numpy as np
import psutil

from benchmarks.report import parser, print_table, write_json

ROOT = Path(__file__).parent.parent
MODES = ("calm", "elsewhere", "storm")
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
    scrapes: int
    scrape_ms_p99: float | None


@dataclass(frozen=True, slots=True)
class Shown:
    """What a run did in one mode; medians over its windows."""

    fps: float
    fall: float
    """Of frames/s against the calm window before; 0.1 is a tenth fewer."""
    cpu_ms: float
    """Of the run's process, a frame."""
    latency_ms_p99: float
    scrapes_per_s: float
    scrape_ms_p99: float | None


@contextmanager
def running(folder: Path, fps: str) -> Iterator[tuple[str, psutil.Process]]:
    """The address of a run's metrics and its process, once frames flow; ends the run."""
    settings = ("results.endpoint=tcp://127.0.0.1:0", "http.port=0", "preview=null")
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
    told: dict[str, Any] = {"scrapes": 0, "ms_p99": None}
    if address is None:
        time.sleep(plan.seconds)
    else:
        command = [sys.executable, "-m", STORM, address, str(plan.rate), str(plan.seconds)]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        told = json.loads(ended.stdout)
    cpu_s = _cpu_s(run) - spent
    return Window(mode, begin, time.time(), cpu_s, told["scrapes"], told["ms_p99"])


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def summarize(windows: list[Window], events: list[dict[str, Any]]) -> dict[str, Shown]:
    """By mode."""
    frames = [event for event in events if event["event"] == "frame_published"]
    stamps = np.array([event["ts"] for event in frames])
    latencies = np.array([event["latency_ms"] for event in frames])

    def inside(window: Window) -> Any:  # noqa: ANN401 (a bool array)
        return (stamps >= window.begin) & (stamps < window.end)

    def fps(window: Window) -> float:
        return float(inside(window).sum() / (window.end - window.begin))

    calm = [fps(window) for window in windows if window.mode == "calm"]
    shown = {}
    for mode in MODES:
        of = [window for window in windows if window.mode == mode]
        waits = [window.scrape_ms_p99 for window in of if window.scrape_ms_p99 is not None]
        shown[mode] = Shown(
            fps=median(map(fps, of)),
            fall=1 - median(fps(window) / base for window, base in zip(of, calm, strict=True)),
            cpu_ms=median(window.cpu_s / inside(window).sum() * 1e3 for window in of),
            latency_ms_p99=median(np.percentile(latencies[inside(window)], 99) for window in of),
            scrapes_per_s=median(window.scrapes / (window.end - window.begin) for window in of),
            scrape_ms_p99=median(waits) if waits else None,
        )
    return shown


def measure(fps: str, plan: Plan) -> dict[str, Shown]:
    """One run, its windows in turns."""
    with tempfile.TemporaryDirectory() as name, idle_server() as elsewhere:
        folder = Path(name)
        with running(folder, fps) as (address, run):
            targets = {"calm": None, "elsewhere": elsewhere, "storm": address}
            turns = [mode for _ in range(plan.rounds) for mode in MODES]
            windows = [watch(mode, targets[mode], run, plan) for mode in turns]
        lines = (folder / "run" / "kpi.jsonl").read_text().splitlines()
        return summarize(windows, [json.loads(line) for line in lines])


def main() -> None:
    """Measure, print, write."""
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--rate", type=float, default=200.0, help="scrapes a second")
    made.add_argument("--seconds", type=float, default=2.5, help="of each window")
    made.add_argument("--rounds", type=int, default=20)
    options = made.parse_args()
    plan = Plan(options.rate, options.seconds, 3 if options.quick else options.rounds)
    results: dict[str, object] = {"load_before": round(os.getloadavg()[0], 2), **asdict(plan)}
    rows = []
    for pace, fps in PACES.items():
        for mode, shown in measure(fps, plan).items():
            rows.append((pace, mode, *astuple(shown)))
            for field, value in asdict(shown).items():
                key = f"{pace.replace(' ', '_')}_{mode}_{field}"
                results[key] = None if value is None else round(float(value), 4)
    columns = ("", "", "frames/s", "fall", "cpu ms", "latency p99 ms", "scrapes/s", "scrape p99 ms")
    print_table(f"{plan.rate:.0f} scrapes/s asked for", columns, rows)
    write_json(options.json, "scrape_storm", results)


if __name__ == "__main__":
    main()
