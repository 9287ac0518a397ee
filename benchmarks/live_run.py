"""A run on a live source in a process of its own, followed from outside: `Run`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent
SETTLE_S = 6.0
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Load:
    """What a process holds."""

    threads: int
    descriptors: int
    rss_mb: float


class Run:
    """A run in a process of its own, followed by its log."""

    def __init__(self, folder: Path, source: dict[str, object]) -> None:
        config = folder / "run.json"  # which is YAML, too
        settings = {
            "name": "reconnect",
            "source": {"source_id": "live", **source},
            "detector": {"kind": "none"},
            "segmenter": {"kind": "sam2_image", "model": "demo", "max_objects": 1},
            "results": {"endpoint": "tcp://127.0.0.1:0"},
            "http": None,
            "preview": None,
        }
        config.write_text(json.dumps(settings))
        self._out = folder / "out"
        with (folder / "log.txt").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.cli", "run", str(config), "--out", self._out],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
            )
        self._watched = psutil.Process(self.process.pid)
        self.events: list[dict[str, Any]] = []
        self._read = 0

    def follow(self) -> None:
        """Take in what the log has more."""
        path = self._out / "kpi.jsonl"
        if not path.exists():
            return
        with path.open("rb") as log:
            log.seek(self._read)
            whole = log.read().rpartition(b"\n")[0]
        self._read += len(whole) + bool(whole)
        self.events += [json.loads(line) for line in whole.splitlines()]

    def await_event(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first such event of the whole run, once it is there."""
        deadline, looked = time.monotonic() + PATIENCE_S, 0
        while True:
            self.follow()
            for event in self.events[looked:]:
                if wanted(event):
                    return event
            looked = len(self.events)
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("what should come never came")
            time.sleep(0.02)

    def load(self) -> Load:
        """After some quiet seconds; the median of ten looks."""
        time.sleep(SETTLE_S)
        looks = []
        for _ in range(10):
            time.sleep(0.2)
            rss = self._watched.memory_info().rss / 1e6
            looks.append((self._watched.num_threads(), self._watched.num_fds(), rss))
        threads, descriptors, rss = zip(*looks, strict=True)
        return Load(int(median(threads)), int(median(descriptors)), float(median(rss)))

    def end(self) -> dict[str, Any]:
        """The summary."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)
        self.follow()
        return dict(json.loads((self._out / "summary.json").read_text()))
