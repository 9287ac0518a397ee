"""One record that was read from a log."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.errors import RecordingError
from stages.recording import zstd
from stages.recording.encode import DTYPES, parse_json
from stages.recording.entry import Json, Kind, Stamp
from stages.recording.fields import Fields
from stages.recording.layout import CODECS, Head, joint_crc
from stages.recording.shaped import shaped


@dataclass(frozen=True, slots=True, eq=False)
class StoredRecord:
    """A whole record. Its arrays are views of the mapped file, read-only, where the record is not
    compressed."""

    head: Head
    fields: Fields
    where: str
    """File and byte, for messages."""
    _arrays: Mapping[str, NDArray[Any]]

    @classmethod
    def read(cls, head: Head, body: memoryview, where: str) -> StoredRecord:
        """Check ``body``, all that follows the head, and decompress it; raises `RecordingError`."""
        if joint_crc([body]) != head.body_crc:
            raise RecordingError(f"{where}: its check sum is wrong: the record is damaged")
        values = parse_json(bytes(body[: head.json_bytes]), where)
        data = body[head.json_bytes :][: head.payload_bytes]
        if CODECS[head.codec] == "zstd":
            data = memoryview(zstd.decompress(data, head.raw_bytes, where))
        arrays = dict(_arrays(values, data, where))
        return cls(head, Fields(values["fields"], where, frozenset(arrays)), where, arrays)

    @property
    def kind(self) -> Kind:
        return self.head.kind

    @property
    def stamp(self) -> Stamp:
        return self.head.stamp

    @property
    def seq(self) -> int:
        """Its number in the recording."""
        return self.head.seq

    def array(self, name: str) -> NDArray[Any]:
        """An array by its name; raises `RecordingError` where there is none."""
        if name not in self._arrays:
            raise RecordingError(f"{self.where}: a record of kind {self.kind} without {name}")
        return self._arrays[name]


def _arrays(
    values: Mapping[str, Json], data: memoryview, where: str
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Name and view of each array that ``values`` tells of."""
    listed = values.get("arrays")
    for item in listed if isinstance(listed, list) else [None]:
        match item:
            case [str(name), str(dtype), list(shape), int(at)] if (
                dtype in DTYPES
                and all(isinstance(length, int) and length >= 0 for length in shape)
                and 0 <= at <= len(data) - math.prod(shape) * np.dtype(dtype).itemsize
            ):
                yield name, shaped(np.frombuffer(data, dtype, math.prod(shape), at), shape, where)
            case _:
                raise RecordingError(
                    f"{where}: array {item!r:.120} does not fit in {len(data)} bytes"
                )
