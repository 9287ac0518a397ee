"""`emit`: how any code tells the run's logger what happened, without being handed the logger."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol

from kpi.events import Event


class Emitter(Protocol):
    def emit(self, event: Event) -> None:
        """Take an event without blocking."""


current_logger: ContextVar[Emitter | None] = ContextVar("current_logger", default=None)
"""The run's logger. A new thread starts with an empty context, so run it in
`contextvars.copy_context()`."""


def emit(event: Event) -> None:
    """Hand `event` to the run's logger; nothing happens where there is none."""
    logger = current_logger.get()
    if logger is not None:
        logger.emit(event)
