"""OpenIGTLink messages, byte by byte, right and wrong."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from fastcrc.crc64 import ecma_182
from numpy.typing import NDArray

STAMP_S = 1_700_000_000
STAMP_NS = STAMP_S * 1_000_000_000 + 250_000_000
QUARTER = 1 << 30
"""Of a second, in units of 2^-32 s."""
MS = (1 << 32) // 1000
"""A millisecond, likewise."""

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)


def message(
    kind: str | bytes,
    body: bytes,
    *,
    device: str | bytes = "Probe",
    version: int = 1,
    seconds: int = STAMP_S,
    fraction: int = QUARTER,
    body_bytes: int | None = None,
    crc: int | None = None,
) -> bytes:
    """A message with a header as told, right where nothing is."""
    kind, device = (t.encode() if isinstance(t, str) else t for t in (kind, device))
    size = len(body) if body_bytes is None else body_bytes
    total = ecma_182(body) if crc is None else crc
    return struct.pack(">H12s20sIIQQ", version, kind, device, seconds, fraction, size, total) + body


def extended(
    content: bytes,
    keys: tuple[tuple[bytes, bytes], ...] = (),
    *,
    own: int = 12,
    metadata_header: int | None = None,
    metadata_body: int | None = None,
    count: int | None = None,
) -> bytes:
    """The body of a message of version 2."""
    head = struct.pack(">H", len(keys) if count is None else count)
    head += b"".join(struct.pack(">HHI", len(key), 3, len(value)) for key, value in keys)
    tail = b"".join(key + value for key, value in keys)
    sizes = (
        len(head) if metadata_header is None else metadata_header,
        len(tail) if metadata_body is None else metadata_body,
    )
    return struct.pack(">HHII", own, *sizes, 7) + bytes(max(own - 12, 0)) + content + head + tail


def image_body(pixels: NDArray[Any], **wrong: Any) -> bytes:
    """The content of an IMAGE of (H, W) or (H, W, 3) pixels, uint8 or uint16 of either order;
    `wrong` replaces fields."""
    height, width = pixels.shape[:2]
    fields: dict[str, Any] = {
        "version": 1,
        "components": 1 if pixels.ndim == 2 else pixels.shape[2],
        "scalar": {1: 3, 2: 5}[pixels.itemsize],
        "order": 1 if pixels.dtype.byteorder == ">" else 2,
        "world": 1,
        "size": (width, height, 1),
        "matrix": IDENTITY,
        "offset": (0, 0, 0),
        "part": (width, height, 1),
    } | wrong
    return (
        struct.pack(
            ">H4B3H12f6H",
            *(fields[name] for name in ("version", "components", "scalar", "order", "world")),
            *(fields["size"] + fields["matrix"] + fields["offset"] + fields["part"]),
        )
        + pixels.tobytes()
    )


def image(pixels: NDArray[Any], **header: Any) -> bytes:
    """A good IMAGE message."""
    return message("IMAGE", image_body(pixels), **header)


def transform_body(matrix: NDArray[np.float64]) -> bytes:
    """The content of a TRANSFORM of a (4, 4) matrix."""
    return struct.pack(">12f", *matrix[:3].T.reshape(-1))


def status_body(code: int, text: bytes = b"\0") -> bytes:
    return struct.pack(">Hq20s", code, 0, b"name") + text


def picture(index: int = 0, shape: tuple[int, ...] = (6, 8)) -> NDArray[np.uint8]:
    """Pixels that tell one picture from the next."""
    return np.random.default_rng(index).integers(0, 256, shape, dtype=np.uint8)
