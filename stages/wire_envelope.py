"""What every message of version 1 has in common (docs/wire.md):

    topic (ASCII)  0x00  header length (uint32, little-endian)  header (JSON, UTF-8)  payload

Numpy and the standard library only, so that neither end ever imports torch.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Literal

from stages.wire_masks import WireError

VERSION = 1
MAX_TOPIC_BYTES = 160
MAX_HEADER_BYTES = 1 << 20

Kind = Literal["result", "state", "kpi", "frame"]


def topic(kind: Kind, source_id: str) -> bytes:
    """What a message of this kind and source begins with, and what to subscribe to.

    The zero byte belongs to it: without it `result/cam1` would match `cam10` too.
    """
    return f"{kind}/{source_id}\0".encode()


def envelope(
    kind: Kind, source_id: str, header: dict[str, object], payload: Sequence[bytes | memoryview]
) -> bytes:
    """One message. Raises `WireError` where the header cannot be written, or outgrows what a
    reader accepts."""
    try:
        text = json.dumps(header, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        raw = text.encode("utf-8")
    except ValueError as error:
        raise WireError(f"{kind} of {source_id!r} cannot be written as JSON: {error}") from error
    if len(raw) > MAX_HEADER_BYTES:
        raise WireError(f"header of {len(raw)} bytes, expected at most {MAX_HEADER_BYTES}")
    return b"".join((topic(kind, source_id), struct.pack("<I", len(raw)), raw, *payload))


def opened(view: memoryview) -> tuple[bytes, object, memoryview]:
    """Topic, header and payload of a message; raises `WireError`."""
    topic, mark, _ = bytes(view[: MAX_TOPIC_BYTES + 1]).partition(b"\0")
    if not mark or not topic.isascii():
        raise WireError(f"no topic: expected ASCII and a zero byte in {MAX_TOPIC_BYTES + 1} bytes")
    start = len(topic) + 5
    if len(view) < start:
        raise WireError(f"{len(view)} bytes are too few to hold a header length")
    (length,) = struct.unpack_from("<I", view, len(topic) + 1)
    room = min(len(view) - start, MAX_HEADER_BYTES)
    if length > room:
        raise WireError(f"header of {length} bytes, expected at most {room}")
    return topic, _json(bytes(view[start : start + length])), view[start + length :]


def _json(raw: bytes) -> object:
    try:
        parsed: object = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise WireError(f"header is not JSON in UTF-8: {error}") from error
    return parsed


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
