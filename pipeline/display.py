"""What a person sees while a run goes on: a live table in a terminal, a line a second in a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

_LOG_INTERVAL_S = 1.0
_REFRESHES_PER_SECOND = 4

Rows = Callable[[], dict[str, str]]


class Display:
    """Shows what `rows` returns (name → value), from its own thread, until the block ends."""

    def __init__(self, console: Console, title: str, rows: Rows) -> None:
        self._console = console
        self._title = title
        self._rows = rows
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._live: Live | None = None

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self._table,
                console=self._console,
                refresh_per_second=_REFRESHES_PER_SECOND,
            )
            self._live.start()
        else:
            self._thread = threading.Thread(target=self._log, name="display", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._live is not None:
            self._live.stop()

    def _table(self) -> Table:
        table = Table(title=self._title, show_header=False, title_justify="left")
        for name, value in self._rows().items():
            table.add_row(name, value)
        return table

    def _log(self) -> None:
        started = time.monotonic()
        while not self._stop.wait(_LOG_INTERVAL_S):
            values = "  ".join(f"{name} {value}" for name, value in self._rows().items())
            self._console.print(
                f"{time.monotonic() - started:6.1f} s  {values}", soft_wrap=True, highlight=False
            )
