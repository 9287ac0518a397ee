"""What surrounds every OpenIGTLink message, versions 1 to 3: header, extended header, check sum.

http://openigtlink.org/developers/spec: a header of 58 bytes, big-endian, then a body. From
version 2 on the body begins with an extended header, and may end in metadata.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from fastcrc.crc64 import ecma_182

crc64 = ecma_182
"""CRC-64 of a body (ECMA-182: polynomial 0x42F0E1EBA9EA3693, from 0, bits not reflected); the
second argument is the sum of what came before."""

HEADER: Final = struct.Struct(">H12s20sIIQQ")
"""Version, type, device name, seconds, 2^-32 seconds, and the body's size and check sum."""
EXTENDED: Final = struct.Struct(">HHII")
"""Its own size, the sizes of the metadata's header and body, message id."""
MAX_BODY_BYTES: Final = 64 << 20

_METADATA_COUNT: Final = 2  # bytes of the metadata's header, and those of each of its keys
_METADATA_KEY: Final = 8
_NEWEST: Final = 3


class StreamError(ValueError):
    """The stream cannot be followed any further. One line."""


class MessageError(ValueError):
    """This message cannot be used; where the next one begins is known. One line."""


@dataclass(frozen=True, slots=True)
class Header:
    """The first 58 bytes of a message."""

    version: int
    """1 to 3."""
    type: str
    device: str
    """As sent, at most 20 characters; what is not ASCII is replaced."""
    unix_ns: int | None
    """When it was taken, as the sender tells; None where it tells nothing."""
    body_bytes: int
    """0 to `MAX_BODY_BYTES`."""
    crc: int


@dataclass(frozen=True, slots=True)
class Extension:
    """How a body is divided: this header, the content, the metadata."""

    bytes: int
    content_bytes: int
    metadata_header_bytes: int
    metadata_bytes: int
    """Of its header and its body."""


def parse_header(data: bytes | bytearray) -> Header:
    """The header in 58 bytes; raises `StreamError` for what no message begins with.

    The check sum does not cover a header: one that cannot be right is a sign that it is none.
    """
    version, kind, device, seconds, fraction, body_bytes, crc = HEADER.unpack(data)
    if not 1 <= version <= _NEWEST:
        raise StreamError(f"a header names version {version}, expected 1 to {_NEWEST}")
    kind = kind.rstrip(b"\0 ")
    if not kind or not kind.isascii() or not kind.decode("ascii").isprintable():
        raise StreamError("a header names no type, expected up to 12 ASCII characters")
    if body_bytes > MAX_BODY_BYTES:
        raise StreamError(f"a body of {body_bytes} bytes, expected {MAX_BODY_BYTES} at most")
    return Header(
        version=version,
        type=kind.decode("ascii"),
        device=device.split(b"\0")[0].rstrip().decode("ascii", "replace"),
        unix_ns=unix_ns(seconds, fraction),
        body_bytes=body_bytes,
        crc=crc,
    )


def unix_ns(seconds: int, fraction: int) -> int | None:
    """Nanoseconds of a time stamp in whole seconds and 2^-32 seconds; None for the unset one."""
    if not seconds and not fraction:
        return None
    return seconds * 1_000_000_000 + ((fraction * 1_000_000_000 + (1 << 31)) >> 32)


def parse_extension(data: bytes | bytearray, body_bytes: int) -> Extension:
    """The 12 bytes that a body of version 2 or 3 begins with.

    Raises `MessageError` where the parts that it tells of do not fit into the body.
    """
    own, metadata_header, metadata_body, _ = EXTENDED.unpack(data)
    metadata = metadata_header + metadata_body
    content = body_bytes - own - metadata
    if own < EXTENDED.size or content < 0:
        raise MessageError(
            f"an extended header of {own} and metadata of {metadata} bytes, expected at least "
            f"{EXTENDED.size} and no more than the body's {body_bytes} together"
        )
    return Extension(own, content, metadata_header, metadata)


def check_metadata(count: int, header_bytes: int) -> None:
    """Raise `MessageError` unless metadata of ``count`` keys has a header of that size."""
    expected = _METADATA_COUNT + _METADATA_KEY * count
    if header_bytes != expected:
        raise MessageError(
            f"metadata of {count} keys has a header of {header_bytes} bytes, expected {expected}"
        )
