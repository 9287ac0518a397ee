"""What is finished, a line each, for as long as the work goes on: `Journal`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, Self

from pipeline.offline.folder import PROGRESS, RESULTS, OutFolder, told_as
from pipeline.offline.records import AnyResults, FrameRecord, PictureRecord
from stages.errors import ConfigError

_HEAD: Final = "asked"


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
        self._places: dict[int, int] = {}
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

    def __contains__(self, number: int) -> bool:
        return number in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, number: int, record: FrameRecord | PictureRecord) -> None:
        """Finish one; of several with one number the last counts. Raises `OutputError`."""
        at = self._end
        self._append({"number": number, **record.model_dump(mode="json")})
        self._places[number] = at

    def records(self) -> Iterator[dict[str, Any]]:
        """In the order of their numbers."""
        for number in sorted(self._places):
            self._file.seek(self._places[number])
            line = json.loads(self._file_line())
            del line["number"]
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

    def _file_line(self) -> bytes:
        """The line at the file's place; unbuffered files read theirs byte by byte."""
        at, pieces = self._file.tell(), b""
        while b"\n" not in pieces:
            piece = os.pread(self._file.fileno(), 1 << 16, at + len(pieces))
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
                self._places[int(value["number"])] = at
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
