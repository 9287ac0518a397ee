"""What the channel knows of the stream: `Seen`, a sink that looks at headers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from stages.packets import HostPacket


class Seen:
    """The newest packet, without its masks; may be read from any thread."""

    wants_masks = False

    def __init__(self) -> None:
        self.packet: HostPacket | None = None

    def write(self, packet: HostPacket) -> None:
        self.packet = packet

    def poll(self) -> None:
        """Nothing to look after."""

    def close(self) -> None:
        """What was seen stays."""


def describe(packet: HostPacket, class_names: Sequence[str]) -> dict[str, Any]:
    """A packet's header, JSON-ready; numbers that are not finite are null."""
    info = packet.info
    return {
        "source_id": info.source_id,
        "epoch": info.epoch,
        "frame_id": info.frame_id,
        "captured_unix_ns": info.captured_unix_ns,
        "size_hw": list(info.size_hw),
        "objects": [
            {
                "id": int(object_id),
                "class_id": int(packet.class_ids[row]),
                "label": packet.label(row, class_names),
                "score": _number(packet.scores[row]),
                "presence": _number(packet.presence[row]),
                "mask_age_frames": int(packet.mask_age_frames[row]),
                "box": packet.mask_boxes_xyxy[row].tolist(),
                "area_px": int(packet.area_px[row]),
                "centroid": [round(float(value), 2) for value in packet.centroids_xy[row]],
            }
            for row, object_id in enumerate(packet.object_ids)
        ],
    }


def _number(value: float) -> float | None:
    number = float(value)
    return round(number, 4) if math.isfinite(number) else None
