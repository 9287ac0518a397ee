"""Faults and states of sources, as they are marked in every picture along time."""

from __future__ import annotations

from matplotlib.axes import Axes

from kpi.device_events import DeviceFault
from kpi.events import ErrorRaised, SourceStateChanged
from kpi.history import History
from kpi.report.style import BLUE, GREEN, GREY, ORANGE, RED, TimeAxis
from kpi.text import printable

_STATES = {
    "streaming": GREEN,
    **dict.fromkeys(("connecting", "stale", "frozen", "reconnecting"), ORANGE),
    "failed": RED,
    "ended": GREY,
}
_MOST_SOURCES = 8


def mark_faults(axes: Axes, history: History, time: TimeAxis) -> None:
    """A red line for each device fault and error, an orange band where the GPU throttled."""
    faults = [ts for ts, _ in history.marked(DeviceFault)]
    faults += [ts for ts, _ in history.marked(ErrorRaised)]
    for ts in faults[:200]:
        axes.axvline(time.moment(ts), color=RED, lw=1, alpha=0.7)
    for sample in history.throttled[:200]:
        at = time.moment(sample.ts)
        axes.axvspan(at - 1 / time.per_unit, at, color=ORANGE, alpha=0.12, lw=0)


def draw_states(axes: Axes, history: History, time: TimeAxis) -> None:
    """A strip a source: what state it was in."""
    names = history.sources[:_MOST_SOURCES]
    states = history.marked(SourceStateChanged)
    names = names or tuple(dict.fromkeys(event.source_id for _, event in states))[:_MOST_SOURCES]
    for row, name in enumerate(names):
        own = [(ts, event.state) for ts, event in states if event.source_id == name]
        ends = [ts for ts, _ in own[1:]] + [history.ends]
        for (ts, state), end in zip(own, ends, strict=True):
            begin = time.moment(ts)
            width = max(time.moment(end) - begin, 0.0)
            axes.broken_barh([(begin, width)], (row - 0.4, 0.8), color=_STATES.get(state, BLUE))
    axes.set_yticks(range(len(names)), [printable(name, 12) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False)
