"""One JSON object a line: the KPI log of a run."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from kpi.detail import Detail, EveryFrame
from kpi.events import Event
from kpi.guarded import EventsLostError

_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
"""Made once: `json.dumps` would make one a line."""


def to_json(value: object) -> str:
    """`value` as one line of standard JSON; NaN and infinities, which JSON has not, become null.

    Raises TypeError for what JSON cannot hold (a tensor, an array).
    """
    try:
        return _ENCODER.encode(value)
    except ValueError:
        return _ENCODER.encode(_finite(value))


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


class JsonlSink:
    """Appends events to `path` (created 0600), rotating by size.

    A file grows to at most `max_bytes` (a longer single line gets a file of its own) and is then
    renamed to `path.1`, which becomes `path.2`, up to `path.<keep>`; the oldest is deleted. Lines
    reach the file whole or not at all: what a full disk cut is cut off again, so a reader never
    meets half a line while the run goes on. A file that was taken away is made anew. There is no
    fsync, here or anywhere on the way of an event: a power cut may cost the last seconds.
    `detail` says what becomes of a frame's own events. Raises OSError where `path` cannot be
    opened.
    """

    recorder = "kpi"

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = 64 << 20,
        keep: int = 8,
        detail: Detail | None = None,
    ) -> None:
        if max_bytes < 1 or keep < 0:
            raise ValueError(
                f"got max_bytes {max_bytes} and keep {keep}, expected at least 1 and at least 0"
            )
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._detail = detail or EveryFrame()
        self._lines: list[bytes] = []
        self._use(self._opened(path))

    def write(self, ts: float, event: Event) -> None:
        self._add(self._detail.lines(ts, event))

    def flush(self) -> None:
        """Append the lines taken since the last flush; gives up those that cannot be, and raises
        `EventsLostError`."""
        lines, self._lines = self._lines, []
        done = 0
        try:
            self._follow()
            used = self._size
            for index, line in enumerate(lines):
                if used and used + len(line) > self._max_bytes:
                    self._append(lines[done:index])
                    done = index
                    self._rotate()
                    used = self._size
                used += len(line)
            self._append(lines[done:])
        except OSError as error:
            reason = f"{type(error).__name__}: {error}"
            raise EventsLostError(len(lines) - done, reason) from error

    def close(self) -> None:
        try:
            self._add(self._detail.rest())
            self.flush()
        finally:
            os.close(self._fd)

    def _add(self, lines: Iterable[tuple[float, Event]]) -> None:
        for ts, event in lines:
            record = {"ts": round(ts, 6), **event.as_dict()}
            self._lines.append(to_json(record).encode() + b"\n")

    @staticmethod
    def _opened(path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def _use(self, fd: int) -> None:
        self._fd = fd
        self._opened_as = os.fstat(fd)
        self._size = self._opened_as.st_size

    def _follow(self) -> None:
        """Open `path` anew where it no longer names our file: lines would be lost unnoticed."""
        try:
            if os.path.samestat(os.stat(self._path), self._opened_as):
                return
        except FileNotFoundError:
            pass
        gone = self._fd
        self._use(self._opened(self._path))
        os.close(gone)

    def _append(self, lines: Sequence[bytes]) -> None:
        data = memoryview(b"".join(lines))
        written = 0
        try:
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError:
            with suppress(OSError):  # what is no regular file cannot be cut
                os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)

    def _rotate(self) -> None:
        """Nothing is moved before the new file is there: a disk that takes no file keeps all."""
        fresh_path = self._path.with_name(f".{self._path.name}.new")
        fresh = self._opened(fresh_path)
        try:
            self._shift()
            fresh_path.rename(self._path)
        except OSError:
            os.close(fresh)
            raise
        os.close(self._fd)
        self._use(fresh)

    def _shift(self) -> None:
        names = [self._path, *(self._numbered(n) for n in range(1, self._keep + 1))]
        with suppress(FileNotFoundError):
            names[-1].unlink()
        for n in range(self._keep, 0, -1):
            with suppress(FileNotFoundError):
                names[n - 1].rename(names[n])

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")
