"""Others receive our results: PyIGTL, and the protocol's C++ library as Debian ships it."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT
from igtl_cxx import compiled
from igtl_out import NS, Served
from igtl_receivers import fnv, pyigtl_client, pyigtl_message

from stages.packets import HostPacket
from stages.sinks.label_image import label_image

POSE = np.array([[0.0, -1, 0, 10], [0, 0, -1, 20], [1, 0, 0, 30], [0, 0, 0, 1]])
TO_WORLD = POSE @ np.diag([0.25, 0.5, 1, 1])
"""Indices (column, row, slice) to millimetres."""


def pixels_of(packet: HostPacket) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return label_image(packet, (packet.object_ids % 255 + 1).astype(np.uint8))


@pytest.mark.parametrize("version", [1, 2])
def test_pyigtl_receives(version: int) -> None:
    with Served(version=version) as served, pyigtl_client(served.endpoint) as client:
        served.until(lambda: served.server.wants_masks)
        packet = served.write(pose=POSE)
        found = pyigtl_message(client, "Masks")
        assert found.image.shape == (1, *packet.info.size_hw)
        assert found.image.dtype == np.uint8
        assert np.array_equal(found.image[0], pixels_of(packet))
        assert np.allclose(found.ijk_to_world_matrix, TO_WORLD, atol=1e-5)
        assert found.timestamp == pytest.approx(NS / 1e9, abs=1e-6)
        if version == 2:
            told = json.loads(found.metadata["objects"])
            assert [each["object_id"] for each in told] == packet.object_ids.tolist()
        centroids, boxes = (pyigtl_message(client, name) for name in ("Centroids", "Boxes"))
        shown = np.flatnonzero(packet.area_px)
        assert centroids.names == [str(packet.object_ids[row]) for row in shown]
        assert set(centroids.owners) == {"Masks"}
        for position, row in zip(centroids.positions, shown, strict=True):
            x, y = packet.centroids_xy[row] - 0.5
            assert np.allclose(position, (TO_WORLD @ [x, y, 0, 1])[:3], atol=1e-3)
        assert len(boxes.positions) == 4 * len(shown)


def test_pyigtl_follows_a_stream() -> None:
    with Served() as served, pyigtl_client(served.endpoint) as client:
        served.until(lambda: served.server.wants_masks)
        for _ in range(20):
            packet = served.write()
            assert np.array_equal(pyigtl_message(client, "Masks").image[0], pixels_of(packet))


def test_the_cxx_library_receives(tmp_path_factory: pytest.TempPathFactory) -> None:
    program = compiled(ROOT / "tests" / "igtl_receiver.cxx", tmp_path_factory.mktemp("cxx"))
    count = 5
    with (
        Served() as served,
        subprocess.Popen(
            [program, str(served.port), str(count)], stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        served.until(lambda: served.server.wants_masks)
        packets = []
        while process.poll() is None and len(packets) < 100:
            packets.append(served.write(pose=POSE))
            time.sleep(0.05)
        assert process.wait(20.0) == 0
        assert process.stdout is not None
        lines = [line.split() for line in process.stdout.read().splitlines()]
    assert not [line for line in lines if line[0] == "BAD"]
    assert ["STATUS", "Stream", "13", "connecting"] in lines
    images = [line for line in lines if line[0] == "IMAGE"]
    assert len(images) == count
    for _, device, stamp, *numbers in images:
        index = round((float(stamp) - NS / 1e9) * 1e3)
        packet = packets[index]
        assert device == "Masks"
        assert numbers[:5] == ["64", "48", "1", "3", "1"]
        assert int(numbers[-1]) == fnv(pixels_of(packet))
        spacing, matrix = np.array(numbers[5:8], float), np.array(numbers[8:20], float)
        assert np.allclose(spacing, [0.25, 0.5, 1.0])
        # The library's matrix has unit axes and the position of the picture's centre.
        expected = POSE[:3].copy()
        expected[:, 3] = (TO_WORLD @ [31.5, 23.5, 0, 1])[:3]
        assert np.allclose(matrix.reshape(3, 4), expected, atol=1e-4)
    check_points([line for line in lines if line[0] == "POINT"], packets)


def check_points(lines: list[list[str]], packets: list[HostPacket]) -> None:
    assert {line[1] for line in lines} == {"Centroids", "Boxes"}
    for _, device, stamp, count, *words in lines:
        packet = packets[round((float(stamp) - NS / 1e9) * 1e3)]
        shown = np.flatnonzero(packet.area_px)
        assert int(count) == len(shown) * (1 if device == "Centroids" else 4)
        named = {str(packet.object_ids[row]) for row in shown}
        assert named <= {word.split(".")[0] for word in words} or not named


def test_no_objects_at_all_is_received_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    """An empty POINT clears what a receiver shows."""
    program = compiled(ROOT / "tests" / "igtl_receiver.cxx", tmp_path_factory.mktemp("cxx"))
    with (
        Served() as served,
        subprocess.Popen(
            [program, str(served.port), "3"], stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        served.until(lambda: served.server.wants_masks)
        for _ in range(100):
            if process.poll() is not None:
                break
            served.server.write(_without_objects(served.packet()))
            time.sleep(0.05)
        assert process.wait(20.0) == 0
        assert process.stdout is not None
        lines = [line.split() for line in process.stdout.read().splitlines()]
    empty = [line[3] for line in lines if line[0] == "POINT"]
    assert empty
    assert set(empty) == {"0"}
    blank = fnv(np.zeros((48, 64), np.uint8))
    assert {int(line[-1]) for line in lines if line[0] == "IMAGE"} == {blank}


def _without_objects(packet: HostPacket) -> HostPacket:
    rows = {
        name: getattr(packet, name)[:0]
        for name in HostPacket.__dataclass_fields__
        if isinstance(getattr(packet, name), np.ndarray)
    }
    return replace(packet, **rows)


def test_the_receiver_of_the_cxx_library_would_notice_damage(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The control of the check sums above."""
    import socket

    from igtl_messages import image, message

    program = compiled(ROOT / "tests" / "igtl_receiver.cxx", tmp_path_factory.mktemp("cxx"))
    pixels = np.zeros((4, 4), np.uint8)
    good = image(pixels)
    bad = message("IMAGE", good[58:-1] + b"\1", crc=int.from_bytes(good[50:58], "big"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with subprocess.Popen(
            [program, str(port), "2"], stdout=subprocess.PIPE, text=True
        ) as process:
            connected, _ = server.accept()
            with connected:
                connected.sendall(good + bad)
                assert process.wait(20.0) == 0
            assert process.stdout is not None
            lines = process.stdout.read().splitlines()
    assert lines.count("BAD check sum") == 1
