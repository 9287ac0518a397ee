"""What all pictures of a report share: size, colours, a time axis, and how they become text."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kpi.frame_columns import Floats
from kpi.history import History

BLUE, ORANGE, GREY, RED, GREEN, VIOLET = (
    *("#2563eb", "#ea8a0b", "#94a3b8", "#dc2626", "#0f9d6b", "#7c3aed"),
)
SPANS = 240
"""Into so many the time of a long run is cut."""
_WIDTH_INCHES = 10.0
_LEFT, _RIGHT = 0.075, 0.985
"""The same in every picture, so that their time axes lie below one another."""
_STYLE: Any = {  # matplotlib's own type for it names every key there is
    "svg.fonttype": "path",  # the same everywhere, whatever fonts the reader has
    "svg.hashsalt": "maskstream",  # the same log gives the same bytes
    "font.size": 9,
    "text.parse_math": False,  # a name may hold dollar signs
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e2e8f0",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """Time since the run's first event, in a unit that suits its length."""

    begins: float
    """Unix seconds."""
    seconds: float
    unit: str
    per_unit: float
    """Seconds."""

    def since(self, ts: Floats) -> Floats:
        """Seconds on this axis."""
        return ts - self.begins

    def at(self, seconds: Floats) -> Floats:
        """Where `seconds` since the beginning are drawn."""
        return seconds / self.per_unit

    def moment(self, ts: float) -> float:
        """Where an event at `ts` is drawn."""
        return (ts - self.begins) / self.per_unit

    def label(self, axes: Axes) -> None:
        axes.set_xlim(0, self.seconds / self.per_unit)
        axes.set_xlabel(f"time since the first event ({self.unit})")


def time_axis(history: History) -> TimeAxis:
    seconds = max(history.seconds, 1e-3)
    unit, per_unit = "s", 1.0
    if seconds > 3 * 3600:
        unit, per_unit = "h", 3600.0
    elif seconds > 300:
        unit, per_unit = "min", 60.0
    return TimeAxis(history.begins, seconds, unit, per_unit)


@contextmanager
def styled() -> Iterator[None]:
    """The style for figures made and drawn inside; matplotlib's warnings (a glyph that its font
    lacks) concern nobody."""
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mpl.rcdefaults()  # whatever the user's matplotlibrc says
        mpl.rcParams.update(_STYLE)
        yield


def canvas(
    heights: Sequence[float], *, shared: bool = False, gap: float = 0.22
) -> tuple[Figure, list[Axes]]:
    """A figure of panels one below the other, their heights and the gap in inches."""
    top, bottom = 0.25, 0.5
    total = sum(heights) + gap * (len(heights) - 1) + top + bottom
    figure = Figure(figsize=(_WIDTH_INCHES, total))
    grid = figure.add_gridspec(
        len(heights),
        1,
        height_ratios=heights,
        left=_LEFT,
        right=_RIGHT,
        top=1 - top / total,
        bottom=bottom / total,
        hspace=gap / np.mean(heights),
    )
    axes: list[Axes] = []
    for row in range(len(heights)):
        axes.append(figure.add_subplot(grid[row], sharex=axes[0] if shared and axes else None))
    for upper in axes[:-1] if shared else []:
        upper.tick_params(labelbottom=False)
    return figure, axes


def drawn(figure: Figure) -> str:
    """The figure as a `data:` URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
