"""Whatever bytes come over OpenIGTLink: told, counted, and the next good message works."""

from __future__ import annotations

import random
import struct
import time
import tracemalloc
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from igtl_messages import (
    IDENTITY,
    extended,
    image,
    image_body,
    message,
    picture,
    status_body,
    transform_body,
)
from igtl_peers import SLICE_S, WAIT_S, errors_told, feed_and_sender, fresh, next_arrival

from stages.sources.feed import FeedError
from stages.sources.igtl_feed import IgtlWishes
from stages.sources.troubles import Troubles

HUGE = 1 << 62


def wrong_image(**wrong: Any) -> bytes:
    """An IMAGE with fields that are wrong, its check sum right."""
    return message("IMAGE", image_body(picture(), **wrong))


def wrong_extension(content: bytes | None = None, **wrong: Any) -> bytes:
    body = image_body(picture()) if content is None else content
    keys = ((b"key", b"value"),)
    return message("IMAGE", extended(body, keys, **wrong), version=2)


WHOLE = image_body(picture())
REFUSED = {
    "check sum": (image(picture(), crc=1), "its check sum is wrong"),
    "check sum 0": (image(picture(), crc=0), "its check sum is wrong"),
    "empty body": (message("IMAGE", b""), "72 bytes too few"),
    "short of an image header": (message("IMAGE", WHOLE[:71]), "1 bytes too few"),
    "no pixels": (message("IMAGE", WHOLE[:72]), "with 0 bytes, expected 48"),
    "a pixel short": (message("IMAGE", WHOLE[:-1]), "with 47 bytes, expected 48"),
    "a pixel more": (message("IMAGE", WHOLE + b"x"), "with 49 bytes, expected 48"),
    "colour without bytes": (wrong_image(components=3), "with 48 bytes, expected 144"),
    "16 bits without bytes": (wrong_image(scalar=5), "with 48 bytes, expected 96"),
    "width 0": (wrong_image(size=(0, 6, 1)), "0x6 pixels, expected 1 to"),
    "height 0": (wrong_image(size=(8, 0, 1)), "8x0 pixels, expected 1 to"),
    "no slice": (wrong_image(size=(8, 6, 0)), "slices is 0, expected 1"),
    "a volume": (wrong_image(size=(8, 3, 2)), "slices is 2, expected 1"),
    "too large": (wrong_image(size=(65535, 65535, 1)), "65535x65535 pixels, expected 1 to"),
    "no component": (wrong_image(components=0), "components is 0, expected 1 or 3"),
    "four components": (wrong_image(components=4), "components is 4, expected 1 or 3"),
    "scalar type": (wrong_image(scalar=7), "scalar type is 7, expected 3 or 5"),
    "byte order": (wrong_image(order=9), "byte order is 9, expected 1 or 2"),
    "coordinates": (wrong_image(world=0), "coordinate system is 0, expected 1 or 2"),
    "part of a picture": (wrong_image(part=(4, 6, 1)), "a part of the picture"),
    "part at an offset": (wrong_image(offset=(1, 0, 0)), "a part of the picture"),
    "NaN": (wrong_image(matrix=(float("nan"), *IDENTITY[1:])), "position is not finite"),
    "infinite": (wrong_image(matrix=(*IDENTITY[:11], float("inf"))), "position is not finite"),
    "extended header of 0": (wrong_extension(own=0), "an extended header of 0"),
    "extended header of 11": (wrong_extension(own=11), "an extended header of 11"),
    "extended header of 65535": (
        message("IMAGE", struct.pack(">HHII", 65535, 2, 0, 0) + WHOLE, version=2),
        "an extended header of 65535",
    ),
    "no room for one": (message("IMAGE", bytes(11), version=2), "1 bytes too few"),
    "metadata beyond the body": (
        wrong_extension(metadata_body=(1 << 32) - 1),
        "metadata of 4294967305 bytes",
    ),
    "metadata header beyond the body": (wrong_extension(metadata_header=65535), "metadata of"),
    "65535 keys": (wrong_extension(count=65535), "metadata of 65535 keys"),
    "no keys": (wrong_extension(count=0), "metadata of 0 keys has a header of 10 bytes"),
    "metadata takes pixels": (wrong_extension(metadata_body=9), "with 47 bytes, expected 48"),
    "transform short": (message("TRANSFORM", bytes(47)), "47 bytes, expected 48"),
    "transform long": (message("TRANSFORM", bytes(1 << 16)), "65536 bytes, expected 48"),
    "transform empty": (message("TRANSFORM", b""), "0 bytes, expected 48"),
    "transform NaN": (
        message("TRANSFORM", transform_body(np.full((4, 4), np.nan))),
        "not finite",
    ),
    "status short": (message("STATUS", bytes(29)), "29 bytes, expected 30 or more"),
}


@pytest.mark.parametrize(("data", "expected"), REFUSED.values(), ids=REFUSED.keys())
def test_a_message_that_cannot_be_used_is_told_counted_and_passed_over(
    data: bytes, expected: str
) -> None:
    troubles = Troubles("us")
    with errors_told() as told, feed_and_sender(troubles=troubles) as (feed, sender):
        sender.sendall(image(picture(1)) + data + image(picture(2)))
        for index in (1, 2):
            assert np.array_equal(next_arrival(feed).pixels, picture(index))
    assert troubles.counts["refused"] == 1
    assert len(told) == 1
    assert expected in told[0]
    assert told[0].endswith("(refused: 1)")


LOST = {
    "version 0": (message("IMAGE", WHOLE, version=0), "version 0, expected 1 to 3"),
    "version 99": (message("IMAGE", WHOLE, version=99), "version 99, expected 1 to 3"),
    "type no UTF-8": (message(b"\xff\xfe", WHOLE), "names no type"),
    "type empty": (message(b"", WHOLE), "names no type"),
    "endless body": (message("IMAGE", WHOLE, body_bytes=HUGE), f"a body of {HUGE} bytes"),
    "body over the limit": (
        message("IMAGE", WHOLE, body_bytes=(64 << 20) + 1),
        "a body of 67108865 bytes",
    ),
    "body told a byte short": (
        message("IMAGE", WHOLE, body_bytes=len(WHOLE) - 1) + image(picture()),
        "a header names version",
    ),
    "body told a byte long": (
        message("IMAGE", WHOLE, body_bytes=len(WHOLE) + 1) + image(picture()),
        "a header names version",
    ),
}


@pytest.mark.parametrize(("data", "expected"), LOST.values(), ids=LOST.keys())
def test_a_stream_that_cannot_be_followed_is_given_up(data: bytes, expected: str) -> None:
    with feed_and_sender() as (feed, sender):
        sender.sendall(image(picture(1)) + data)
        assert np.array_equal(next_arrival(feed).pixels, picture(1))
        with pytest.raises(FeedError, match=expected):
            next_arrival(feed)
    with feed_and_sender() as (feed, sender):  # the next connection
        sender.sendall(image(picture(2)))
        assert np.array_equal(next_arrival(feed).pixels, picture(2))


def test_bad_tools_leave_pictures_without_a_pose() -> None:
    with feed_and_sender(IgtlWishes(pose_device="Tool")) as (feed, sender):
        bad = transform_body(np.full((4, 4), np.inf))
        sender.sendall(message("TRANSFORM", bad, device="Tool") + image(picture()))
        assert next_arrival(feed).pose is None


def test_a_flood_of_bad_messages_is_counted_and_told_once() -> None:
    troubles = Troubles("us")
    with errors_told() as told, feed_and_sender(troubles=troubles) as (feed, sender):
        for _ in range(500):
            sender.sendall(message("STRING", b"text", crc=1))
        sender.sendall(image(picture()))
        next_arrival(feed)
    assert troubles.counts["refused"] == 500
    assert len(told) == 1


def test_a_status_that_is_not_fine_is_told_once_without_its_text() -> None:
    with errors_told() as told, feed_and_sender() as (feed, sender):
        sender.sendall(message("STATUS", status_body(1)))
        for _ in range(3):
            sender.sendall(message("STATUS", status_body(13, b"PHI_CANARY_123\0")))
        sender.sendall(image(picture()))
        next_arrival(feed)
    assert told == ["the sender reports status 13, expected 1 (fine) (status: 1)"]


def test_a_body_that_is_announced_and_does_not_come_takes_no_memory() -> None:
    head = message("SOMETHING", b"", body_bytes=64 << 20)
    with feed_and_sender() as (feed, sender):
        tracemalloc.start()
        sender.sendall(head)
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            assert feed.read(fresh, SLICE_S) is None
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1 << 20


def test_skipped_bodies_of_any_size_take_no_memory() -> None:
    data = memoryview(message("VIDEO", bytes(24 << 20)) + image(picture()))
    arrival = None
    with feed_and_sender() as (feed, sender):
        sender.setblocking(False)
        tracemalloc.start()
        deadline = time.monotonic() + WAIT_S
        while arrival is None and time.monotonic() < deadline:
            with suppress(BlockingIOError):
                data = data[sender.send(data[: 1 << 20]) :]
            arrival = feed.read(fresh, 0.005)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert arrival is not None
    assert np.array_equal(arrival.pixels, picture())
    assert peak < 1 << 20


@pytest.mark.parametrize("seed", range(4))
def test_mutated_streams_end_in_pictures_or_a_told_error(seed: int) -> None:
    """Bytes changed, cut out and put in at random: nothing else ever happens."""
    rng = random.Random(seed)  # noqa: S311 (no secret)
    colour = image_body(picture(2, (5, 7, 3)))
    good = b"".join(
        (
            image(picture(1)),
            message("TRANSFORM", transform_body(np.eye(4)), device="Tool"),
            message("IMAGE", extended(colour, ((b"a", b"b"),)), version=2),
            message("STATUS", status_body(1)),
        )
    )
    outcomes = set()
    for _ in range(40):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data))
            change = rng.choice(("set", "cut", "insert"))
            if change == "set":
                data[at] = rng.randrange(256)
            elif change == "cut":
                del data[at : at + rng.randint(1, 60)]
            else:
                data[at:at] = rng.randbytes(rng.randint(1, 60))
        with feed_and_sender(IgtlWishes(pose_device="Tool")) as (feed, sender):
            sender.sendall(bytes(data) + image(picture(3)))
            sender.shutdown(1)
            began = time.monotonic()
            try:
                while time.monotonic() < began + WAIT_S:
                    feed.read(fresh, SLICE_S)
            except FeedError as error:
                outcomes.add(str(error).split(" ")[0])
            assert time.monotonic() < began + WAIT_S
    assert "the" in outcomes  # the sender closed the connection, with all that it could use
