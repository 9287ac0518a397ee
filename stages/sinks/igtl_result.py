"""One result as OpenIGTLink messages: `ResultMessages`."""

from __future__ import annotations

import colorsys
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stages.packets import HostPacket, PacketInfo
from stages.sinks.igtl_encode import Envelope, Placement, Point, Version, points
from stages.sinks.label_image import Labels, label_image

_GOLDEN: Final = 0.618  # of the circle of hues from one label to the next: neighbours differ


@dataclass(frozen=True, slots=True)
class Names:
    """Device names of what is sent; None: it is not."""

    image: str
    centroids: str | None
    boxes: str | None


class ResultMessages:
    """Makes of each packet an IMAGE of labels, a POINT of the objects' centroids and one of the
    corners of their boxes, all stamped with the time at which the frame was taken.

    An object without a pixel has no points. A label stays with its object, see `Labels`.
    """

    def __init__(self, names: Names, class_names: Sequence[str], version: Version) -> None:
        self._names = names
        self._class_names = class_names
        self._version = version
        self._labels = Labels()

    def of(self, packet: HostPacket) -> bytes:
        """The messages, one behind the other.

        Raises `ValueError` where the packet carries no masks, and `OverflowError` or
        `struct.error` for a pose or a time that the protocol has no numbers for.
        """
        envelope = Envelope(self._version, captured_unix_ns(packet.info))
        place, names = Placement(packet.info), self._names
        labels = self._labels.of(packet)
        content = place.image(label_image(packet, labels))
        told = self._metadata(packet, labels) if self._version > 1 else None
        found = [envelope.around("IMAGE", names.image, content, told)]
        if names.centroids is not None:
            centroids = points(list(self._centroids(packet, labels, place)), names.image)
            found.append(envelope.around("POINT", names.centroids, centroids))
        if names.boxes is not None:
            corners = points(list(self._corners(packet, labels, place)), names.image)
            found.append(envelope.around("POINT", names.boxes, corners))
        return b"".join(found)

    def _centroids(
        self, packet: HostPacket, labels: NDArray[np.uint8], place: Placement
    ) -> Iterator[Point]:
        for row, xyz in enumerate(place.world(packet.centroids_xy).tolist()):
            if packet.area_px[row]:
                yield self._point(packet, labels, row, "", xyz)

    def _corners(
        self, packet: HostPacket, labels: NDArray[np.uint8], place: Placement
    ) -> Iterator[Point]:
        """Of the pixels' outer edges: top left, top right, bottom right, bottom left."""
        for row, (x1, y1, x2, y2) in enumerate(packet.mask_boxes_xyxy.tolist()):
            if not packet.area_px[row]:
                continue
            corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float32)
            for number, xyz in enumerate(place.world(corners).tolist(), 1):
                yield self._point(packet, labels, row, f".{number}", xyz)

    def _point(
        self,
        packet: HostPacket,
        labels: NDArray[np.uint8],
        row: int,
        suffix: str,
        xyz: tuple[float, float, float],
    ) -> Point:
        name = f"{packet.object_ids[row]}{suffix}"
        return Point(name, self._called(packet, row), _colour(int(labels[row])), xyz)

    def _called(self, packet: HostPacket, row: int) -> str:
        return packet.label(row, self._class_names) or ""

    def _metadata(self, packet: HostPacket, labels: NDArray[np.uint8]) -> dict[str, str]:
        info = packet.info
        objects = [
            {
                "label": int(labels[row]),
                "object_id": int(packet.object_ids[row]),
                "class": self._called(packet, row),
                "presence": round(float(packet.presence[row]), 3),
                "mask_age_frames": int(packet.mask_age_frames[row]),
            }
            for row in range(len(labels))
        ]
        return {
            "source_id": info.source_id,
            "epoch": str(info.epoch),
            "frame_id": str(info.frame_id),
            "age_ms": str(round((time.monotonic_ns() - info.captured_ns) / 1e6, 1)),
            "stale": str(int(info.stale)),
            "spacing_known": str(int(info.spacing_mm is not None)),
            "pose_known": str(int(info.pose is not None)),
            "objects": json.dumps(objects, separators=(",", ":")),
        }


def captured_unix_ns(info: PacketInfo) -> int:
    """When the frame was taken, in Unix time: as the source tells, or by this machine's clock."""
    if info.captured_unix_ns is not None:
        return info.captured_unix_ns
    return time.time_ns() - (time.monotonic_ns() - info.captured_ns)


def _colour(label: int) -> tuple[int, int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(label * _GOLDEN % 1.0, 0.8, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue), 255
