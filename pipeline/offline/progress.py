"""How far a command is: a bar in a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_EVERY_S: Final = 10.0

Advance = Callable[[str], None]
"""Called once a unit that is finished, with what to show beside the bar."""


@contextmanager
def progress(total: int, unit: str) -> Iterator[Advance]:
    """Show progress over `total` units ("frames", say) on standard error: rate and time left."""
    with _bar(total, unit) if sys.stderr.isatty() else _lines(total, unit) as advance:
        yield advance


@contextmanager
def _bar(total: int, unit: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed or 0:.1f} {unit}/s")

    columns = (
        BarColumn(), MofNCompleteColumn(), TextColumn(unit), Rate(), TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task("", total=total)
        yield lambda text: shown.update(task, advance=1, description=text)


@contextmanager
def _lines(total: int, unit: str) -> Iterator[Advance]:
    began = told = time.monotonic()
    done = 0

    def advance(text: str) -> None:
        nonlocal done, told
        done += 1
        now = time.monotonic()
        if now - told >= _EVERY_S:
            told = now
            rate = done / (now - began)
            left = (total - done) / rate
            sys.stderr.write(f"{done} of {total} {unit}, {rate:.1f}/s, {left:.0f} s left {text}\n")
            sys.stderr.flush()

    yield advance
