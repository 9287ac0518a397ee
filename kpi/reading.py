"""Reads a run's KPI log back: its files in order, line by line, whatever has happened to them."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from kpi.decoding import LONGEST_LINE, LineError, Record, UnknownEvent, decode

LOG_NAME = "kpi.jsonl"
_TRUST_AFTER = 100
"""Lines without one KPI event among them: then it is not our file."""
_NAMED = 10
EXPECTED = "expected the folder of a run, or its kpi.jsonl"


class LogError(Exception):
    """A KPI log cannot be read; the message is one line for a person."""


@dataclass(slots=True)
class ReadingNotes:
    """What was met while reading."""

    events: int = 0
    """Lines that hold an event, unknown ones included."""
    torn: int = 0
    """1 where the last line was cut: the run crashed, or goes on."""
    broken: int = 0
    named: list[str] = field(default_factory=list)
    """The first broken lines: file, line number and what is wrong."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Events that this version does not know, by name."""


class KpiLog:
    """The events of a run, oldest first; iterate once. Memory does not grow with the log.

    `path` is the folder of a run, its `kpi.jsonl` (both with the rotated files), or one rotated
    file. Raises `LogError`, also while iterating: for what is not there or cannot be read, for a
    log without any event, and for a file of somebody else's.
    """

    def __init__(self, path: Path) -> None:
        self._path = log_path(path)
        self.notes = ReadingNotes()
        self._first_fault: str | None = None

    def __iter__(self) -> Iterator[Record]:
        with ExitStack() as stack:
            files = open_files(self._path, stack)
            for file in files:
                yield from self._read(file, newest=file is files[-1])
        if not self.notes.events:
            raise self._refusal()

    def _read(self, file: BinaryIO, *, newest: bool) -> Iterator[Record]:
        for number, line in enumerate(_lines(file), 1):
            try:
                record = decode(line)
            except LineError as error:
                if line.strip():
                    torn = newest and not line.endswith(b"\n") and len(line) <= LONGEST_LINE
                    self._note_fault(f"{Path(file.name).name}:{number}: {error}", torn)
                continue
            self.notes.events += 1
            if isinstance(record.event, UnknownEvent):
                self._note_unknown(record.event.name)
            yield record

    def _note_fault(self, what: str, torn: bool) -> None:
        notes = self.notes
        self._first_fault = self._first_fault or what
        if torn:
            notes.torn += 1
            return
        notes.broken += 1
        if len(notes.named) < _NAMED:
            notes.named.append(what)
        if not notes.events and notes.broken >= _TRUST_AFTER:
            raise self._refusal()

    def _note_unknown(self, name: str) -> None:
        unknown = self.notes.unknown
        unknown[name if name in unknown or len(unknown) < _NAMED else "others"] += 1

    def _refusal(self) -> LogError:
        if self._first_fault is not None:
            return LogError(f"{self._path}: not a KPI log: {self._first_fault} ({EXPECTED})")
        return LogError(f"{self._path}: no event in it ({EXPECTED})")


def log_path(path: Path) -> Path:
    """The newest file of the log at `path`. Raises `LogError` where there is none."""
    try:
        found = path / LOG_NAME if stat.S_ISDIR(path.stat().st_mode) else path
        found.stat()
    except FileNotFoundError:
        missing = "no kpi.jsonl in it" if path.is_dir() else "no such file or folder"
        raise LogError(f"{path}: {missing} ({EXPECTED})") from None
    except (OSError, ValueError) as error:  # a NUL in the path is a ValueError
        raise LogError(f"{path}: {_reason(error)} ({EXPECTED})") from error
    return found


def open_files(path: Path, stack: ExitStack) -> list[BinaryIO]:
    """The log's files, oldest first; `stack` closes them. Raises `LogError`.

    Opened from the newest on: a rotation meanwhile moves a file to a place still to be looked at,
    where it is known by its inode, and so none is missed.
    """
    files: list[BinaryIO] = []
    seen: set[tuple[int, int]] = set()
    for name in log_files(path):
        try:
            if not stat.S_ISREG(name.stat().st_mode):  # a pipe would block, a device never end
                raise OSError("not a regular file")
            file = stack.enter_context(name.open("rb"))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise LogError(f"{name}: {_reason(error)} ({EXPECTED})") from error
        status = os.fstat(file.fileno())
        if (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            files.append(file)
    return files[::-1]


def log_files(path: Path) -> list[Path]:
    """`path` and its rotated files, the newest first, and the one that a rotation now would add.
    Raises `LogError`."""
    pattern = re.compile(re.escape(path.name) + r"\.([1-9][0-9]{0,5})")
    try:
        matches = [pattern.fullmatch(name) for name in os.listdir(path.parent)]
    except OSError as error:
        raise LogError(f"{path.parent}: {_reason(error)} ({EXPECTED})") from error
    numbers = sorted(int(match[1]) for match in matches if match)
    numbers.append(numbers[-1] + 1 if numbers else 1)
    return [path, *(path.with_name(f"{path.name}.{number}") for number in numbers)]


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines with their line ends; of one that is too long, its beginning. Raises `LogError`."""
    try:
        while line := file.readline(LONGEST_LINE + 1):
            rest = line
            while len(rest) > LONGEST_LINE and not rest.endswith(b"\n"):
                rest = file.readline(LONGEST_LINE + 1)
            yield line
    except OSError as error:
        raise LogError(f"{file.name}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
