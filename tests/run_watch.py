"""A run as somebody outside sees it: over HTTP, while it goes on."""

from __future__ import annotations

import http.client
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

PUBLISHED = re.compile(r'^maskstream_frames_total\{outcome="published",\S+\} (\S+)$', re.M)
RECORDING = re.compile(r'^maskstream_recorder_recording\{recorder="kpi"\} (\S+)$', re.M)


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at a run."""

    at: float
    """Monotonic seconds."""
    metrics_published: float
    recording: float | None
    """What the KPI log's recorder says of itself; None before it said anything."""
    status_published: int


def look_at(out: Path) -> Seen:
    """The run whose folder is `out`, now. Raises OSError or JSONDecodeError where it is not there
    yet, or no longer."""
    endpoints = json.loads((out / "endpoints.json").read_text())
    port = int(endpoints["http"].rpartition(":")[2])
    metrics, status = _get(port, "/metrics"), json.loads(_get(port, "/status"))
    published, recording = PUBLISHED.search(metrics), RECORDING.search(metrics)
    assert published is not None
    return Seen(
        time.monotonic(),
        float(published[1]),
        None if recording is None else float(recording[1]),
        status["published"],
    )


def _get(port: int, path: str) -> str:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        client.request("GET", path)
        return client.getresponse().read().decode()
    finally:
        client.close()
