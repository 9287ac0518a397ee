"""Which transform becomes the pose of an OpenIGTLink picture."""

from __future__ import annotations

import struct
import time
from typing import Any

import numpy as np
import pytest
from igtl_messages import (
    MS,
    QUARTER,
    STAMP_S,
    extended,
    image,
    image_body,
    message,
    picture,
    status_body,
    transform_body,
)
from igtl_peers import (
    errors_told,
    feed_and_sender,
    fresh,
    next_arrival,
)

from stages.sources import lag
from stages.sources.feed import Arrival, FeedError
from stages.sources.igtl_feed import IgtlWishes
from stages.sources.igtl_pairing import Pairing

TOOL = np.array([[0.0, -1, 0, 10], [1, 0, 0, 20], [0, 0, 1, 30], [0, 0, 0, 1]])
POSED = IgtlWishes(pose_device="Tool", max_pose_skew_ns=400_000_000)


def tool(index: int = 0, after_ms: int = 0, device: str = "Tool", **header: Any) -> bytes:
    """A TRANSFORM stamped so much later than the pictures, moved by `index` mm."""
    matrix = TOOL.copy()
    matrix[2, 3] += index
    seconds, fraction = divmod((STAMP_S << 32) + QUARTER + after_ms * MS, 1 << 32)
    told = {"device": device, "seconds": seconds, "fraction": fraction, **header}
    return message("TRANSFORM", transform_body(matrix), **told)


def z_of(arrival: Arrival) -> float | None:
    """Of the transform that a picture was paired with."""
    return None if arrival.pose is None else float(arrival.pose[2, 3] - TOOL[2, 3])


def test_a_transform_moves_the_picture_in_the_world() -> None:
    with feed_and_sender(POSED) as (feed, sender):
        sender.sendall(tool() + image(picture(0, (3, 5))))
        pose = next_arrival(feed).pose
    assert pose is not None
    # The first pixel lies (-2, -1) mm from the picture's centre, which is the tool's origin.
    assert np.allclose(pose @ [0, 0, 0, 1], TOOL @ [-2, -1, 0, 1])
    assert np.allclose(pose @ [4, 2, 0, 1], TOOL @ [2, 1, 0, 1])


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        ([tool(1), image(picture())], 1.0),
        ([image(picture()), tool(1)], 1.0),
        ([tool(1, -300), image(picture()), tool(2, 100)], 2.0),
        ([tool(1, -100), image(picture()), tool(2, 300)], 1.0),
        ([tool(1, -100), tool(2, 80), image(picture())], 2.0),
        ([tool(1, -500), image(picture()), tool(2, 500)], None),
        ([tool(1, device="Other"), image(picture())], None),
        ([image(picture())], None),
    ],
    ids=["before", "behind", "nearer behind", "nearer before", "newest", "far", "other", "none"],
)
def test_the_nearest_transform_in_time_is_the_pose(
    stream: list[bytes], expected: float | None
) -> None:
    with feed_and_sender(POSED) as (feed, sender):
        sender.sendall(b"".join(stream))
        assert z_of(next_arrival(feed)) == expected


def test_a_picture_that_waits_for_its_pose_is_delivered_when_the_next_one_begins() -> None:
    wishes = IgtlWishes(pose_device="Tool", max_pose_skew_ns=10_000_000_000)
    with feed_and_sender(wishes) as (feed, sender):
        began = time.monotonic()
        sender.sendall(tool(0, -100) + image(picture(0)) + image(picture(1)))
        assert np.array_equal(next_arrival(feed).pixels, picture(0))
        assert time.monotonic() - began < 5.0
        sender.sendall(tool(3))
        second = next_arrival(feed)
        assert np.array_equal(second.pixels, picture(1))
        assert z_of(second) == 3.0


def test_a_picture_that_came_slowly_still_waits_for_the_transform_behind_it() -> None:
    with feed_and_sender(POSED) as (feed, sender):
        data = image(picture())
        sender.sendall(tool(0, -100) + data[:100])
        assert feed.read(fresh, 0.1) is None
        sender.sendall(data[100:] + tool(7))
        assert z_of(next_arrival(feed)) == 7.0


def test_without_stamps_arrival_times_are_compared() -> None:
    with feed_and_sender(POSED) as (feed, sender):
        sender.sendall(tool(4, seconds=0, fraction=0) + image(picture()))
        assert z_of(next_arrival(feed)) == 4.0
        time.sleep(1.0)
        sender.sendall(image(picture()))
        assert z_of(next_arrival(feed)) is None


@pytest.mark.parametrize(
    ("devices", "heard"),
    [(["Tool2", "Stylus", "Tool2"], "'Stylus', 'Tool2'"), ([], "none")],
    ids=["others", "none"],
)
def test_a_tool_that_never_comes_is_told_once_with_those_that_do(
    monkeypatch: pytest.MonkeyPatch, devices: list[str], heard: str
) -> None:
    monkeypatch.setattr("stages.sources.igtl_pairing._UNHEARD_NS", 0)
    with errors_told() as told, feed_and_sender(POSED) as (feed, sender):
        sender.sendall(b"".join(tool(device=device) for device in devices))
        for index in range(3):
            sender.sendall(image(picture(index)))
            assert next_arrival(feed).pose is None
    assert told == [
        "pictures have no pose: no transform of pose_device 'Tool' came, "
        f"those that did are of {heard} (no pose: 1)"
    ]


def test_a_tool_has_a_second_to_be_heard_of_and_is_not_missed_after_that() -> None:
    pairing, second_ns = Pairing("Tool", 0, None), 10**9
    pairing.begin(5 * second_ns)
    assert pairing.missing(6 * second_ns - 1) is None
    assert pairing.missing(6 * second_ns)
    assert pairing.missing(7 * second_ns) is None, "told once"
    with feed_and_sender(POSED) as (feed, sender):
        sender.sendall(tool() + image(picture()))
        assert next_arrival(feed).pose is not None
        assert feed._pairing.missing(time.monotonic_ns() + 10 * second_ns) is None
    assert Pairing(None, 0, None).missing(9 * second_ns) is None, "none was asked for"


def test_a_stream_as_plus_server_sends_it() -> None:
    """For each frame: IMAGE, the transforms of three tools, all of one time; version 2 with
    metadata; a STATUS now and then to keep the connection alive."""

    def plus(kind: str, content: bytes, device: str, index: int) -> bytes:
        keys = ((b"FrameNumber", str(index).encode()), (b"Status", b"OK"))
        times = {"seconds": STAMP_S, "fraction": index * 33 * MS}
        return message(kind, extended(content, keys), device=device, version=2, **times)

    def frame(index: int) -> bytes:
        matrix = TOOL.copy()
        matrix[2, 3] += index
        parts = [plus("IMAGE", image_body(picture(index)), "Image_Reference", index)]
        for device in ("ProbeToReference", "StylusToReference", "ReferenceToTracker"):
            moved = matrix if device == "ProbeToReference" else np.eye(4)
            parts.append(plus("TRANSFORM", transform_body(moved), device, index))
        if index % 5 == 0:
            parts.append(message("STATUS", status_body(1), device="PlusServer"))
        return b"".join(parts)

    wishes = IgtlWishes(device="Image_Reference", pose_device="ProbeToReference")
    with errors_told() as told, feed_and_sender(wishes) as (feed, sender):
        for index in range(20):
            sender.sendall(frame(index))
            arrival = next_arrival(feed)
            assert np.array_equal(arrival.pixels, picture(index))
            assert z_of(arrival) == index
            assert arrival.captured_unix_ns == pytest.approx(
                STAMP_S * 10**9 + index * 33 * 10**6, abs=50
            )
    assert told == []


def test_without_a_pose_device_the_image_tells_its_own() -> None:
    with feed_and_sender() as (feed, sender):
        sender.sendall(tool() + image(picture(0, (3, 5))))
        pose = next_arrival(feed).pose
    assert pose is not None
    assert np.array_equal(pose[:3, 3], [-2, -1, 0])


def test_a_position_with_a_quaternion_is_a_pose_too() -> None:
    half = 0.5**0.5  # a quarter turn about z
    body = struct.pack(">7f", 10, 20, 30, 0, 0, half, half)
    with feed_and_sender(POSED) as (feed, sender):
        sender.sendall(message("POSITION", body, device="Tool") + image(picture(0, (1, 1))))
        pose = next_arrival(feed).pose
    assert pose is not None
    assert np.allclose(pose, TOOL, atol=1e-6)


def test_a_queue_that_grows_is_told_in_full_and_given_up() -> None:
    """Sent at 30 a second, arriving at 27: each second another tenth."""
    pairing, told_s, real_s = Pairing(None, 0, 3.0), [], []

    def follow() -> None:
        for number in range(27 * 120):
            sent_ns, came_ns = number * 10**9 // 30, number * 10**9 // 27
            real_s.append((came_ns - sent_ns) / 1e9)
            told_s.append((came_ns - pairing._captured(came_ns, sent_ns)) / 1e9)

    with pytest.raises(FeedError, match=r"late by the sender's clock .* \(max_lag_s"):
        follow()
    assert told_s == pytest.approx(real_s[:-1], abs=0.2)
    assert 3 < real_s[-1] < 9


def test_a_stall_of_any_length_is_no_clock_that_was_set() -> None:
    pairing = Pairing(None, 0, 3.0)
    pairing._captured(0, 10**9)
    came_ns = 40 * 10**9
    assert came_ns - pairing._captured(came_ns, 2 * 10**9) == pytest.approx(39e9, rel=0.01)


def test_a_clock_that_is_not_to_be_believed_makes_no_picture_late() -> None:
    pairing = Pairing(None, 0, None)
    for second in range(100):
        assert pairing._captured(second * 10**9, second * 10**9 // 2) == second * 10**9


def test_a_connection_that_stays_late_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lag, "_LATE_FOR_S", 0.1)
    with feed_and_sender(IgtlWishes(max_lag_s=0.05)) as (feed, sender):

        def follow() -> None:
            for number in range(100):  # stamped a millisecond apart, sent a twentieth of a second
                sender.sendall(image(picture(), fraction=QUARTER + number * MS))
                next_arrival(feed)
                time.sleep(0.05)

        with pytest.raises(FeedError, match="does not catch up"):
            follow()
