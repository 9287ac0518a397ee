"""Where an OpenIGTLink picture lies in the world, and the poses of tools."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from igtl_messages import image_body, picture, transform_body
from numpy.typing import NDArray

from stages.sources.igtl_header import MessageError
from stages.sources.igtl_image import IMAGE, image_to_ras, parse_image
from stages.sources.igtl_pose import Posed, PoseTrack, parse_pose

TILTED = np.array([[0.6, 0.0, -0.8], [0.8, 0.0, 0.6], [0.0, -1.0, 0.0]])
"""Columns are the unit vectors i, j and k."""
CENTRE = np.array([10.0, -20.0, 30.0])


def told(vectors: NDArray[np.float64], centre: NDArray[np.float64]) -> tuple[float, ...]:
    """The 12 numbers of an IMAGE."""
    return (*vectors.T.reshape(-1), *centre)


def pose_of(world: int, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    body = image_body(picture(0, (4, 6)), world=world, matrix=told(vectors, CENTRE))
    pose = parse_image(body[: IMAGE.size], 24).pose
    assert pose is not None
    return pose


def test_the_middle_of_the_picture_lies_at_its_centre() -> None:
    pose = pose_of(1, TILTED * [0.5, 0.25, 1.0])
    middle = [(6 - 1) / 2 * 0.5, (4 - 1) / 2 * 0.25, 0, 1]  # mm right of and below pixel (0, 0)
    assert np.allclose(pose @ middle, [*CENTRE, 1], atol=1e-5)
    assert np.allclose(pose[:3, :3], TILTED, atol=1e-6)
    assert np.array_equal(pose[3], [0, 0, 0, 1])


def test_pixels_lie_where_their_index_times_the_vectors_says() -> None:
    """The protocol in its own words: index (i, j) relative to the centre, along the vectors."""
    vectors = TILTED * [0.5, 0.25, 1.0]
    pose = pose_of(1, vectors)
    for j, i in np.ndindex(4, 6):
        there = CENTRE + (i - 2.5) * vectors[:, 0] + (j - 1.5) * vectors[:, 1]
        assert np.allclose((pose @ [i * 0.5, j * 0.25, 0, 1])[:3], there, atol=1e-5)


def test_lps_is_turned_into_ras() -> None:
    ras, lps = pose_of(1, TILTED), pose_of(2, TILTED)
    assert np.allclose(lps, np.diag([-1.0, -1.0, 1.0, 1.0]) @ ras)
    assert not np.allclose(lps, ras)


def test_a_missing_third_vector_stands_upright() -> None:
    flat = TILTED.copy()
    flat[:, 2] = 0
    pose = image_to_ras(flat, CENTRE, (4, 6), lps=False)
    assert np.allclose(pose[:3, 2], np.cross(TILTED[:, 0], TILTED[:, 1]))


@pytest.mark.parametrize(
    "vectors", [np.zeros((3, 3)), TILTED * [0.0, 1.0, 1.0], TILTED * [101.0, 1.0, 1.0]]
)
def test_a_pixel_without_a_size_has_neither_spacing_nor_pose(vectors: NDArray[np.float64]) -> None:
    body = image_body(picture(0, (4, 6)), matrix=told(vectors, CENTRE))
    layout = parse_image(body[: IMAGE.size], 24)
    assert (layout.spacing_mm, layout.pose) == (None, None)


def test_a_transform_is_read_column_by_column() -> None:
    matrix = np.arange(16.0).reshape(4, 4)
    matrix[3] = (0, 0, 0, 1)
    assert np.array_equal(parse_pose("TRANSFORM", transform_body(matrix)), matrix)


@pytest.mark.parametrize(
    ("quaternion", "turned"),
    [
        ((), (1, 2, 3)),
        ((0.0, 0.0, 0.0, 1.0), (1, 2, 3)),
        ((0.0, 0.0, 0.0), (1, 2, 3)),
        ((1.0, 0.0, 0.0, 0.0), (1, -2, -3)),
        ((0.0, 1.0, 0.0), (-1, 2, -3)),
        ((0.5, 0.5, 0.5, 0.5), (3, 1, 2)),
        ((0.5, 0.5, 0.5), (3, 1, 2)),
        ((2.0, 2.0, 2.0, 2.0), (3, 1, 2)),
        ((-0.5, -0.5, -0.5, 0.5), (2, 3, 1)),
    ],
)
def test_positions_turn_as_quaternions_do(
    quaternion: tuple[float, ...], turned: tuple[int, ...]
) -> None:
    body = struct.pack(f">{3 + len(quaternion)}f", 10, 20, 30, *quaternion)
    for kind in ("POSITION", "QTRANS"):
        pose = parse_pose(kind, body)
        there = np.add(turned, [10, 20, 30])
        assert np.allclose((pose @ [1, 2, 3, 1])[:3], there, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        ("TRANSFORM", bytes(44), "a TRANSFORM of 44 bytes, expected 48"),
        ("TRANSFORM", struct.pack(">12f", *[float("nan")] * 12), "a TRANSFORM that is not finite"),
        ("TRANSFORM", struct.pack(">12f", *[float("inf")] * 12), "a TRANSFORM that is not finite"),
        ("POSITION", bytes(16), "a POSITION of 16 bytes, expected 28 or 24 or 12"),
        ("QTRANS", bytes(28), "a QTRANS whose quaternion is zero"),
    ],
)
def test_a_pose_that_is_none_is_refused(kind: str, body: bytes, expected: str) -> None:
    with pytest.raises(MessageError, match=expected):
        parse_pose(kind, body)


def test_nobody_waits_for_a_tool_that_fell_silent() -> None:
    track = PoseTrack(20_000_000)
    track.begin(0)
    assert track.waits(None, 10, 20)
    assert not track.waits(None, 2_000_000_000, 2_000_000_010)
    track.add(Posed(None, 1_900_000_000, np.eye(4)))
    assert track.waits(None, 2_000_000_000, 2_000_000_010)
    track.add(Posed(None, 2_000_000_000, np.eye(4)))
    assert not track.waits(None, 2_000_000_000, 2_000_000_010)
