"""The reading half of the wire format (see `stages/wire.py` and docs/wire.md).

The bytes come from a socket, so every length, offset and type is checked against the message
before it is used; the only exception that leaves here is `WireError`.
"""

from __future__ import annotations

import math
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from stages.packets import Identity
from stages.wire_checks import MAX_MASK_PIXELS, MAX_SIDE, arrays, box_inside, pair
from stages.wire_envelope import VERSION, opened
from stages.wire_fields import INT64_MAX, Fields
from stages.wire_messages import (
    LogitsArray,
    MaskRow,
    Message,
    ObjectResult,
    ResultMessage,
    StateMessage,
    WireError,
)
from stages.wire_views import decode_kpi, decode_picture

IDENTITIES = ("tracked", "none")
ENCODINGS = ("bits", "rle")
MAX_RUN = 1 << 52
"""What a double holds exactly."""


def decode(message: bytes | memoryview) -> Message:
    """One message that a run publishes; masks stay packed until asked for.

    A result and a picture keep a view of `message`. Raises `WireError`, whatever the bytes.
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
    if kind == "kpi":
        return decode_kpi(fields, source_id, payload)
    if kind == "frame":
        return decode_picture(fields, source_id, payload)
    raise WireError(
        f"message kind {kind!r}; this reader knows 'result', 'state', 'kpi' and 'frame'"
    )


def _result(fields: Fields, source_id: str, payload: memoryview) -> ResultMessage:
    size_hw = pair(fields.integers("size_hw", 2, 1, MAX_SIDE))
    objects = tuple(
        _object(Fields(item, f"objects[{row}]"), size_hw)
        for row, item in enumerate(fields.items("objects"))
    )
    identity = fields.text("identity")
    if identity not in IDENTITIES:
        raise fields.misfit("identity", identity, " or ".join(IDENTITIES))
    unix = None if fields.absent("captured_unix_ns") else fields.integer("captured_unix_ns")
    rows, logits = _arrays(fields, len(objects), size_hw, payload)
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
        spacing_mm=None if fields.absent("spacing_mm") else pair(fields.numbers("spacing_mm", 2)),
        pose=_pose(fields),
        stale=fields.flag("stale"),
        identity=cast(Identity, identity),
        objects=objects,
        mask_rows=rows,
        payload=payload,
        logits_array=logits,
        run=_run(fields),
        replay=not fields.absent("replay") and fields.flag("replay"),
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
        box=box_inside(fields, "box", size_hw),
        area_px=fields.integer("area_px", 0, size_hw[0] * size_hw[1]),
        area_mm2=None if fields.absent("area_mm2") else fields.number("area_mm2"),
        centroid=pair(fields.numbers("centroid", 2)),
    )


def _state(fields: Fields, source_id: str) -> StateMessage:
    return StateMessage(
        source_id=source_id,
        epoch=fields.integer("epoch", 0),
        state=fields.text("state"),
        last_seq=None if fields.absent("last_seq") else fields.integer("last_seq", 0),
        class_names=fields.texts("class_names"),
        published_unix_ns=fields.integer("published_unix_ns"),
        run=_run(fields),
    )


def _run(fields: Fields) -> int:
    return 0 if fields.absent("run") else fields.integer("run", 0, MAX_RUN)


def _arrays(
    fields: Fields, count: int, size_hw: tuple[int, int], payload: memoryview
) -> tuple[tuple[MaskRow, ...] | None, LogitsArray | None]:
    """What the arrays named `masks` and `logits` say; those of other names are checked and left
    alone."""
    rows: tuple[MaskRow, ...] | None = None
    logits: LogitsArray | None = None
    for array, name, start, end in arrays(fields, payload):
        if name in ("masks", "logits") and not (rows is None and logits is None):
            raise array.misfit(name, name, "one array of masks or of logits")
        if name in ("masks", "logits") and count * size_hw[0] * size_hw[1] > MAX_MASK_PIXELS:
            raise array.misfit("shape", [count, *size_hw], f"at most {MAX_MASK_PIXELS} pixels")
        if name == "masks":
            rows = _mask_rows(array, count, size_hw, start, end)
        elif name == "logits":
            logits = _logits(array, count, size_hw, start, end)
    return rows, logits


def _mask_rows(
    array: Fields, count: int, size_hw: tuple[int, int], start: int, end: int
) -> tuple[MaskRow, ...]:
    dtype, encoding = array.text("dtype"), array.text("encoding")
    if dtype != "bool" or encoding not in ENCODINGS:
        raise array.misfit("masks", f"{dtype}, {encoding}", "bool as bits or rle")
    if array.integers("shape", 3, 0, INT64_MAX) != (count, *size_hw):
        raise array.misfit("shape", array.items("shape"), f"{[count, *size_hw]}")
    known = cast(Literal["bits", "rle"], encoding)
    return tuple(
        _mask_row(Fields(row, f"masks row {n}"), known, size_hw, start, end)
        for n, row in enumerate(array.items("rows", count))
    )


def _mask_row(
    fields: Fields, encoding: Literal["bits", "rle"], size_hw: tuple[int, int], start: int, end: int
) -> MaskRow:
    x1, y1, x2, y2 = box = box_inside(fields, "box", size_hw)
    if encoding == "bits":
        expected = (y2 - y1) * -(-(x2 - x1) // 8)
        size = fields.integer("bytes", expected, expected)
    else:
        size = fields.integer("bytes", 1, min(end - start, 2 * size_hw[0] * size_hw[1] + 8))
    return MaskRow(box, fields.integer("offset", start, end - size), size, encoding)


def _logits(
    array: Fields, count: int, size_hw: tuple[int, int], start: int, end: int
) -> LogitsArray:
    dtype, encoding = array.text("dtype"), array.text("encoding")
    if (dtype, encoding) != ("float32", "raw"):
        raise array.misfit("logits", f"{dtype}, {encoding}", "float32, raw")
    n, h, w = array.integers("shape", 3, 0, MAX_SIDE)
    if n != count or h == 0 or w == 0:
        raise array.misfit("shape", [n, h, w], f"{count} planes that are not empty")
    if end - start != 4 * n * h * w:
        raise array.misfit("bytes", end - start, f"{4 * n * h * w}")
    threshold = array.number("threshold")
    if math.isnan(threshold):
        raise array.misfit("threshold", None, "a finite number")
    return LogitsArray((n, h, w), start, box_inside(array, "window", size_hw), threshold)


def _pose(fields: Fields) -> NDArray[np.float64] | None:
    if fields.absent("pose"):
        return None
    return np.array(fields.numbers("pose", 16), np.float64).reshape(4, 4)
