"""Follows a KPI log while it is written, across rotations."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from kpi.decoding import LONGEST_LINE, LineError, Record, decode
from kpi.events import RunFinished
from kpi.reading import EXPECTED, LogError, log_path, open_files

POLL_S = 0.1
_AFTER_THE_END_S = 0.5
"""A run's last line, the count of lost events, follows `run_finished`."""
_MISSING_S = 2.0
_CHUNK = 1 << 20
_LOOK_BACK = 4 << 20
"""Bytes of what is already there that are looked at."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the log as it was written, and what it says."""

    raw: bytes
    """Without its line end."""
    record: Record


class Tail:
    """The lines of a log: the last ones first, then what is added, until the run has finished.

    `path` is the folder of a run or its `kpi.jsonl`. `last` is how many of the lines that are
    already there, in the newest file, are told (only those that `wanted` takes count); `sleep`
    waits for more. Lines that are events are counted in `events`, others in `broken`; `gaps`
    counts times at which files were rotated away before they were read. Raises `LogError`, also
    while iterating, and for a file of somebody else's.
    """

    def __init__(
        self,
        path: Path,
        *,
        last: int,
        wanted: Callable[[Record], bool] = lambda record: True,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._path = log_path(path)
        self._last = last
        self._wanted = wanted
        self._sleep = sleep
        self._rest = b""
        self._missing_s = 0.0
        self.events = 0
        self.broken = 0
        self.gaps = 0

    def __iter__(self) -> Iterator[Line]:
        past: deque[Line] = deque(maxlen=self._last)
        finished, caught_up, left = False, False, _AFTER_THE_END_S
        for line in self._lines():
            if line is not None:
                finished = finished or isinstance(line.record.event, RunFinished)
                if self._wanted(line.record):
                    if caught_up:
                        yield line
                    else:
                        past.append(line)
                continue
            if not caught_up:
                self._refuse_somebody_elses()
                yield from past
                caught_up = True
            if finished and left <= 0:
                return
            left -= POLL_S if finished else 0
            self._sleep(POLL_S)

    def _refuse_somebody_elses(self) -> None:
        """A live log holds events, or as yet nothing but the beginning of one."""
        if not self.events and (self.broken or self._rest[:1] not in (b"", b"{")):
            raise LogError(f"{self._path}: not a KPI log ({EXPECTED})")

    def _lines(self) -> Iterator[Line | None]:
        """Every line as it comes; None where there is none yet."""
        file = self._begin()
        try:
            while True:
                yield from self._added(file)
                newer = self._newer_than(file)
                if not newer:
                    yield None
                    continue
                yield from self._added(file)  # what came between the look and the rotation
                for following in newer:
                    file.close()
                    file, self._rest = following, b""
                    if following is not newer[-1]:
                        yield from self._added(following)
        finally:
            file.close()

    def _begin(self) -> BinaryIO:
        """The newest file, close to its end."""
        *older, file = _open_all(self._path)
        for other in older:
            other.close()
        if file.seek(0, os.SEEK_END) > _LOOK_BACK:
            file.seek(-_LOOK_BACK, os.SEEK_END)
            file.readline()  # a part of a line
        else:
            file.seek(0)
        return file

    def _added(self, file: BinaryIO) -> Iterator[Line]:
        """Whole lines written since the last call."""
        if os.fstat(file.fileno()).st_size < file.tell():  # half a line was cut off again
            file.seek(0, os.SEEK_END)
            self._rest = b""
        while chunk := file.read(_CHUNK):
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            if len(self._rest) > LONGEST_LINE:
                self._rest = b""
                self.broken += 1
            for raw in lines:
                try:
                    line = Line(raw, decode(raw))
                except LineError:
                    self.broken += bool(raw.strip())
                    continue
                self.events += 1
                yield line

    def _newer_than(self, file: BinaryIO) -> list[BinaryIO]:
        """The files that follow `file`, oldest first; none where it is the newest."""
        own = os.fstat(file.fileno())
        try:
            newest = self._path.stat()
        except FileNotFoundError:  # for a moment in each rotation
            self._missing_s += POLL_S
            if self._missing_s > _MISSING_S:
                raise LogError(f"{self._path}: it was removed") from None
            return []
        self._missing_s = 0.0
        if os.path.samestat(own, newest):
            return []
        files = _open_all(self._path)
        places = [n for n, f in enumerate(files) if os.path.samestat(own, os.fstat(f.fileno()))]
        self.gaps += not places
        newer = files[places[0] + 1 :] if places else files
        for other in files[: len(files) - len(newer)]:
            other.close()
        return newer


def _open_all(path: Path) -> list[BinaryIO]:
    """As `open_files`, for the caller to close."""
    with ExitStack() as stack:
        files = open_files(path, stack)
        stack.pop_all()
    if not files:
        raise LogError(f"{path}: it was removed")
    return files
