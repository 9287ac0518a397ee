"""One record that was read from a log."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.errors import RecordingError
from stages.recording import zstd
from stages.recording.encode import DTYPES, parse_json
from stages.recording.entry import Json, Kind, Stamp
from stages.recording.fields import Fields
from stages.recording.layout import CODECS, Head, payload_crc


@dataclass(frozen=True, slots=True, eq=False)
class StoredRecord:
    """A whole record. Its arrays are views of the mapped file, read-only, where the record is not
    compressed."""

    head: Head
    fields: Fields
    where: str
    """File and byte, for messages."""
    _json: Mapping[str, Json]
    _payload: memoryview

    @classmethod
    def read(cls, head: Head, json_padded: bytes, payload: memoryview, where: str) -> StoredRecord:
        """Check and decompress ``payload``, which is padded; raises `RecordingError`."""
        if payload_crc([payload]) != head.payload_crc:
            raise RecordingError(f"{where}: its check sum is wrong: the payload is damaged")
        values = parse_json(json_padded, where)
        data = payload[: head.payload_bytes]
        if CODECS[head.codec] == "zstd":
            data = memoryview(zstd.decompress(data, head.raw_bytes, where))
        names = frozenset(name for name, *_ in _listed(values, len(data), where))
        return cls(head, Fields(values["fields"], where, names), where, values, data)

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
        for found, dtype, shape, at in _listed(self._json, len(self._payload), self.where):
            if found == name:
                count = math.prod(shape)
                return np.frombuffer(self._payload, dtype, count, at).reshape(shape)
        raise RecordingError(f"{self.where}: a record of kind {self.kind} without {name}")


def _listed(
    values: Mapping[str, Json], nbytes: int, where: str
) -> list[tuple[str, np.dtype[Any], list[int], int]]:
    """Name, dtype, shape and place of each array."""
    listed = values.get("arrays")
    found: list[tuple[str, np.dtype[Any], list[int], int]] = []
    for item in listed if isinstance(listed, list) else [None]:
        match item:
            case [str(name), str(dtype), list(shape), int(at)] if (
                dtype in DTYPES
                and all(isinstance(length, int) and length >= 0 for length in shape)
                and 0 <= at <= nbytes - math.prod(shape) * np.dtype(dtype).itemsize
            ):
                found.append((name, np.dtype(dtype), shape, at))
            case _:
                raise RecordingError(f"{where}: array {item!r:.120} does not fit in {nbytes} bytes")
    return found
