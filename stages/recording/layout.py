"""The bytes of the `log` layout, version 1: segments of records, all numbers little-endian.

    segment = header (64 bytes)  record*  [index record  footer (32 bytes)]
    record  = head (80 bytes)  JSON, padded with spaces  payload, padded with zeros

JSON and payload end at a multiple of 8 bytes, so that arrays in a mapped file lie aligned. Every
byte belongs to a CRC-32C (Castagnoli; RFC 3720): of the segment's header, of a record's head, of
its body (all behind the head), of the footer. So a record whose head is whole and whose body goes
beyond the end of the file was cut off, for certain.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from fastcrc.crc32 import iscsi as crc32c

from stages.recording.entry import KINDS, Kind, Stamp

VERSION: Final = 1
ALIGN: Final = 8
Buffer = bytes | memoryview
SEGMENT_MAGIC: Final = b"MSKSEG01"
RECORD_MAGIC: Final = b"MSR\x01"
FOOTER_MAGIC: Final = b"MSKEND01"
MAX_JSON_BYTES: Final = 1 << 20
MAX_PAYLOAD_BYTES: Final = 1 << 30
CODECS: Final = ("raw", "zstd")

_SEGMENT: Final = struct.Struct("<8sII16sQqQ4xI")
_HEAD: Final = struct.Struct("<4sBBHIIIIQqqqqqII")
_FOOTER: Final = struct.Struct("<8sQQ4xI")
SEGMENT_BYTES: Final = _SEGMENT.size
HEAD_BYTES: Final = _HEAD.size
FOOTER_BYTES: Final = _FOOTER.size

INDEX_DTYPE: Final = np.dtype(
    [
        ("offset", "<u8"),
        ("seq", "<u8"),
        ("epoch", "<i8"),
        ("frame_id", "<i8"),
        ("nbytes", "<u4"),
        ("pass_index", "<u2"),
        ("kind", "u1"),
        ("codec", "u1"),
    ]
)
"""A row a record, in the order of the file; what an index record holds."""


@dataclass(frozen=True, slots=True)
class SegmentHead:
    """How a segment begins."""

    number: int
    recording: bytes
    """16 bytes that every segment of a recording shares."""
    first_seq: int
    created_unix_ns: int


@dataclass(frozen=True, slots=True)
class Head:
    """The fixed part of a record."""

    kind: Kind
    codec: int
    """Index into `CODECS`."""
    stamp: Stamp
    segment: int
    json_bytes: int
    payload_bytes: int
    """As it lies in the file, without padding."""
    raw_bytes: int
    """Of the payload once it is decompressed."""
    seq: int
    written_unix_ns: int
    body_crc: int

    @property
    def body_bytes(self) -> int:
        """Of JSON and payload, both padded."""
        return self.json_bytes + padded(self.payload_bytes)

    @property
    def nbytes(self) -> int:
        """Of the whole record."""
        return HEAD_BYTES + self.body_bytes


def padded(nbytes: int) -> int:
    """The next multiple of `ALIGN`."""
    return -(-nbytes // ALIGN) * ALIGN


def segment_name(number: int) -> str:
    return f"segment-{number:06d}.log"


def pack_segment_head(head: SegmentHead) -> bytes:
    fields = (head.number, head.recording, head.first_seq, head.created_unix_ns, 0)
    raw = _SEGMENT.pack(SEGMENT_MAGIC, VERSION, *fields, 0)
    return _sealed(raw)


def read_segment_head(raw: bytes) -> SegmentHead | None:
    """None where these are not the first 64 bytes of a whole segment of this version."""
    if len(raw) != SEGMENT_BYTES or not _is_sealed(raw):
        return None
    magic, version, number, recording, first_seq, created, _, _ = _SEGMENT.unpack(raw)
    if magic != SEGMENT_MAGIC or version != VERSION:
        return None
    return SegmentHead(number, recording, first_seq, created)


def pack_head(head: Head) -> bytes:
    stamp = head.stamp
    raw = _HEAD.pack(
        RECORD_MAGIC,
        KINDS.index(head.kind),
        head.codec,
        stamp.pass_index,
        head.segment,
        head.json_bytes,
        head.payload_bytes,
        head.raw_bytes,
        head.seq,
        stamp.epoch,
        stamp.frame_id,
        stamp.captured_ns,
        stamp.captured_unix_ns,
        head.written_unix_ns,
        head.body_crc,
        0,
    )
    return _sealed(raw)


def read_head(raw: bytes) -> Head | None:
    """None where these are not the 80 bytes of a record's head, as they were written, or tell of
    more than a record may hold."""
    if len(raw) != HEAD_BYTES or not raw.startswith(RECORD_MAGIC) or not _is_sealed(raw):
        return None
    _, kind, codec, pass_index, segment, *lengths, _ = _HEAD.unpack(raw)
    json_bytes, payload, raw_bytes, seq, epoch, frame, captured, unix, written, crc = lengths
    if kind >= len(KINDS) or codec >= len(CODECS):  # of a newer version
        return None
    if json_bytes > MAX_JSON_BYTES or max(payload, raw_bytes) > MAX_PAYLOAD_BYTES:
        return None
    stamp = Stamp(epoch, frame, captured, unix, pass_index)
    sizes = (json_bytes, payload, raw_bytes)
    return Head(KINDS[kind], codec, stamp, segment, *sizes, seq, written, crc)


def pack_footer(index_offset: int, records: int) -> bytes:
    return _sealed(_FOOTER.pack(FOOTER_MAGIC, index_offset, records, 0))


def read_footer(raw: bytes) -> tuple[int, int] | None:
    """Where the index record lies and how many records it names; None where this is no footer."""
    if len(raw) != FOOTER_BYTES or not _is_sealed(raw):
        return None
    magic, offset, records, _ = _FOOTER.unpack(raw)
    return (offset, records) if magic == FOOTER_MAGIC else None


def joint_crc(buffers: Iterable[Buffer]) -> int:
    """CRC-32C of buffers one after another."""
    crc = 0
    for buffer in buffers:
        crc = crc32c(buffer, crc)
    return crc


def index_row(head: Head, offset: int) -> tuple[Any, ...]:
    """A row of `INDEX_DTYPE`."""
    at = head.stamp
    number = KINDS.index(head.kind)
    return (offset, head.seq, at.epoch, at.frame_id, head.nbytes, at.pass_index, number, head.codec)


def _sealed(raw: bytes) -> bytes:
    return raw[:-4] + crc32c(raw[:-4]).to_bytes(4, "little")


def _is_sealed(raw: bytes) -> bool:
    return crc32c(raw[:-4]).to_bytes(4, "little") == raw[-4:]
