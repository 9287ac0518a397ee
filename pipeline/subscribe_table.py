"""The live table of `maskstream subscribe`: what follows what, in a terminal. Imports no torch."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from stages.client import Subscriber
from stages.wire import ObjectResult, ResultMessage

_REFRESHES_PER_SECOND = 8
_STALE_S = 1.0
"""What is shown for longer is said to be stale, though no newer result came to say so."""
_COLUMNS = ("id", "class", "score", "presence", "mask age", "area", "centre")


class LiveTable:
    """Shows the newest result and how the stream fares, until the block ends."""

    def __init__(self, subscriber: Subscriber, console: Console | None = None) -> None:
        self._subscriber = subscriber
        self._newest: ResultMessage | None = None
        self._live = Live(
            get_renderable=self._render,
            console=console or Console(),
            refresh_per_second=_REFRESHES_PER_SECOND,
        )

    def show(self, message: ResultMessage) -> None:
        """Replace what is shown."""
        self._newest = message

    def __enter__(self) -> LiveTable:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def _render(self) -> Group | Text:
        newest, told = self._newest, self._subscriber.told
        counts = f"{self._subscriber.received} packets, {self._subscriber.lost} lost"
        below = Text(f"{counts}  {told}")
        if newest is None:
            return below
        return Group(_table(newest), below)


def _table(message: ResultMessage) -> Table:
    age_s = message.age_ns(time.time_ns()) / 1e9
    says = "REPLAY" if message.replay else "STALE"
    stale = f"  [bold red]{says}[/]" if message.stale or age_s > _STALE_S else ""
    title = f"{message.source_id} epoch {message.epoch} frame {message.frame_id}  age {age_s:.3f} s"
    table = Table(title=title.replace("[", r"\[") + stale, title_justify="left")
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name == "class" else "right")
    for item in message.objects:
        table.add_row(*(Text(cell) for cell in _cells(item)))
    return table


def _cells(item: ObjectResult) -> tuple[str, ...]:
    area = f"{item.area_px} px" if item.area_mm2 is None else f"{item.area_mm2:.1f} mm2"
    return (
        str(item.id),
        item.label or f"class {item.class_id}",
        f"{item.score:.2f}",
        f"{item.presence:.1f}",
        str(item.mask_age_frames),
        area,
        f"{item.centroid[0]:.0f}, {item.centroid[1]:.0f}",
    )
