"""The page itself: what stands on it, in which order."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from kpi.history import History
from kpi.report import along_time, shape, tables
from kpi.report.html import card, document, figure, number, text
from kpi.report.style import styled, time_axis


def report(history: History, name: str) -> str:
    """The report as one HTML page that needs no network and no script; `name` is the run's where
    the log does not tell it."""
    title = history.started.name if history.started is not None else name
    with styled():
        return document(f"{title}: KPI report", _body(history, title))


def _body(history: History, title: str) -> Iterator[str]:
    begins = datetime.fromtimestamp(history.begins, UTC)
    yield f"<h1>{text(title)}</h1>"
    yield (
        f'<p class="quiet">maskstream KPI report · {begins:%Y-%m-%d %H:%M:%S} UTC ·'
        f" {text(duration(history.seconds))}</p>"
    )
    yield _cards(history)
    yield from tables.notes(history)
    yield "<h2>The run</h2>" + tables.facts(history)
    yield "<h2>Every frame accounted for</h2>" + tables.accounting(history)
    yield from _pictures(history)
    yield f"<h2>The slowest {history.row}s</h2>" + tables.worst(history)
    yield "<h2>States of the sources</h2>" + tables.states(history)
    yield "<h2>Faults and errors</h2>" + tables.faults(history)
    yield "<h2>Prompts</h2>" + tables.prompts(history)


def _cards(history: History) -> str:
    latency, dropped = history.latency, history.drops.total
    finished = history.finished
    outcome = "no end" if finished is None else f"exit {finished.exit_code}"
    faults = len(tables.fault_rows(history))
    cards = [
        card(outcome, "how it ended", bad=finished is None or finished.exit_code != 0),
        card(f"{history.published:,}", "frames published"),
        card(f"{dropped:,}", "frames dropped", bad=dropped > 0),
        card(number(history.fps), "frames a second"),
        card("–" if latency is None else f"{number(latency.p50)} ms", "latency, median"),
        card("–" if latency is None else f"{number(latency.p99)} ms", "latency, p99"),
        card(faults, "faults and errors", bad=faults > 0),
    ]
    return f'<div class="cards">{"".join(cards)}</div>'


def _pictures(history: History) -> Iterator[str]:
    time, frames = time_axis(history), history.rows()
    if len(frames):
        yield figure(along_time.latency(history, time))
        yield figure(shape.distribution(history))
        yield tables.spreads(history)
        rows = shape.stage_rows(frames)
        if rows:
            yield figure(shape.waterfall(rows))
            yield tables.stages(rows)
    else:
        yield "<h2>Latency</h2><p>The log tells of no published frame.</p>"
    if history.drops.total:
        yield figure(along_time.drops(history, time))
    if len(frames):
        yield figure(along_time.objects(history, time))
    devices = along_time.devices(history, time)
    yield "" if devices is None else figure(devices)


def duration(seconds: float) -> str:
    """Like "2 h 05 min" or "14.3 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
