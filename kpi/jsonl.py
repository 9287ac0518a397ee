"""One JSON object a line: the KPI log of a run."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from kpi.events import Event


def to_json(value: object) -> str:
    """`value` as one line of standard JSON; NaN and infinities, which JSON has not, become null.

    Raises TypeError for what JSON cannot hold (a tensor, an array).
    """
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))


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
    meets half a line while the run goes on. There is no fsync: a power cut may cost the last
    seconds. Raises OSError where `path` cannot be opened.
    """

    def __init__(self, path: Path, *, max_bytes: int = 64 << 20, keep: int = 8) -> None:
        if max_bytes < 1 or keep < 0:
            raise ValueError(
                f"got max_bytes {max_bytes} and keep {keep}, expected at least 1 and at least 0"
            )
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._lines: list[bytes] = []
        self._open()

    def write(self, ts: float, event: Event) -> None:
        record = {"ts": round(ts, 6), **event.as_dict()}
        self._lines.append(to_json(record).encode() + b"\n")

    def flush(self) -> None:
        """Append the lines taken since the last flush; on an OSError they are given up."""
        lines, self._lines = self._lines, []
        batch = bytearray()
        for line in lines:
            used = self._size + len(batch)
            if used and used + len(line) > self._max_bytes:
                self._append(batch)
                self._rotate()
                batch = bytearray()
            batch += line
        self._append(batch)

    def close(self) -> None:
        try:
            self.flush()
        finally:
            os.close(self._fd)

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._fd).st_size

    def _append(self, data: bytes | bytearray) -> None:
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
        names = [self._path, *(self._numbered(n) for n in range(1, self._keep + 1))]
        with suppress(FileNotFoundError):
            names[-1].unlink()
        for n in range(self._keep, 0, -1):
            with suppress(FileNotFoundError):
                names[n - 1].rename(names[n])
        full = self._fd
        self._open()
        os.close(full)

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")
