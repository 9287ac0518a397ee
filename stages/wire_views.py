"""What is published beside results and states: events of the run, pictures for viewers.

Numpy and the standard library only.
"""

from __future__ import annotations

import time

from stages.packets import PacketInfo
from stages.wire_checks import MAX_SIDE, array_named, box_inside, pair
from stages.wire_envelope import VERSION, envelope
from stages.wire_fields import Fields
from stages.wire_messages import KpiMessage, PictureMessage


def encode_kpi(
    source_id: str, event: str, line: bytes, *, published_unix_ns: int | None = None
) -> bytes:
    """One event of the run; ``line`` is its JSON object."""
    header = {
        "version": VERSION,
        "kind": "kpi",
        "source_id": source_id,
        "event": event,
        "published_unix_ns": time.time_ns() if published_unix_ns is None else published_unix_ns,
        "arrays": [
            {"name": "event", "dtype": "uint8", "shape": [len(line)]}
            | {"encoding": "json", "offset": 0, "bytes": len(line)}
        ],
    }
    return envelope("kpi", source_id, header, [line])


def encode_picture(
    info: PacketInfo,
    jpeg: bytes,
    *,
    published_ns: int | None = None,
    published_unix_ns: int | None = None,
) -> bytes:
    """One picture for viewers; ``jpeg`` shows the window of ``info``."""
    (y, x), (height, width) = info.window.origin_yx, info.window.size_hw
    header = {
        "version": VERSION,
        "kind": "frame",
        "source_id": info.source_id,
        "epoch": info.epoch,
        "frame_id": info.frame_id,
        "captured_ns": info.captured_ns,
        "captured_unix_ns": info.captured_unix_ns,
        "published_ns": time.monotonic_ns() if published_ns is None else published_ns,
        "published_unix_ns": time.time_ns() if published_unix_ns is None else published_unix_ns,
        "size_hw": list(info.size_hw),
        "box": [x, y, x + width, y + height],
        "arrays": [
            {"name": "pixels", "dtype": "uint8", "shape": [height, width, 3]}
            | {"encoding": "jpeg", "offset": 0, "bytes": len(jpeg)}
        ],
    }
    return envelope("frame", info.source_id, header, [jpeg])


def decode_kpi(fields: Fields, source_id: str, payload: memoryview) -> KpiMessage:
    """Raises `WireError`, whatever the bytes; the line itself is left unread."""
    start, end = array_named(fields, "event", "json", payload)
    return KpiMessage(
        source_id=source_id,
        event=fields.text("event"),
        published_unix_ns=fields.integer("published_unix_ns"),
        line=bytes(payload[start:end]),
    )


def decode_picture(fields: Fields, source_id: str, payload: memoryview) -> PictureMessage:
    """Raises `WireError`, whatever the bytes; the JPEG itself is left unread."""
    size_hw = pair(fields.integers("size_hw", 2, 1, MAX_SIDE))
    start, end = array_named(fields, "pixels", "jpeg", payload)
    unix = None if fields.absent("captured_unix_ns") else fields.integer("captured_unix_ns")
    return PictureMessage(
        source_id=source_id,
        epoch=fields.integer("epoch", 0),
        frame_id=fields.integer("frame_id", 0),
        captured_ns=fields.integer("captured_ns"),
        captured_unix_ns=unix,
        published_ns=fields.integer("published_ns"),
        published_unix_ns=fields.integer("published_unix_ns"),
        size_hw=size_hw,
        box=box_inside(fields, "box", size_hw),
        jpeg=payload[start:end],
    )
