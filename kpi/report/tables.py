"""The tables of the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import numpy as np

from kpi.device_events import DeviceFault
from kpi.events import ErrorRaised, EventsDropped, PromptEnded, SourceStateChanged, Spread
from kpi.history import History
from kpi.report.html import table, text
from kpi.report.shape import StageRow
from kpi.worst import worst_frames

_MOST_ROWS = 100
Row = tuple[object, ...]


def notes(history: History) -> Iterator[str]:
    """What the reader of the page must know about the log itself."""
    found, log = [], history.notes
    if history.started is None:
        found.append("The log has no beginning: its oldest files were rotated away.")
    if history.finished is None:
        found.append("The log has no end: the run crashed, was killed, or still goes on.")
    if history.row == "second":
        found.append(
            "The log has one line a second instead of one a frame (kpi.detail: second): times of"
            " stages are medians of seconds, and presence is not told."
        )
    if log.torn:
        found.append("The last line was cut and is not counted.")
    if log.broken:
        named = "; ".join(log.named)
        found.append(f"{log.broken} lines are no KPI events and are not counted: {named}")
    for name, count in log.unknown.items():
        found.append(f"{count} events {name!r} are unknown to this version and are left out.")
    lost = [event for _, event in history.marked(EventsDropped)]
    if lost and (lost[-1].dropped or lost[-1].lost.get("JsonlSink")):
        missing = lost[-1].dropped + lost[-1].lost.get("JsonlSink", 0)
        found.append(f"{missing} events never reached the log: what follows misses them.")
    if history.marks_left_out:
        found.append(f"{history.marks_left_out} further states, prompts and errors are left out.")
    if found:
        yield "<h2>About this log</h2><ul>"
        yield "".join(f"<li>{text(item)}</li>" for item in found) + "</ul>"


def facts(history: History) -> str:
    started = history.started
    rows: list[Row] = [("events", f"{history.notes.events:,}")]
    if started is not None:
        gpu = f" {started.gpu_name}" if started.gpu_name else ""
        rows.append(("device", f"{started.device}{gpu}"))
        if started.driver:
            rows.append(("driver", started.driver))
        rows.append(("config sha256", started.config_sha256))
        versions = ", ".join(f"{name} {version}" for name, version in started.versions.items())
        rows.append(("versions", versions))
    if history.sources:
        rows.append(("sources", ", ".join(history.sources[:20])))
    return table(("", ""), rows)


def accounting(history: History) -> str:
    """Frames grabbed = published + dropped; what the log counts beside what the run counted."""
    finished = history.finished
    counted = {row.reason: row.count for row in history.drops.by_reason}
    told = finished.dropped if finished is not None else {}
    rows: list[Row] = [
        ("published", history.published, None if finished is None else finished.published)
    ]
    for reason in dict.fromkeys((*counted, *told)):
        rows.append(
            (f"dropped: {reason}", counted.get(reason, 0), told.get(reason) if finished else None)
        )
    total = history.published + history.drops.total
    rows.append(("grabbed", total, None if finished is None else finished.grabbed))
    exact = finished is not None and total == finished.grabbed
    verdict = (
        "Grabbed = published + dropped, exactly."
        if exact
        else "The log alone cannot prove it: it has no end, or events are missing."
    )
    return f"<p>{verdict}</p>" + table(("frames", "in the log", "the run's own count"), rows)


def spreads(history: History) -> str:
    of = "" if history.row == "frame" else ", a typical second"
    rows = ((f"latency (ms){of}", history.latency), (f"age (ms){of}", history.age))
    return table(("", "p50", "p95", "p99", "max"), [_spread_row(name, row) for name, row in rows])


def stages(rows: tuple[StageRow, ...]) -> str:
    clocks = [
        (row.name, clock, times)
        for row in rows
        for clock, times in (("host", row.host), ("gpu", row.gpu))
        if times is not None
    ]
    return table(
        ("stage", "clock", "p50 (ms)", "p95", "p99", "max"),
        [(name, clock, *_spread_row("", times)[1:]) for name, clock, times in clocks],
    )


def _spread_row(name: str, row: Spread | None) -> Row:
    if row is None:
        return (name, None, None, None, None)
    return (name, row.p50, row.p95, row.p99, row.max)


def worst(history: History) -> str:
    frames = worst_frames(history)
    if not frames:
        return "<p>The log tells of no published frame.</p>"
    rows = [
        (
            *(_clock(history, f.ts), f.source, f.epoch, f.frame_id, f.latency_ms, f.over_ms),
            f.causes or ("the log knows no cause",),
        )
        for f in frames
    ]
    head = ("time", "source", "epoch", "frame", "latency (ms)", "above median", "causes")
    return table(head, rows)


def states(history: History) -> str:
    rows = [
        (_clock(history, ts), e.source_id, e.epoch, e.state, e.reason or "")
        for ts, e in history.marked(SourceStateChanged)
    ]
    return _listed(("time", "source", "epoch", "state", "reason"), rows, "No state was told.")


def fault_rows(history: History) -> list[Row]:
    """Device faults and errors, oldest first."""
    faults = [(ts, f"device {e.kind}", e.detail) for ts, e in history.marked(DeviceFault)]
    errors = [(ts, f"error in {e.where}", e.message) for ts, e in history.marked(ErrorRaised)]
    return [(_clock(history, ts), *rest) for ts, *rest in sorted(faults + errors)]


def faults(history: History) -> str:
    found = _listed(("time", "what", "detail"), fault_rows(history), "None.")
    if not history.throttled:
        return found
    reasons = sorted({reason for sample in history.throttled for reason in sample.reasons})
    count = len(history.throttled)
    return found + f"<p>The GPU throttled in {count} samples: {text(', '.join(reasons))}.</p>"


def prompts(history: History) -> str:
    rows = [
        (_clock(history, ts), e.source_id, e.frame_id, e.action, e.object_id, e.reason or "applied")
        for ts, e in history.marked(PromptEnded)
    ]
    head = ("time", "source", "frame", "action", "object", "outcome")
    return _listed(head, rows, "None.")


def _listed(head: tuple[str, ...], rows: Sequence[Row], nothing: str) -> str:
    if not rows:
        return f"<p>{nothing}</p>"
    left = len(rows) - _MOST_ROWS
    more = f"<p>… and {left} more.</p>" if left > 0 else ""
    return table(head, rows[:_MOST_ROWS]) + more


def _clock(history: History, ts: float) -> str:
    """Time of day, and seconds since the run's first event."""
    shown = datetime.fromtimestamp(ts, UTC)
    return f"{shown:%H:%M:%S} (+{np.round(ts - history.begins, 2)} s)"
