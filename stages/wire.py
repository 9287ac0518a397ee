"""The wire format, version 1: what a run publishes, each as one message (docs/wire.md).

    topic (ASCII)  0x00  header length (uint32, little-endian)  header (JSON, UTF-8)  payload

Numpy and the standard library only, so that a subscriber never imports torch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stages.packets import HostPacket, PacketInfo
from stages.ring_place import FIELD
from stages.wire_checks import MAX_MASK_PIXELS
from stages.wire_decode import decode
from stages.wire_envelope import MAX_HEADER_BYTES, VERSION, envelope, topic
from stages.wire_masks import Encoding, mask_arrays
from stages.wire_messages import (
    KpiMessage,
    LogitsArray,
    MaskRow,
    Message,
    ObjectResult,
    PictureMessage,
    ResultMessage,
    StateMessage,
    WireError,
)
from stages.wire_views import encode_kpi, encode_picture

__all__ = [
    "MAX_MESSAGE_BYTES",
    "VERSION",
    "Encoding",
    "KpiMessage",
    "LogitsArray",
    "MaskRow",
    "Message",
    "ObjectResult",
    "PictureMessage",
    "ResultMessage",
    "StateMessage",
    "WireError",
    "decode",
    "encode_kpi",
    "encode_picture",
    "encode_result",
    "encode_state",
    "topic",
]

MAX_MESSAGE_BYTES = MAX_MASK_PIXELS // 8 + 2 * MAX_HEADER_BYTES


def encode_result(
    packet: HostPacket,
    seq: int,
    class_names: Sequence[str] = (),
    encoding: Encoding = "bits",
    *,
    threshold: float = 0.0,
    stale: bool = False,
    run: int = 0,
    published_ns: int | None = None,
    published_unix_ns: int | None = None,
) -> bytes:
    """One packet as one message; the two clocks (monotonic, Unix) default to now.

    `threshold`: the logit above which a pixel is foreground, told beside logits. `stale`: also
    where the packet does not say so itself. `run`: 0..2**52, of the publisher's life. Raises
    `ValueError` where masks or logits are asked for and the packet carries none, `WireError` where
    the header outgrows what a reader accepts.
    """
    array = mask_arrays(packet, encoding, threshold)
    arrays, payload = ([], []) if array is None else ([array[0]], array[1])
    header = {
        "version": VERSION,
        "kind": "result",
        "run": run,
        "seq": seq,
        **_info(packet.info, stale),
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
    run: int = 0,
    published_unix_ns: int | None = None,
) -> bytes:
    """The state message of a source; `last_seq` is None before the first result."""
    header = {
        "version": VERSION,
        "kind": "state",
        "run": run,
        "source_id": source_id,
        "epoch": epoch,
        "state": state,
        "last_seq": last_seq,
        "class_names": list(class_names),
        "published_unix_ns": time.time_ns() if published_unix_ns is None else published_unix_ns,
    }
    return envelope("state", source_id, header, [])


def _info(info: PacketInfo, stale: bool) -> dict[str, object]:
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
        "stale": stale or info.stale,
        "identity": info.identity,
    }


def _objects(packet: HostPacket, class_names: Sequence[str]) -> list[dict[str, object]]:
    numbers = (packet.scores, packet.presence, packet.quality, *packet.centroids_xy.T)
    scores, presences, qualities, x, y = _numbers(np.stack(numbers))
    columns = zip(
        packet.object_ids.tolist(),
        packet.class_ids.tolist(),
        scores,
        presences,
        qualities,
        packet.mask_age_frames.tolist(),
        packet.mask_boxes_xyxy.tolist(),
        packet.area_px.tolist(),
        zip(x, y, strict=True),
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


def _numbers(columns: NDArray[np.float32]) -> list[list[float | None]]:
    """The shortest decimals that read back as the same float32; null for what is not finite."""
    numbers = columns.astype(np.str_).astype(np.float64).astype(np.object_)
    numbers[~np.isfinite(columns)] = None
    rows: list[list[float | None]] = numbers.tolist()
    return rows
