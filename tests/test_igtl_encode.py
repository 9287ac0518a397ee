"""Results as OpenIGTLink messages, byte by byte, and back through the reader of the source."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from igtl_receivers import Received, messages, parse
from numpy.typing import NDArray
from result_packets import random_packet

from stages.packets import HostPacket
from stages.sinks.igtl_encode import Envelope, Placement, Version, status
from stages.sinks.igtl_result import Names, ResultMessages
from stages.sources.igtl_image import parse_image
from stages.sources.igtl_reader import MessageReader
from stages.sources.igtl_told import PictureBegins, PictureEnds, Refused, Told

NS = 1_700_000_000_123_456_789
NAMES = Names("Masks", "Centroids", "Boxes")
SPACING = (0.25, 0.125)


def turned(seed: int) -> NDArray[np.float64]:
    """A rigid pose, (4, 4)."""
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    axes[:, 2] = np.cross(axes[:, 0], axes[:, 1])
    pose = np.eye(4)
    pose[:3, :3] = axes
    pose[:3, 3] = rng.normal(size=3) * 100
    return pose


def packet_with(n: int = 3, size_hw: tuple[int, int] = (30, 44), **info: Any) -> HostPacket:
    packet, _ = random_packet(np.random.default_rng(5), n, size_hw)
    told = {"captured_unix_ns": NS, "spacing_mm": SPACING, "pose": turned(1), **info}
    return replace(packet, info=replace(packet.info, **told))


def sent(
    packet: HostPacket, names: Names = NAMES, version: Version = 1, classes: tuple[str, ...] = ()
) -> list[Received]:
    return list(messages(ResultMessages(names, classes, version).of(packet)))


def told(data: bytes) -> list[Told]:
    """What the source's reader makes of it."""
    reader, found = MessageReader(check_crc=True), list[Told]()
    view = memoryview(data)
    while view:
        count = min(len(reader.wanted), len(view))
        reader.wanted[:count] = view[:count]
        view = view[count:]
        something = reader.filled(count)
        if isinstance(something, PictureBegins):
            reader.place(memoryview(bytearray(something.layout.nbytes)))
        elif something is not None:
            found.append(something)
    return found


@pytest.mark.parametrize("version", [1, 2])
def test_time_size_spacing_and_pose_come_back_as_they_went_in(version: Version) -> None:
    packet = packet_with()
    data = ResultMessages(NAMES, (), version).of(packet)
    (end,) = [each for each in told(data) if isinstance(each, PictureEnds)]
    assert end.header.unix_ns == NS
    assert end.header.device == "Masks"
    assert end.layout.size_hw == (30, 44)
    assert end.layout.spacing_mm == pytest.approx(SPACING, rel=1e-6)
    assert end.layout.pose is not None
    assert packet.info.pose is not None
    assert np.allclose(end.layout.pose, packet.info.pose, atol=1e-4)


def test_a_flipped_bit_is_refused_by_the_reader() -> None:
    data = bytearray(ResultMessages(Names("Masks", None, None), (), 1).of(packet_with()))
    assert not [each for each in told(bytes(data)) if isinstance(each, Refused)]
    data[200] ^= 1
    assert [each for each in told(bytes(data)) if isinstance(each, Refused)]
    with pytest.raises(AssertionError, match="check sum"):
        parse(bytes(data))


@pytest.mark.parametrize("seed", range(5))
def test_what_was_read_from_a_source_is_sent_as_it_was(seed: int) -> None:
    """IMAGE in, packet, IMAGE out: the same twelve numbers."""
    rng = np.random.default_rng(seed)
    place = Placement(packet_with(pose=turned(seed), spacing_mm=(0.3, 0.2)).info)
    first = place.image(np.zeros((30, 44), np.uint8))
    layout = parse_image(first[:72], len(first) - 72)
    again = packet_with(pose=layout.pose, spacing_mm=layout.spacing_mm)
    second = Placement(again.info).image(rng.integers(0, 9, (30, 44), dtype=np.uint8))
    numbers = [np.array(struct.unpack(">12f", each[12:60])) for each in (first, second)]
    assert np.allclose(*numbers, rtol=1e-5, atol=1e-4)


def test_a_picture_that_tells_nothing_lies_at_the_origin_in_pixels() -> None:
    image, *_ = sent(packet_with(spacing_mm=None, pose=None))
    assert image.numbers.tolist() == [1, 0, 0, 0, 1, 0, 0, 0, 1, 21.5, 14.5, 0]


def test_a_frame_without_unix_time_is_stamped_by_this_clock() -> None:
    import time

    before = time.time_ns() - 60_000_000_000
    image, *_ = sent(packet_with(captured_unix_ns=None))
    assert before < image.unix_ns <= time.time_ns()


def test_centroids_and_corners_lie_in_the_world() -> None:
    packet = packet_with()
    assert packet.info.pose is not None
    packet = replace(packet, class_ids=np.array([0, 1, -1], np.int32))
    _, centroids, boxes = sent(packet, classes=("needle", "vessel"))
    assert (centroids.device, boxes.device) == ("Centroids", "Boxes")
    shown = [row for row in range(3) if packet.area_px[row]]
    assert len(shown) >= 2
    assert len(centroids.content) == 136 * len(shown)
    assert len(boxes.content) == 4 * 136 * len(shown)
    scale = np.diag([SPACING[1], SPACING[0], 1, 1])
    for at, row in enumerate(shown):
        x, y = packet.centroids_xy[row] - 0.5
        name, group, *_, px, py, pz, radius, owner = element(centroids.content, at)
        expected = packet.info.pose @ scale @ [x, y, 0, 1]
        assert np.allclose([px, py, pz], expected[:3], atol=1e-3)
        assert name == str(packet.object_ids[row])
        assert group == ("needle", "vessel", "")[row]
        assert (radius, owner) == (0.0, "Masks")
        x1, y1, x2, y2 = packet.mask_boxes_xyxy[row]
        for corner, (cx, cy) in enumerate([(x1, y1), (x2, y1), (x2, y2), (x1, y2)]):
            name, *_, px, py, pz, _, _ = element(boxes.content, 4 * at + corner)
            expected = packet.info.pose @ scale @ [cx - 0.5, cy - 0.5, 0, 1]
            assert np.allclose([px, py, pz], expected[:3], atol=1e-3)
            assert name == f"{packet.object_ids[row]}.{corner + 1}"


def test_what_people_call_an_object_is_its_group() -> None:
    packet = packet_with()
    shown = [row for row in range(3) if packet.area_px[row]]
    packet = replace(
        packet,
        class_ids=np.array([0, 0, -1], np.int32),
        names={int(packet.object_ids[shown[0]]): "left vein"},
    )
    image, centroids, boxes = sent(packet, version=2, classes=("needle", "vessel"))
    called = [packet.label(row, ("needle", "vessel")) or "" for row in range(3)]
    assert called[shown[0]] == "left vein"
    assert called[shown[1]] in ("needle", "")
    assert [each["class"] for each in json.loads(image.metadata["objects"])] == called
    for at, row in enumerate(shown):
        assert element(centroids.content, at)[1] == called[row]
        assert element(boxes.content, 4 * at)[1] == called[row]


def element(content: bytes, at: int) -> tuple[Any, ...]:
    values = struct.unpack(">64s32s4B3ff20s", content[136 * at : 136 * (at + 1)])
    name, group, owner = (values[i].rstrip(b"\0").decode() for i in (0, 1, -1))
    return name, group, *values[2:-1], owner


def test_objects_without_a_pixel_have_no_points() -> None:
    packet = packet_with(1)
    hidden = replace(
        packet, area_px=np.zeros(1, np.int32), mask_boxes_xyxy=np.zeros((1, 4), np.int32)
    )
    assert [len(each.content) for each in sent(hidden)[1:]] == [0, 0]
    assert [len(each.content) for each in sent(packet)[1:]] == [136, 4 * 136]  # the control


def test_only_what_is_asked_for_is_sent() -> None:
    assert [each.type for each in sent(packet_with(), Names("M", None, None))] == ["IMAGE"]
    assert [each.device for each in sent(packet_with(), Names("M", None, "B"))] == ["M", "B"]


def test_metadata_says_what_the_labels_are_and_how_old_they_are() -> None:
    packet = packet_with(stale=True, epoch=4, frame_id=99)
    image = sent(packet, version=2, classes=("nädel", "b", "c"))[0]
    told = image.metadata
    assert (told["epoch"], told["frame_id"], told["stale"]) == ("4", "99", "1")
    assert (told["source_id"], told["spacing_known"], told["pose_known"]) == ("cam1", "1", "1")
    assert float(told["age_ms"]) > 0
    objects = json.loads(told["objects"])
    assert [each["object_id"] for each in objects] == packet.object_ids.tolist()
    for row, each in enumerate(objects):
        mask = packet.mask(row)
        if packet.area_px[row] == packet.area_px[packet.area_px > 0].min():  # on top of all
            assert (image.pixels[mask] == each["label"]).all()
        assert each["mask_age_frames"] == packet.mask_age_frames[row]
    assert not sent(packet)[0].metadata  # version 1 has none


def test_a_status_as_the_protocol_has_it() -> None:
    data = Envelope(1, NS).around("STATUS", "Stream", status(7, "stale", "näh\n"))
    found = parse(data)
    assert found.code == 7
    assert found.content[10:30].rstrip(b"\0") == b"stale"
    assert found.content[30:] == b"n?h?\0"


@pytest.mark.parametrize(
    "wrong", [{"captured_unix_ns": -1}, {"captured_unix_ns": 2**63}, {"pose": np.eye(4) * 1e39}]
)
def test_what_the_protocol_has_no_number_for_is_an_error(wrong: dict[str, Any]) -> None:
    with pytest.raises((OverflowError, struct.error)):
        sent(packet_with(**wrong))
