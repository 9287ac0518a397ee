"""Frames on the wire, version 1: what another process sends in (docs/wire.md).

Numpy and the standard library only, so that whoever sends never imports torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stages.found_boxes import MAX_BOXES, FoundBoxes
from stages.wire_envelope import VERSION, envelope, opened
from stages.wire_fields import INT64_MAX, Fields
from stages.wire_messages import WireError

MAX_FRAME_PIXELS: Final = 4096 * 4096
MAX_FRAME_BYTES: Final = 3 * MAX_FRAME_PIXELS + (64 << 10)
"""Of a whole message."""
MAX_SEQ: Final = 1 << 52
_MAX_SIDE: Final = 16_384


@dataclass(frozen=True, slots=True, eq=False)
class FrameMessage:
    """One picture from another process."""

    session: int
    """Chosen at random by each sender when it starts, 0..2**63 - 1."""
    seq: int
    """From 0, one more with each picture made in the session, also those that nobody received."""
    pixels: NDArray[np.uint8]
    """(H, W) grey or (H, W, 3) RGB."""
    captured_ns: int | None = None
    """The monotonic clock of this host (CLOCK_MONOTONIC), which all its processes share; a run
    that others than these may send to does not heed it."""
    captured_unix_ns: int | None = None
    spacing_mm: tuple[float, float] | None = None
    """(y, x) millimetres per pixel."""
    pose: NDArray[np.float64] | None = None
    """(4, 4) image-to-world."""
    boxes: FoundBoxes | None = None
    """float32 (n, 6), n <= `MAX_BOXES`: what the sender found in it; None: it did not look."""


def encode_frame(source_id: str, frame: FrameMessage) -> bytes:
    """One picture as one message; raises `WireError` for what a reader would refuse."""
    pixels = np.ascontiguousarray(frame.pixels)
    _check_pixels(pixels.dtype.name, pixels.shape)
    pose = None if frame.pose is None else np.asarray(frame.pose, np.float64)
    boxes = None if frame.boxes is None else np.ascontiguousarray(frame.boxes, np.float32)
    if boxes is not None:
        _check_boxes(boxes.shape)
    header: dict[str, object] = {
        "version": VERSION,
        "kind": "frame",
        "source_id": source_id,
        "session": frame.session,
        "seq": frame.seq,
        "captured_ns": frame.captured_ns,
        "captured_unix_ns": frame.captured_unix_ns,
        "spacing_mm": None if frame.spacing_mm is None else [float(mm) for mm in frame.spacing_mm],
        "pose": None if pose is None else pose.ravel().tolist(),
        "arrays": [_described("pixels", pixels, 0)],
    }
    if boxes is None:
        return envelope("frame", source_id, header, [pixels.data])
    header["arrays"] = [_described("pixels", pixels, 0), _described("boxes", boxes, pixels.nbytes)]
    return envelope("frame", source_id, header, [pixels.data, boxes.data])


def _described(name: str, array: NDArray[np.generic], offset: int) -> dict[str, object]:
    return {
        "name": name,
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "encoding": "raw",
        "offset": offset,
        "bytes": array.nbytes,
    }


def decode_frame(message: memoryview) -> FrameMessage:
    """The picture of a message of a `frame/` topic, its pixels a view of ``message``.

    Raises `WireError`, whatever the bytes.
    """
    topic, header, payload = opened(message)
    fields = Fields(header, "header")
    version, kind = fields.integer("version"), fields.text("kind")
    if version != VERSION:
        raise WireError(f"message version {version}; this reader knows version {VERSION}")
    if topic != f"{kind}/{fields.text('source_id')}".encode() or kind != "frame":
        raise WireError(f"topic {topic!r} does not name a frame of the header's source")
    spacing = fields.numbers("spacing_mm", 2) if not fields.absent("spacing_mm") else None
    if spacing is not None and not all(0 < mm <= 100 for mm in spacing):
        raise fields.misfit("spacing_mm", list(spacing), "two numbers above 0, at most 100")
    pose = fields.numbers("pose", 16) if not fields.absent("pose") else None
    arrays = _arrays(fields)
    return FrameMessage(
        session=fields.integer("session", 0, INT64_MAX),
        seq=fields.integer("seq", 0, MAX_SEQ),
        pixels=_pixels(arrays, payload),
        captured_ns=_time(fields, "captured_ns"),
        captured_unix_ns=_time(fields, "captured_unix_ns"),
        spacing_mm=None if spacing is None else (spacing[0], spacing[1]),
        pose=None if pose is None else np.array(pose, np.float64).reshape(4, 4),
        boxes=_boxes(arrays, payload),
    )


def _arrays(fields: Fields) -> dict[str, Fields]:
    """Those named `pixels` and `boxes`; others are left alone."""
    found: dict[str, Fields] = {}
    for item in fields.items("arrays"):
        array = Fields(item, "array")
        name = array.text("name")
        if name in ("pixels", "boxes"):
            if name in found:
                raise WireError(f"two arrays are named {name}, expected one")
            found[name] = array
    return found


def _pixels(arrays: dict[str, Fields], payload: memoryview) -> NDArray[np.uint8]:
    found = arrays.get("pixels")
    if found is None:
        raise WireError("no array is named pixels, expected one")
    shape = found.integers("shape", len(found.items("shape")), 1, _MAX_SIDE)
    _check_pixels(found.text("dtype"), shape)
    return np.frombuffer(_raw(found, math.prod(shape), payload), np.uint8).reshape(shape)


def _boxes(arrays: dict[str, Fields], payload: memoryview) -> FoundBoxes | None:
    """A copy, whose values are whoever uses them's to check."""
    found = arrays.get("boxes")
    if found is None:
        return None
    if found.text("dtype") != "float32":
        raise WireError(f"boxes: dtype: got {found.text('dtype')!r}, expected float32")
    shape = found.integers("shape", len(found.items("shape")), 0, _MAX_SIDE)
    _check_boxes(shape)
    given = _raw(found, 4 * math.prod(shape), payload)
    return np.frombuffer(given, "<f4").astype(np.float32).reshape(shape)


def _raw(array: Fields, size: int, payload: memoryview) -> memoryview:
    """The bytes of an array that has ``size`` of them."""
    if not array.absent("strides"):
        raise WireError("an array has strides, expected rows one after another, none left out")
    if array.text("encoding") != "raw":
        raise array.misfit("encoding", array.text("encoding"), "raw")
    array.integer("bytes", size, size)
    start = array.integer("offset", 0, max(0, len(payload) - size))
    if size > len(payload) - start:
        raise array.misfit("bytes", size, f"at most the {len(payload)} that came")
    return payload[start : start + size]


def _check_boxes(shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or shape[1] != 6 or shape[0] > MAX_BOXES:
        raise WireError(f"boxes: shape: got {shape[:4]}, expected (n, 6), n at most {MAX_BOXES}")


def _check_pixels(dtype: str, shape: tuple[int, ...]) -> None:
    if dtype != "uint8":
        raise WireError(f"pixels: dtype: got {dtype[:32]!r}, expected uint8")
    if len(shape) not in (2, 3) or shape[2:] not in ((), (3,)) or 0 in shape:
        raise WireError(f"pixels: shape: got {shape[:4]}, expected (H, W) grey or (H, W, 3) RGB")
    if shape[0] * shape[1] > MAX_FRAME_PIXELS:
        raise WireError(f"pixels: shape: got {shape}, expected at most {MAX_FRAME_PIXELS} pixels")


def _time(fields: Fields, name: str) -> int | None:
    return None if fields.absent(name) else fields.integer(name, 0)
