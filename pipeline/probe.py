"""`maskstream sources probe`: opens a source, reads for a while, and tells what comes."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextvars import copy_context
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kpi.emit import current_logger
from kpi.events import ErrorRaised, Event, SourceStateChanged
from pipeline.build import SOURCES
from pipeline.probe_rows import Seen, rows
from pipeline.source_address import source_config
from stages.base import ListeningSource, Picture, Source
from stages.errors import MaskstreamError

_CLOSE_S: Final = 2.0
_KEPT: Final = 20_000
"""Pictures whose times are looked at, at most."""


def probe(
    target: str, overrides: Sequence[str], seconds: float, wait_s: float, picture: Path | None
) -> int:
    """Print what the source at ``target`` gives; 0 where pictures came, 1 where none did.

    Reads ``seconds`` from the first picture on, for which it waits ``wait_s`` at most, and writes
    the last one as PNG. Raises `ConfigError` for what is no source, and whatever opening raises.
    """
    config = source_config(target, overrides)
    console = Console(soft_wrap=True)
    source = SOURCES.create(config)
    if isinstance(source, ListeningSource):
        console.print(f"waits for a sender at {source.endpoint}", highlight=False)
    look = Look(source)
    try:
        look.run(seconds, wait_s)
    finally:
        source.close()
        look.join()
    if look.last is None:
        Console(stderr=True, soft_wrap=True).print(Text(look.why_none(wait_s)))
        return 1
    found = list(rows(source, look.seen, look.states, look.troubles))
    if picture is not None:
        save_png(_shown(look.last), picture)
        found.append(("picture", str(picture)))
    if look.error is not None:
        found.append(("ended by", look.reason(look.error)))
    table = Table(title=f"{config.kind} {source.source_id}", title_justify="left")
    table.show_header = False
    for name, value in found:
        table.add_row(name, Text(value))  # not what rich would make of brackets in it
    console.print(table)
    return 1 if look.error is not None else 0


class Look:
    """Reads a source in a thread of its own, because only `close` ends a read that waits."""

    def __init__(self, source: Source) -> None:
        self.last: Picture | None = None
        self.seen: deque[Seen] = deque(maxlen=_KEPT)
        self.error: Exception | None = None
        self.states: list[SourceStateChanged] = []
        self.troubles: list[str] = []
        self._source = source
        self._memory: list[NDArray[np.uint8]] = []
        """Two of the newest shape."""
        self._first = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._run,), name="probe", daemon=True
        )

    def run(self, seconds: float, wait_s: float) -> None:
        """Read until it is enough, or over."""
        self._thread.start()
        deadline = time.monotonic() + wait_s
        while not self._first.wait(0.05) and time.monotonic() < deadline:
            if self._ended.is_set():
                return
        if self._first.is_set():
            self._ended.wait(seconds)

    def join(self) -> None:
        """Wait for the thread of a source that was closed."""
        self._thread.join(_CLOSE_S)

    def why_none(self, wait_s: float) -> str:
        """Why there is no picture, in one line."""
        if self.error is not None:
            return self.reason(self.error)
        said = [event.reason or event.state for event in self.states if event.state != "ended"]
        if said[-1:] == ["connecting"]:
            listens = isinstance(self._source, ListeningSource)
            said = ["no sender came" if listens else "nothing came from there"]
        heard = "".join(f": {text}" for text in (*said[-1:], *self.troubles[-1:]))
        return f"source {self._source.source_id}: no picture within {wait_s:g} s{heard}"

    @staticmethod
    def reason(error: Exception) -> str:
        """One line for a person."""
        text = " ".join(str(error).split()) or "no message"
        return text if isinstance(error, MaskstreamError) else f"{type(error).__name__}: {text}"

    def emit(self, event: Event) -> None:
        """What the source tells of itself while it is read."""
        if isinstance(event, SourceStateChanged):
            self.states.append(event)
        elif isinstance(event, ErrorRaised):
            self.troubles.append(event.message)

    def _run(self) -> None:
        current_logger.set(self)
        try:
            while (picture := self._source.read(self._buffer)) is not None:
                self.seen.append(Seen(time.monotonic_ns(), time.time_ns(), picture))
                self.last = picture
                self._first.set()
        except Exception as error:
            self.error = error
        finally:
            self._ended.set()

    def _buffer(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """One of two, never that of the last picture."""
        if not self._memory or self._memory[0].shape != shape:
            self._memory = [np.empty(shape, np.uint8), np.empty(shape, np.uint8)]
        arrays = self._memory
        taken = None if self.last is None else self.last.pixels
        return arrays[1] if arrays[0] is taken else arrays[0]


def _shown(picture: Picture) -> NDArray[np.uint8]:
    """Grey or RGB, as a run's device would make it."""
    if picture.ycbcr is None or not isinstance(picture.pixels, np.ndarray):
        return np.asarray(picture.pixels)
    import torch

    from stages.colour import picture_of

    packed = torch.from_numpy(picture.pixels.reshape(-1))
    return np.asarray(picture_of(packed, picture.ycbcr).permute(1, 2, 0).numpy())


def save_png(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write a picture, uint8 (H, W) or (H, W, 3), whole or not at all."""
    from PIL import Image

    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        Image.fromarray(pixels).save(part, format="PNG")
        part.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise MaskstreamError(f"{path}: {reason} (expected a place for the picture)") from error
    finally:
        part.unlink(missing_ok=True)
