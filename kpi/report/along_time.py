"""Pictures along the time of the run: latency and age, drops, objects, devices."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from kpi.frame_columns import Floats, Frames, SpreadColumn
from kpi.history import History
from kpi.report.html import Picture
from kpi.report.marks import draw_states, mark_faults
from kpi.report.panels import PANELS
from kpi.report.style import BLUE, GREEN, GREY, ORANGE, RED, SPANS, VIOLET, TimeAxis, canvas, drawn
from kpi.stats import along
from kpi.text import printable

_SINGLE_FRAMES = 3000
"""Up to so many frames each is drawn as a point."""
_REASON_COLOURS = (ORANGE, RED, SPANS, VIOLET, BLUE, GREEN, GREY)


def latency(history: History, time: TimeAxis) -> Picture:
    figure, (strip, upper, lower) = canvas((0.25, 2.2, 1.5), shared=True)
    draw_states(strip, history, time)
    _latency(upper, time, history)
    _age(lower, time, history)
    for axes, name in ((upper, "latency (ms)"), (lower, "age (ms)")):
        mark_faults(axes, history, time)
        axes.set_ylabel(name)
    upper.legend(loc="upper right", ncols=4)
    time.label(lower)
    return Picture(
        "Latency and age over time",
        "Latency is from the grab of a frame to its packet, age from its capture to its"
        " publication. The strip above is the state of the source: green streaming, orange"
        " connecting, red failed, grey ended. Red lines are faults and errors, orange bands"
        " times in which the GPU slowed itself down.",
        drawn(figure),
    )


def _latency(axes: Axes, time: TimeAxis, history: History) -> None:
    if history.row == "frame":
        _of_frames(axes, time, history.frames.ts, history.frames.latency_ms)
    else:
        _of_seconds(axes, time, history.per_second.ts, history.per_second.latency)


def _age(axes: Axes, time: TimeAxis, history: History) -> None:
    if history.row == "frame":
        _of_frames(axes, time, history.frames.ts, history.frames.age_ms)
    else:
        _of_seconds(axes, time, history.per_second.ts, history.per_second.age)


def _of_frames(axes: Axes, time: TimeAxis, ts: Floats, values: Floats) -> None:
    since = time.since(ts)
    few = len(values) <= _SINGLE_FRAMES
    if few:
        axes.plot(time.at(since), values, ".", ms=2.5, color=GREY, alpha=0.6, label="a frame")
    spans = max(1, min(SPANS, len(values) // 10))
    bins = along(since, values, time.seconds, spans)
    _curves(axes, time.at(bins.seconds), None if few else bins.max, bins.p95, bins.p50)


def _of_seconds(axes: Axes, time: TimeAxis, ts: Floats, values: SpreadColumn) -> None:
    since = time.since(ts)
    spans = max(1, min(SPANS, round(time.seconds)))
    columns = (values.max, values.p95, values.p50)
    top, p95, p50 = (along(since, column, time.seconds, spans) for column in columns)
    _curves(axes, time.at(top.seconds), top.max, p95.p50, p50.p50)


def _curves(axes: Axes, at: Floats, top: Floats | None, p95: Floats, p50: Floats) -> None:
    if top is not None:
        axes.plot(at, top, color=GREY, lw=0.8, label="max")
    axes.plot(at, p95, color=ORANGE, lw=1.1, label="p95")
    axes.plot(at, p50, color=BLUE, lw=1.5, label="p50")
    axes.set_ylim(bottom=0)


def drops(history: History, time: TimeAxis) -> Picture:
    dropped = history.drops
    figure, (axes,) = canvas((1.5,))
    edges = np.linspace(0, time.seconds, min(SPANS, 120) + 1)
    below = np.zeros(len(edges) - 1)
    for number, row in enumerate(dropped.by_reason):
        chosen = dropped.reason == dropped.reasons.index(row.reason)
        since, weights = time.since(dropped.ts[chosen]), dropped.count[chosen]
        counts, _ = np.histogram(since, edges, weights=weights)
        colour = _REASON_COLOURS[number % len(_REASON_COLOURS)]
        label = f"{printable(row.reason, 20)} ({row.count})"
        width = np.diff(time.at(edges))
        axes.bar(time.at(edges[:-1]), counts, width, below, align="edge", color=colour, label=label)
        below += counts
    axes.set_ylabel("dropped frames")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=4)
    time.label(axes)
    return Picture(
        "Dropped frames",
        "Frames that were grabbed and not published, by reason, in each 120th of the run.",
        drawn(figure),
    )


def objects(history: History, time: TimeAxis) -> Picture:
    frames = history.rows()
    with_presence = not np.isnan(frames.presence_low).all()
    figure, (upper, *lower) = canvas((1.3, 1.5) if with_presence else (1.3,), shared=True)
    since = time.since(frames.ts)
    spans = max(1, min(SPANS, len(frames) // 4))
    counted = along(since, frames.objects.astype(np.float64), time.seconds, spans)
    upper.plot(time.at(counted.seconds), counted.p50, color=BLUE, lw=1.5, drawstyle="steps-mid")
    upper.set_ylabel("objects")
    upper.set_ylim(bottom=0)
    for axes in lower:
        _presence(axes, time, frames, spans)
    time.label((upper, *lower)[-1])
    return Picture(
        "Objects and their presence",
        "How many objects a frame had, and how sure the model was that they are in sight: below"
        " the red line it takes an object for hidden or gone. Medians of short spans.",
        drawn(figure),
    )


def _presence(axes: Axes, time: TimeAxis, frames: Frames, spans: int) -> None:
    for values, colour, name in (
        (frames.presence_median, BLUE, "median object"),
        (frames.presence_low, ORANGE, "least present object"),
    ):
        bins = along(time.since(frames.ts), values, time.seconds, spans)
        axes.plot(time.at(bins.seconds), bins.p50, color=colour, lw=1.2, label=name)
    axes.axhline(0, color=RED, lw=0.8)
    axes.set_ylabel("presence (logit)")
    axes.legend(loc="lower right", ncols=2)


def devices(history: History, time: TimeAxis) -> Picture | None:
    """None where nothing was sampled."""
    panels = [
        (track, panel) for track in history.devices for panel in PANELS if panel.shown(track)
    ][:24]
    if not panels:
        return None
    figure, all_axes = canvas((1.2, *(0.85 for _ in panels)), shared=True)
    _latency(all_axes[0], time, history)
    all_axes[0].set_ylabel("latency\n(ms)")
    for axes, (track, panel) in zip(all_axes[1:], panels, strict=True):
        panel.draw(axes, track, time)
        if len(history.devices) > 1 and track.gpu is not None:
            axes.text(0.005, 0.82, printable(track.gpu), transform=axes.transAxes, fontsize=7)
    for axes in all_axes:
        mark_faults(axes, history, time)
    time.label(all_axes[-1])
    return Picture(
        "The device beside the latency",
        "One time axis for all, so that a step in latency can be held against what the machine"
        " did. What could not be read is not drawn.",
        drawn(figure),
    )
