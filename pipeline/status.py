"""What a run says about itself while it goes on: for the display, `/status` and `/readyz`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict

from pipeline.health import Health
from pipeline.tally import Tally
from stages.recorder.report import RecorderReport


class RunStatus:
    """Reads the tally and the health; callable from any thread."""

    def __init__(self, name: str, source_id: str, tally: Tally, health: Health) -> None:
        self.health = health
        self._began = time.monotonic()
        self._name = name
        self._source_id = source_id
        self._tally = tally
        self.subscribers: Callable[[], int] = lambda: 0
        self.recorder: Callable[[], RecorderReport] | None = None
        """None: nothing is recorded."""

    def snapshot(self) -> dict[str, object]:
        """The run now, JSON-ready."""
        tally, source = self._tally, self.health.source
        return {
            "name": self._name,
            "uptime_s": round(time.monotonic() - self._began, 1),
            "source_id": self._source_id,
            "source_state": None if source is None else source.state,
            "epoch": None if source is None else source.epoch,
            "published": tally.published,
            "dropped": tally.dropped,
            "source_troubles": tally.troubles(),
            "fps": round(tally.recent_fps, 1),
            "latency_ms": tally.latency_ms.summary(),
            "age_ms": tally.age_ms.summary(),
            "objects": tally.objects,
            "subscribers": self.subscribers(),
            "recorder": None if self.recorder is None else asdict(self.recorder()),
            "not_ready": self.health.not_ready(),
            "not_live": self.health.not_live(),
        }

    def _source_row(self) -> str:
        source = self.health.source
        if source is None:
            return "-"
        return f"{source.state} ({source.reason})" if source.reason else source.state

    def rows(self) -> dict[str, str]:
        """The run now, for a person."""
        tally, latency = self._tally, self._tally.latency_ms
        p50, p99 = latency.at(0.5), latency.at(0.99)
        shown = "-" if p50 is None or p99 is None else f"{p50:.1f} / {p99:.1f} ms (p50 / p99)"
        return {
            "source": self._source_row(),
            "frames": str(tally.published),
            "rate": f"{tally.recent_fps:.1f} frames/s",
            "latency": shown,
            "objects": str(tally.objects),
            "dropped": str(sum(tally.dropped.values())),
            "subscribers": str(self.subscribers()),
        }
