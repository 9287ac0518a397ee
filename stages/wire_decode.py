"""The reading half of the wire format (see `stages/wire.py` and docs/wire.md).

The bytes come from a socket, so every length, offset and type is checked against the message
before it is used; the only exception that leaves here is `WireError`.
"""

from __future__ import annotations

from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from stages.packets import Identity
from stages.wire_envelope import VERSION, opened
from stages.wire_fields import INT64_MAX, Fields
from stages.wire_messages import (
    Box,
    MaskRow,
    Message,
    ObjectResult,
    ResultMessage,
    StateMessage,
    WireError,
)

MAX_SIDE = 16_384
MAX_MASK_PIXELS = 64 * 4096 * 4096
"""n x H x W, so that unpacking every mask takes at most 1 GiB."""
DTYPES = frozenset({"bool", "uint8", "int32", "int64", "float16", "float32"})
IDENTITIES = ("tracked", "none")

_Number = TypeVar("_Number", int, float)


def decode(message: bytes | memoryview) -> Message:
    """One message of a `result/` or `state/` topic; masks stay packed until asked for.

    The result keeps a view of `message`. Raises `WireError`, whatever the bytes.
    """
    topic, header, payload = opened(memoryview(message))
    fields = Fields(header, "header")
    version = fields.integer("version")
    if version != VERSION:
        raise WireError(f"message version {version}; this reader knows version {VERSION}")
    kind, source_id = fields.text("kind"), fields.text("source_id")
    if topic != f"{kind}/{source_id}".encode():
        raise WireError(f"topic {topic!r} does not name {kind}/{source_id}")
    if kind == "result":
        return _result(fields, source_id, payload)
    if kind == "state":
        return _state(fields, source_id)
    raise WireError(f"message kind {kind!r}; this reader knows 'result' and 'state'")


def _result(fields: Fields, source_id: str, payload: memoryview) -> ResultMessage:
    size_hw = _pair(fields.integers("size_hw", 2, 1, MAX_SIDE))
    objects = tuple(
        _object(Fields(item, f"objects[{row}]"), size_hw)
        for row, item in enumerate(fields.items("objects"))
    )
    identity = fields.text("identity")
    if identity not in IDENTITIES:
        raise fields.misfit("identity", identity, " or ".join(IDENTITIES))
    unix = None if fields.absent("captured_unix_ns") else fields.integer("captured_unix_ns")
    return ResultMessage(
        seq=fields.integer("seq", 0),
        source_id=source_id,
        epoch=fields.integer("epoch", 0),
        frame_id=fields.integer("frame_id", 0),
        captured_ns=fields.integer("captured_ns"),
        captured_unix_ns=unix,
        grabbed_ns=fields.integer("grabbed_ns"),
        published_ns=fields.integer("published_ns"),
        published_unix_ns=fields.integer("published_unix_ns"),
        size_hw=size_hw,
        spacing_mm=None if fields.absent("spacing_mm") else _pair(fields.numbers("spacing_mm", 2)),
        pose=_pose(fields),
        stale=fields.flag("stale"),
        identity=cast(Identity, identity),
        objects=objects,
        mask_rows=_mask_rows(fields, len(objects), size_hw, payload),
        payload=payload,
    )


def _object(fields: Fields, size_hw: tuple[int, int]) -> ObjectResult:
    return ObjectResult(
        id=fields.integer("id"),
        class_id=fields.integer("class_id"),
        label=None if fields.absent("label") else fields.text("label"),
        score=fields.number("score"),
        presence=fields.number("presence"),
        quality=fields.number("quality"),
        mask_age_frames=fields.integer("mask_age_frames"),
        box=_box(fields, size_hw),
        area_px=fields.integer("area_px", 0, size_hw[0] * size_hw[1]),
        area_mm2=None if fields.absent("area_mm2") else fields.number("area_mm2"),
        centroid=_pair(fields.numbers("centroid", 2)),
    )


def _state(fields: Fields, source_id: str) -> StateMessage:
    return StateMessage(
        source_id=source_id,
        epoch=fields.integer("epoch", 0),
        state=fields.text("state"),
        last_seq=None if fields.absent("last_seq") else fields.integer("last_seq", 0),
        class_names=fields.texts("class_names"),
        published_unix_ns=fields.integer("published_unix_ns"),
    )


def _mask_rows(
    fields: Fields, count: int, size_hw: tuple[int, int], payload: memoryview
) -> tuple[MaskRow, ...] | None:
    """The rows of the array named `masks`; arrays of other names are checked and left alone."""
    rows: tuple[MaskRow, ...] | None = None
    for item in fields.items("arrays"):
        array = Fields(item, "array")
        name, dtype, encoding = array.text("name"), array.text("dtype"), array.text("encoding")
        if dtype not in DTYPES:
            raise array.misfit("dtype", dtype, " or ".join(sorted(DTYPES)))
        start = array.integer("offset", 0, len(payload))
        end = start + array.integer("bytes", 0, len(payload) - start)
        if name != "masks":
            continue
        if rows is not None or (dtype, encoding) != ("bool", "bits"):
            raise array.misfit("masks", f"{dtype}, {encoding}", "one array of bool as bits")
        if array.integers("shape", 3, 0, INT64_MAX) != (count, *size_hw):
            raise array.misfit("shape", array.items("shape"), f"{[count, *size_hw]}")
        if count * size_hw[0] * size_hw[1] > MAX_MASK_PIXELS:
            raise array.misfit("shape", [count, *size_hw], f"at most {MAX_MASK_PIXELS} pixels")
        rows = tuple(
            _mask_row(Fields(row, f"masks row {n}"), size_hw, start, end)
            for n, row in enumerate(array.items("rows", count))
        )
    return rows


def _mask_row(fields: Fields, size_hw: tuple[int, int], start: int, end: int) -> MaskRow:
    x1, y1, x2, y2 = box = _box(fields, size_hw)
    expected = (y2 - y1) * -(-(x2 - x1) // 8)
    size = fields.integer("bytes", expected, expected)
    return MaskRow(box, fields.integer("offset", start, end - size), size)


def _box(fields: Fields, size_hw: tuple[int, int]) -> Box:
    x1, y1, x2, y2 = fields.integers("box", 4, 0, MAX_SIDE)
    if not (x1 <= x2 <= size_hw[1] and y1 <= y2 <= size_hw[0]):
        raise fields.misfit("box", [x1, y1, x2, y2], f"x1, y1, x2, y2 inside (H, W) = {size_hw}")
    return x1, y1, x2, y2


def _pose(fields: Fields) -> NDArray[np.float64] | None:
    if fields.absent("pose"):
        return None
    return np.array(fields.numbers("pose", 16), np.float64).reshape(4, 4)


def _pair(values: tuple[_Number, ...]) -> tuple[_Number, _Number]:
    first, second = values
    return first, second
