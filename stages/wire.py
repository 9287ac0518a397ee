"""The wire format, version 1: one result or state as one message (docs/wire.md).

    topic (ASCII)  0x00  header length (uint32, little-endian)  header (JSON, UTF-8)  payload

Numpy and the standard library only, so that a subscriber never imports torch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stages.packets import HostPacket, PacketInfo
from stages.ring_place import FIELD
from stages.wire_decode import MAX_MASK_PIXELS, decode
from stages.wire_envelope import MAX_HEADER_BYTES, VERSION, envelope, topic
from stages.wire_messages import (
    MaskRow,
    Message,
    ObjectResult,
    ResultMessage,
    StateMessage,
    WireError,
)

__all__ = [
    "MAX_MESSAGE_BYTES",
    "VERSION",
    "MaskRow",
    "Message",
    "ObjectResult",
    "ResultMessage",
    "StateMessage",
    "WireError",
    "decode",
    "encode_result",
    "encode_state",
    "topic",
]

Encoding = Literal["bits", "none"]

MAX_MESSAGE_BYTES = MAX_MASK_PIXELS // 8 + 2 * MAX_HEADER_BYTES


def encode_result(
    packet: HostPacket,
    seq: int,
    class_names: Sequence[str] = (),
    encoding: Encoding = "bits",
    *,
    published_ns: int | None = None,
    published_unix_ns: int | None = None,
) -> bytes:
    """One packet as one message; the two clocks (monotonic, Unix) default to now.

    Raises `ValueError` where masks are asked for and the packet carries none, `WireError` where
    the header outgrows what a reader accepts.
    """
    arrays: list[dict[str, object]] = []
    payload: list[bytes] = []
    if encoding == "bits":
        arrays, payload = _mask_array(packet)
    header = {
        "version": VERSION,
        "kind": "result",
        "seq": seq,
        **_info(packet.info),
        "published_ns": time.monotonic_ns() if published_ns is None else published_ns,
        "published_unix_ns": time.time_ns() if published_unix_ns is None else published_unix_ns,
        "objects": _objects(packet, class_names),
        "arrays": arrays,
        **({} if packet.ring is None else {FIELD: packet.ring.header()}),
    }
    return envelope("result", packet.info.source_id, header, payload)


def encode_state(
    source_id: str,
    epoch: int,
    state: str,
    last_seq: int | None,
    class_names: Sequence[str],
    *,
    published_unix_ns: int | None = None,
) -> bytes:
    """The state message of a source; `last_seq` is None before the first result."""
    header = {
        "version": VERSION,
        "kind": "state",
        "source_id": source_id,
        "epoch": epoch,
        "state": state,
        "last_seq": last_seq,
        "class_names": list(class_names),
        "published_unix_ns": time.time_ns() if published_unix_ns is None else published_unix_ns,
    }
    return envelope("state", source_id, header, [])


def _info(info: PacketInfo) -> dict[str, object]:
    pose = info.pose if info.pose is not None and np.isfinite(info.pose).all() else None
    return {
        "source_id": info.source_id,
        "epoch": info.epoch,
        "frame_id": info.frame_id,
        "captured_ns": info.captured_ns,
        "captured_unix_ns": info.captured_unix_ns,
        "grabbed_ns": info.grabbed_ns,
        "size_hw": list(info.size_hw),
        "spacing_mm": None if info.spacing_mm is None else list(info.spacing_mm),
        "pose": None if pose is None else pose.ravel().tolist(),
        "stale": info.stale,
        "identity": info.identity,
    }


def _objects(packet: HostPacket, class_names: Sequence[str]) -> list[dict[str, object]]:
    columns = zip(
        packet.object_ids.tolist(),
        packet.class_ids.tolist(),
        _numbers(packet.scores),
        _numbers(packet.presence),
        _numbers(packet.quality),
        packet.mask_age_frames.tolist(),
        packet.mask_boxes_xyxy.tolist(),
        packet.area_px.tolist(),
        zip(*(_numbers(axis) for axis in packet.centroids_xy.T), strict=True),
        strict=True,
    )
    rows: list[dict[str, object]] = []
    for object_id, class_id, score, presence, quality, age, box, area, centroid in columns:
        row: dict[str, object] = {
            "id": object_id,
            "class_id": class_id,
            "label": packet.label(len(rows), class_names),
            "score": score,
            "presence": presence,
            "quality": quality,
            "mask_age_frames": age,
            "box": box,
            "area_px": area,
            "centroid": centroid,
        }
        if packet.info.spacing_mm is not None:
            row["area_mm2"] = area * math.prod(packet.info.spacing_mm)
        rows.append(row)
    return rows


def _numbers(values: NDArray[np.float32]) -> list[float | None]:
    """The shortest decimals that read back as the same float32; null for what is not finite."""
    return [float(str(value)) if np.isfinite(value) else None for value in values]


def _mask_array(packet: HostPacket) -> tuple[list[dict[str, object]], list[bytes]]:
    """The `masks` entry and its bytes: each mask cut to the whole byte columns around its box,
    whose place is told in the full picture.

    Cutting at byte columns copies packed bytes as they are, with no shifting of bits.
    """
    if packet.masks is None:
        raise ValueError("this packet carries no masks to send")
    height, width = packet.info.size_hw
    (top, left), inner = packet.info.window.origin_yx, packet.info.window.size_hw[1]
    rows: list[dict[str, object]] = []
    payload: list[bytes] = []
    offset = 0
    for mask, (x1, y1, x2, y2) in zip(packet.masks, packet.mask_boxes_xyxy.tolist(), strict=True):
        if x1 == x2:  # empty: its box is that of no place, also in a region
            x1 = x2 = left
            y1 = y2 = top
        first, last = (x1 - left) // 8, -((left - x2) // 8)
        cut = mask[y1 - top : y2 - top, first:last].tobytes()
        box = [left + 8 * first, y1, left + min(8 * last, inner), y2]
        rows.append({"box": box, "offset": offset, "bytes": len(cut)})
        payload.append(cut)
        offset += len(cut)
    entry: dict[str, object] = {
        "name": "masks",
        "dtype": "bool",
        "shape": [len(rows), height, width],
        "encoding": "bits",
        "offset": 0,
        "bytes": offset,
        "rows": rows,
    }
    return [entry], payload
