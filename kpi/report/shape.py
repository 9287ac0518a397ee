"""Pictures of how times are spread: the latency's distribution, the stages one after another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from kpi.events import Spread
from kpi.frame_columns import Floats, Frames
from kpi.history import History
from kpi.report.html import Picture
from kpi.report.style import BLUE, GREY, ORANGE, RED, VIOLET, canvas, drawn
from kpi.stats import spread
from kpi.text import printable


def distribution(history: History) -> Picture:
    frames = history.rows()
    figure, axes = canvas((1.9, 1.9), gap=0.5)
    for panel, values, name in (
        (axes[0], frames.latency_ms, "latency (ms)"),
        (axes[1], frames.age_ms, "age (ms)"),
    ):
        _histogram(panel, values)
        panel.set_title(name, fontsize=9, loc="left")
        panel.set_ylabel(f"{history.row}s")
    return Picture(
        "How latency and age are spread",
        f"Each bar counts the {history.row}s of a span; the lines are what half, 95 % and 99 % of"
        f" the {history.row}s do not exceed, and the worst {history.row}."
        + ("" if history.row == "frame" else " Of each second the log has its median."),
        drawn(figure),
    )


def _histogram(axes: Axes, values: Floats) -> None:
    known, row = values[~np.isnan(values)], spread(values)
    if row is None:
        axes.text(0.5, 0.5, "not known", transform=axes.transAxes, ha="center")
        return
    wide = row.max > 4 * max(row.p50, 1e-3) and float(known.min()) > 0
    low, high = float(known.min()), max(row.max, float(known.min()) + 1e-3)
    edges = np.geomspace(low, high, 81) if wide else np.linspace(low, high, 81)
    if wide:
        axes.set_xscale("log")
    axes.hist(known, edges.tolist(), color=BLUE, alpha=0.75)
    for name, colour, style in (
        *(("p50", GREY, "-"), ("p95", ORANGE, "-"), ("p99", RED, "-"), ("max", VIOLET, "--")),
    ):
        at = float(getattr(row, name))
        axes.axvline(at, color=colour, ls=style, lw=1.3, label=f"{name} {at:.1f} ms")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=4)


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage over the whole run, milliseconds; None where it was never timed."""

    name: str
    host: Spread | None
    gpu: Spread | None

    @property
    def spent(self) -> Spread | None:
        """GPU time where there is one, else host time."""
        return self.gpu or self.host


def stage_rows(frames: Frames) -> tuple[StageRow, ...]:
    """Waiting first, then the stages in the order they ran."""
    waited = spread(np.maximum(frames.waiting_ms, 0))
    rows = (StageRow(s.name, spread(s.host_ms), spread(s.gpu_ms)) for s in frames.stages)
    return (*((StageRow("waiting", waited, None),) if waited else ()), *rows)


def waterfall(rows: tuple[StageRow, ...]) -> Picture:
    """Bars of medians, each beginning where the one before ends, with a whisker to the p95."""
    figure, (axes,) = canvas((0.3 * len(rows) + 0.5,))
    begin = 0.0
    for number, row in enumerate(rows):
        for place, times, colour in ((-0.2, row.host, BLUE), (0.2, row.gpu, VIOLET)):
            if times is None:
                continue
            y = number + (place if row.gpu else 0)
            height = 0.36 if row.gpu else 0.6
            axes.barh(y, times.p50, height, left=begin, color=colour, alpha=0.8)
            axes.plot([begin + times.p50, begin + times.p95], [y, y], color=GREY, lw=1.2)
            axes.plot([begin + times.p95], [y], "|", color=GREY, ms=7)
        begin += 0.0 if row.spent is None else row.spent.p50
    axes.set_yticks(range(len(rows)), [printable(row.name, 12) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.set_xlabel("milliseconds")
    return Picture(
        "Where the time of a frame goes",
        "Each bar is the median of a stage, beginning where the one before ends; blue is the"
        " host's time, violet the GPU's, the whisker reaches to the p95. Waiting is the time in"
        " queues between threads; where the log does not tell it, what no stage explains. Stages"
        " may overlap and medians do not add up, so the last bar need not end at the latency.",
        drawn(figure),
    )
