"""What a run says about itself while it goes on: for the display, `/status` and `/readyz`."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.tally import Tally

STALE_AFTER_S = 5.0
"""No frame published for so long: not ready."""


class RunStatus:
    """Reads the tally; callable from any thread."""

    def __init__(self, name: str, source_id: str, tally: Tally) -> None:
        self._name = name
        self._source_id = source_id
        self._tally = tally
        self.subscribers: Callable[[], int] = lambda: 0

    def not_ready(self) -> str | None:
        """Why no client should rely on this run now; None when one may."""
        since = self._tally.since_publish_s
        if since is None:
            return "no frame was published yet"
        if since > STALE_AFTER_S:
            return f"no frame was published for {since:.1f} s"
        return None

    def snapshot(self) -> dict[str, object]:
        """The run now, JSON-ready."""
        tally = self._tally
        return {
            "name": self._name,
            "source_id": self._source_id,
            "published": tally.published,
            "dropped": tally.dropped,
            "fps": round(tally.recent_fps, 1),
            "latency_ms": tally.latency_ms.summary(),
            "age_ms": tally.age_ms.summary(),
            "objects": tally.objects,
            "subscribers": self.subscribers(),
            "not_ready": self.not_ready(),
        }

    def rows(self) -> dict[str, str]:
        """The run now, for a person."""
        tally, latency = self._tally, self._tally.latency_ms
        p50, p99 = latency.at(0.5), latency.at(0.99)
        shown = "-" if p50 is None or p99 is None else f"{p50:.1f} / {p99:.1f} ms (p50 / p99)"
        return {
            "frames": str(tally.published),
            "rate": f"{tally.recent_fps:.1f} frames/s",
            "latency": shown,
            "objects": str(tally.objects),
            "dropped": str(sum(tally.dropped.values())),
            "subscribers": str(self.subscribers()),
        }
