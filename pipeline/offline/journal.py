"""What is finished, a line each, for as long as the work goes on: `Journal`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, Self

from pipeline.offline.folder import PROGRESS, RESULTS, OutFolder, told_as
from pipeline.offline.records import AnyResults, FrameRecord, PictureRecord
from stages.errors import ConfigError

_HEAD, _NUMBER, _TURN = "asked", "number", "turn"
_PIECE: Final = 1 << 16


class Journal:
    """Records by number, each one line of a hidden file, folded into `results.json` in the end.

    Memory holds a place in the file for each. The first line is what was asked for: a resumed
    command must ask for the same. A line that was torn off is dropped, and so is its frame.
    """

    def __init__(self, folder: OutFolder, asked: dict[str, Any], *, resume: bool = False) -> None:
        """`asked`: whatever the results depend on, as JSON. Raises `ConfigError` where the
        interrupted command asked for something else, and `OutputError`."""
        self._folder = folder
        self._path = folder.path / PROGRESS
        self._places: dict[int, tuple[int, int]] = {}
        self._end = 0
        with told_as(self._path):
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (0 if resume else os.O_TRUNC)
            self._file: BinaryIO = os.fdopen(os.open(self._path, flags, 0o600), "rb+", 0)
        head = {_HEAD: json.loads(json.dumps(asked))}
        try:
            if resume:
                self._read(head[_HEAD])
            if not self._end:
                self._append(head)
        except BaseException:
            self._file.close()
            raise

    def has(self, number: int, turn: int = 0) -> bool:
        """Whether this one is finished, by the `turn` given or a later one."""
        return number in self._places and self._places[number][1] >= turn

    def __len__(self) -> int:
        return len(self._places)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, number: int, record: FrameRecord | PictureRecord, turn: int = 0) -> None:
        """Finish one; of several with one number the last counts. Raises `OutputError`."""
        at = self._end
        self._append({_NUMBER: number, _TURN: turn, **record.model_dump(mode="json")})
        self._places[number] = (at, turn)

    def records(self) -> Iterator[dict[str, Any]]:
        """In the order of their numbers."""
        for number in sorted(self._places):
            line = json.loads(self._line_at(self._places[number][0]))
            del line[_NUMBER], line[_TURN]
            yield line

    def fold(self, results: AnyResults, records: str) -> None:
        """Write `results.json`: `results`, with the list `records` filled. Raises `OutputError`."""
        head = results.model_dump(mode="json", exclude={records})
        with self._folder.place(RESULTS) as part, part.open("w") as file:
            file.write(json.dumps(head, indent=1)[:-2] + f',\n "{records}": [')
            for place, record in enumerate(self.records()):
                file.write(("," if place else "") + "\n  " + json.dumps(record))
            file.write("\n ]\n}\n")
        if results.complete:
            self._folder.remove(PROGRESS)

    def _append(self, line: dict[str, Any]) -> None:
        data = json.dumps(line).encode() + b"\n"
        with told_as(self._path):
            self._file.seek(self._end)
            view = memoryview(data)
            while len(view):  # a disk that is nearly full takes a part, and tells only then
                view = view[self._file.write(view) :]
        self._end += len(data)

    def _line_at(self, at: int) -> bytes:
        pieces = b""
        while b"\n" not in pieces:
            piece = os.pread(self._file.fileno(), _PIECE, at + len(pieces))
            if not piece:
                break
            pieces += piece
        return pieces.partition(b"\n")[0]

    def _read(self, asked: dict[str, Any]) -> None:
        at = 0
        for line in self._lines():
            try:
                value = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                value = None
            if not isinstance(value, dict):
                break
            if at == 0:
                self._compare(asked, value.get(_HEAD))
            else:
                self._places[int(value[_NUMBER])] = (at, int(value[_TURN]))
            at += len(line)
        self._end = at
        with told_as(self._path):
            self._file.truncate(at)

    def _lines(self) -> Iterator[bytes]:
        with told_as(self._path), self._path.open("rb") as file:
            yield from file

    def _compare(self, asked: dict[str, Any], former: object) -> None:
        if not isinstance(former, dict):
            raise ConfigError(f"{self._path}: no progress of this program, expected --overwrite")
        for key in sorted({*asked, *former}):
            if asked.get(key) != former.get(key):
                raise ConfigError(
                    f"{self._folder.path}: --resume with another {key} than before, expected "
                    f"{_short(former.get(key))}, got {_short(asked.get(key))}"
                )


def _short(value: object, most: int = 120) -> str:
    text = json.dumps(value)
    return text if len(text) <= most else text[:most] + "…"
