"""An entry as the bytes of one record, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from stages.errors import RecordingError
from stages.recording import zstd
from stages.recording.entry import Entry, Json
from stages.recording.layout import (
    ALIGN,
    CODECS,
    HEAD_BYTES,
    MAX_JSON_BYTES,
    MAX_PAYLOAD_BYTES,
    Buffer,
    Head,
    joint_crc,
    pack_head,
    padded,
)

DTYPES: Final = ("|u1", "|i1", "|b1", "<i4", "<i8", "<f2", "<f4", "<f8")


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """An entry ready to be written, but for its place."""

    entry: Entry
    json_padded: bytes
    payload: list[Buffer]
    """Padded."""
    payload_bytes: int
    """Without padding."""
    raw_bytes: int
    codec: int
    crc: int

    @property
    def nbytes(self) -> int:
        """Of the whole record."""
        return HEAD_BYTES + len(self.json_padded) + padded(self.payload_bytes)

    def buffers(self, segment: int, seq: int, written_unix_ns: int) -> tuple[Head, list[Buffer]]:
        """The record at its place."""
        entry, lengths = self.entry, (len(self.json_padded), self.payload_bytes, self.raw_bytes)
        head = Head(
            entry.kind, self.codec, entry.stamp, segment, *lengths, seq, written_unix_ns, self.crc
        )
        return head, [pack_head(head), self.json_padded, *self.payload]


def encode(entry: Entry, compress: bool = False) -> Body:
    """The body of `entry`'s record; compressed with zstd where asked for and smaller so.

    Raises `ValueError` or `TypeError` for what cannot be written: fields that JSON has not, arrays
    of another dtype than `DTYPES`, more than `MAX_PAYLOAD_BYTES`.
    """
    buffers: list[Buffer] = []
    named: list[tuple[str, str, list[int], int]] = []
    at = 0
    for name, values in entry.arrays.items():
        array = np.ascontiguousarray(values).reshape(values.shape)
        if array.dtype.str not in DTYPES:
            raise ValueError(f"{name}: dtype {array.dtype}, expected one of {', '.join(DTYPES)}")
        named.append((name, array.dtype.str, list(array.shape), at))
        _add(buffers, array.reshape(-1).view(np.uint8).data)
        at += padded(array.nbytes)
    raw_bytes, codec = at, 0
    if compress and at:
        packed = zstd.compress(b"".join(buffers))
        if len(packed) < at:
            buffers, at, codec = [], len(packed), CODECS.index("zstd")
            _add(buffers, packed)
    if raw_bytes > MAX_PAYLOAD_BYTES:
        raise ValueError(f"{raw_bytes} bytes of arrays, expected at most {MAX_PAYLOAD_BYTES}")
    text = _json({"fields": entry.fields, "arrays": named})
    return Body(entry, text, buffers, at, raw_bytes, codec, joint_crc([text, *buffers]))


def parse_json(raw: bytes, where: str) -> dict[str, Json]:
    """What stands beside a record's payload; raises `RecordingError`."""
    try:
        parsed = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise RecordingError(f"{where}: its JSON cannot be read: {error}") from None
    if not isinstance(parsed, dict) or not isinstance(parsed.get("fields"), dict):
        raise RecordingError(f"{where}: its JSON has no fields")
    return parsed


def _json(value: Mapping[str, object]) -> bytes:
    raw = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    if len(raw) > MAX_JSON_BYTES - ALIGN:
        raise ValueError(f"{len(raw)} bytes of JSON, expected at most {MAX_JSON_BYTES - ALIGN}")
    return raw.ljust(padded(len(raw)))


def _add(buffers: list[Buffer], data: Buffer) -> None:
    """``data`` and the zeros behind it."""
    nbytes = len(data)
    if nbytes:
        buffers.append(data)
    if nbytes % ALIGN:
        buffers.append(bytes(padded(nbytes) - nbytes))
