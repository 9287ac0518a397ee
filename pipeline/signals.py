"""Ctrl-C and SIGTERM, before a run's frames and during them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from stages.errors import RecordingError


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM interrupt, so that a run can be stopped while models load."""
    asked = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        asked.set()
        raise KeyboardInterrupt

    with _handling(interrupt):
        yield
    if asked.is_set():  # what was imported meanwhile swallowed it
        raise KeyboardInterrupt


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; a second Ctrl-C interrupts the hard way."""
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with _handling(ask):
        yield stop


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """`handler` for SIGINT and SIGTERM while the block runs."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@contextmanager
def verdict(unfinished: str) -> Iterator[None]:
    """For a command whose exit code says what it found: an interrupt, elsewhere a clean end, must
    not look like a good result. Raises `RecordingError` with ``unfinished``."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise RecordingError(f"interrupted: {unfinished}") from error
