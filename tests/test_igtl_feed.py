"""A feed of OpenIGTLink pictures over real sockets."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from igtl_messages import (
    IDENTITY,
    QUARTER,
    STAMP_NS,
    STAMP_S,
    extended,
    image,
    image_body,
    message,
    picture,
    transform_body,
)
from igtl_peers import SLICE_S, WAIT_S, Listener, errors_told, feed_and_sender, fresh, next_arrival
from numpy.typing import NDArray

from stages.sources.feed import Arrival, FeedError
from stages.sources.igtl_dial import Dialer
from stages.sources.igtl_feed import IgtlFeed, IgtlWishes
from stages.sources.igtl_lookup import Lookup
from stages.sources.region import Region, RegionError
from stages.sources.troubles import Troubles

MS = (1 << 32) // 1000
"""A millisecond in units of 2^-32 s."""


@pytest.fixture
def told() -> Iterator[list[str]]:
    """The messages of `error` events."""
    with errors_told() as messages:
        yield messages


def outcome(feed: IgtlFeed, wait_s: float = WAIT_S) -> str:
    """Why the connection ended."""
    deadline = time.monotonic() + wait_s
    try:
        while time.monotonic() < deadline:
            assert feed.read(fresh, SLICE_S) is None
    except FeedError as error:
        return str(error)
    raise TimeoutError("the connection did not end")


# Pictures


@pytest.mark.parametrize("shape", [(6, 8), (5, 7, 3)])
@pytest.mark.parametrize("version", [1, 2, 3])
def test_pictures_arrive_pixel_by_pixel(shape: tuple[int, ...], version: int) -> None:
    with feed_and_sender() as (feed, sender):
        for index in range(3):
            body = image_body(picture(index, shape))
            sender.sendall(
                message("IMAGE", body if version == 1 else extended(body), version=version)
            )
            arrival = next_arrival(feed)
            assert np.array_equal(arrival.pixels, picture(index, shape))
            assert arrival.captured_unix_ns == STAMP_NS
            assert abs(time.monotonic_ns() - arrival.captured_ns) < WAIT_S * 1e9


def test_eight_bits_are_received_where_the_buffer_is() -> None:
    given: list[NDArray[np.uint8]] = []

    def buffer(shape: tuple[int, ...]) -> NDArray[np.uint8]:
        given.append(np.zeros(shape, np.uint8))
        return given[-1]

    with feed_and_sender() as (feed, sender):
        sender.sendall(image(picture()))
        arrival = None
        while arrival is None:
            arrival = feed.read(buffer, SLICE_S)
    assert arrival.pixels is given[0]
    assert len(given) == 1


@pytest.mark.parametrize("order", ["<u2", ">u2"])
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3)])
@pytest.mark.parametrize("bits", [10, 16])
def test_sixteen_bits_keep_the_upper_eight(order: str, shape: tuple[int, ...], bits: int) -> None:
    stored = np.random.default_rng(0).integers(0, 1 << bits, shape).astype(order)
    stored.flat[:3] = (0, (1 << bits) - 1, 65535)
    with feed_and_sender(IgtlWishes(stored_bits=bits)) as (feed, sender):
        sender.sendall(image(stored))
        arrival = next_arrival(feed)
    expected = [min(int(value) // (1 << (bits - 8)), 255) for value in stored.flat]
    assert arrival.pixels.dtype == np.uint8
    assert arrival.pixels.reshape(-1).tolist() == expected


@pytest.mark.parametrize("kind", ["u1", ">u2"])
@pytest.mark.parametrize("shape", [(6, 8), (6, 8, 3)])
def test_only_the_region_is_taken(kind: str, shape: tuple[int, ...]) -> None:
    pixels = picture(0, shape)
    sent = pixels if kind == "u1" else (pixels.astype(kind) << 8)
    with feed_and_sender(IgtlWishes(roi=Region(y=2, x=3, height=3, width=4))) as (feed, sender):
        sender.sendall(image(sent))
        arrival = next_arrival(feed)
    assert np.array_equal(arrival.pixels, pixels[2:5, 3:7])
    assert (arrival.origin_yx, arrival.full_hw) == ((2, 3), (6, 8))
    assert arrival.pose is not None
    assert np.array_equal(arrival.pose[:3, 3], [-3.5, -2.5, 0]), "still of the whole picture"


def test_a_picture_without_the_region_is_told() -> None:
    with feed_and_sender(IgtlWishes(roi=Region(y=2, x=3, height=3, width=4))) as (feed, sender):
        sender.sendall(image(picture(0, (4, 8))))
        with pytest.raises(RegionError, match="expected a region of the 8x4 picture"):
            next_arrival(feed)


def test_spacing_is_the_length_of_the_vectors() -> None:
    matrix = (0.0, 0.3, 0.4, 0.0, -0.16, 0.12, 1.0, 0.0, 0.0, 10.0, 20.0, 30.0)
    with feed_and_sender() as (feed, sender):
        sender.sendall(message("IMAGE", image_body(picture(), matrix=matrix)))
        arrival = next_arrival(feed)
    assert arrival.spacing_mm == pytest.approx((0.2, 0.5), rel=1e-6)


def test_spacing_stays_while_only_its_last_digits_differ() -> None:
    def told(x: float) -> bytes:
        return message("IMAGE", image_body(picture(), matrix=(x, *IDENTITY[1:])))

    with feed_and_sender() as (feed, sender):
        spacings = []
        for x in (0.1, 0.1 + 1e-8, 0.1 - 2e-8, 0.2, 0.2 + 1e-8):
            sender.sendall(told(x))
            spacings.append(next_arrival(feed).spacing_mm)
    assert spacings[0] == spacings[1] == spacings[2] != spacings[3] == spacings[4]


def test_time_not_told_is_not_invented() -> None:
    with feed_and_sender() as (feed, sender):
        sender.sendall(image(picture(), seconds=0, fraction=0))
        assert next_arrival(feed).captured_unix_ns is None


def test_what_waited_on_its_way_is_as_old_as_its_stamp_says() -> None:
    with feed_and_sender() as (feed, sender):
        sender.sendall(image(picture(0)))
        first = next_arrival(feed)
        time.sleep(0.5)
        sender.sendall(image(picture(1), fraction=QUARTER + 10 * MS))
        second = next_arrival(feed)
        sender.sendall(image(picture(1), seconds=0, fraction=0))
        third = next_arrival(feed)
    assert second.captured_ns - first.captured_ns == pytest.approx(10e6, abs=2e6)
    assert third.captured_ns - first.captured_ns >= 500e6


# Devices


def test_the_first_device_is_kept_to() -> None:
    with feed_and_sender() as (feed, sender):
        for index, device in enumerate("ABBA"):
            sender.sendall(image(picture(index), device=device))
        for index in (0, 3):
            assert np.array_equal(next_arrival(feed).pixels, picture(index))


def test_the_device_asked_for_is_taken(told: list[str]) -> None:
    with feed_and_sender(IgtlWishes(device="B")) as (feed, sender):
        for index, device in enumerate("ABA"):
            sender.sendall(image(picture(index), device=device))
        assert np.array_equal(next_arrival(feed).pixels, picture(1))
    assert told == ["pictures of device 'A' are left out, expected those of 'B' (left out: 1)"]


# Poses

TOOL = np.array([[0.0, -1, 0, 10], [1, 0, 0, 20], [0, 0, 1, 30], [0, 0, 0, 1]])
POSED = IgtlWishes(pose_device="Tool", max_pose_skew_ns=20_000_000)


def tool(index: int = 0, after_ms: int = 0, device: str = "Tool", **header: Any) -> bytes:
    """A TRANSFORM stamped so much later than the pictures, moved by `index` mm."""
    matrix = TOOL.copy()
    matrix[2, 3] += index
    fraction = QUARTER + after_ms * MS
    body = transform_body(matrix)
    return message("TRANSFORM", body, **{"device": device, "fraction": fraction, **header})


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
        ([tool(1, -15), image(picture()), tool(2, 5)], 2.0),
        ([tool(1, -5), image(picture()), tool(2, 15)], 1.0),
        ([tool(1, -5), tool(2, 4), image(picture())], 2.0),
        ([tool(1, -25), image(picture()), tool(2, 25)], None),
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
        sender.sendall(tool(0, -5) + image(picture(0)) + image(picture(1)))
        assert np.array_equal(next_arrival(feed).pixels, picture(0))
        assert time.monotonic() - began < 5.0
        sender.sendall(tool(3))
        second = next_arrival(feed)
        assert np.array_equal(second.pixels, picture(1))
        assert z_of(second) == 3.0


def test_a_picture_that_came_slowly_still_waits_for_the_transform_behind_it() -> None:
    with feed_and_sender(POSED) as (feed, sender):
        data = image(picture())
        sender.sendall(tool(0, -5) + data[:100])
        assert feed.read(fresh, 0.1) is None
        sender.sendall(data[100:] + tool(7))
        assert z_of(next_arrival(feed)) == 7.0


def test_without_stamps_arrival_times_are_compared() -> None:
    with feed_and_sender(POSED) as (feed, sender):
        sender.sendall(tool(4, seconds=0, fraction=0) + image(picture()))
        assert z_of(next_arrival(feed)) == 4.0
        time.sleep(0.1)
        sender.sendall(image(picture()))
        assert z_of(next_arrival(feed)) is None


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


# The connection


def test_pieces_with_pauses_make_whole_pictures() -> None:
    data = image(picture())
    with feed_and_sender() as (feed, sender):
        for cut in (1, 57, 58, 59, 129, 130, 131, len(data) - 1):
            sender.sendall(data[:cut])
            assert feed.read(fresh, 0.01) is None
            sender.sendall(data[cut:])
            assert np.array_equal(next_arrival(feed).pixels, picture())


def test_a_message_that_drips_is_given_up_after_two_seconds() -> None:
    with feed_and_sender() as (feed, sender):
        began = time.monotonic()
        reason = ""
        for byte in image(picture()):
            sender.sendall(bytes([byte]))
            try:
                assert feed.read(fresh, 0.1) is None
            except FeedError as error:
                reason = str(error)
                break
    assert reason == "a message was not complete after 2 s"
    assert 1.9 < time.monotonic() - began < WAIT_S


def test_waiting_between_messages_is_not_dripping() -> None:
    with feed_and_sender() as (feed, sender):
        sender.sendall(image(picture(0)))
        next_arrival(feed)
        deadline = time.monotonic() + 2.5
        while time.monotonic() < deadline:
            assert feed.read(fresh, 0.25) is None
        sender.sendall(image(picture(1)))
        assert np.array_equal(next_arrival(feed).pixels, picture(1))


@pytest.mark.parametrize(
    "data",
    [
        message("STRING", b"skipped"),
        message("STRING", bytes(1 << 20)),
        message("STRING", b"damaged", crc=1),
        message("TRANSFORM", transform_body(np.eye(4)), device="Tool"),
        image(picture(), device="Other"),
    ],
    ids=["skipped", "large", "damaged", "transforms", "of another device"],
)
def test_a_flood_holds_no_read_up(data: bytes) -> None:
    over = threading.Event()
    with feed_and_sender(IgtlWishes(device="Probe", pose_device="Tool")) as (feed, sender):

        def flood() -> None:
            with suppress(OSError):
                while not over.is_set():
                    sender.sendall(data * max(1, 1000 // len(data)))

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            for _ in range(3):
                began = time.monotonic()
                assert feed.read(fresh, 0.1) is None
                assert 0.09 < time.monotonic() - began < 1.0
        finally:
            over.set()
            feed.close()
            thread.join()


def test_a_reader_that_is_held_up_is_not_the_senders_fault() -> None:
    def slow(shape: tuple[int, ...]) -> NDArray[np.uint8]:
        time.sleep(2.2)  # all memory is in use
        return fresh(shape)

    with feed_and_sender() as (feed, sender):
        sender.sendall(image(picture()))
        arrival = None
        while arrival is None:
            arrival = feed.read(slow, SLICE_S)
        assert np.array_equal(arrival.pixels, picture())
        data = image(picture(1))
        sender.sendall(data[:100])
        assert feed.read(fresh, SLICE_S) is None
        time.sleep(2.2)
        sender.sendall(data[100:])
        assert np.array_equal(next_arrival(feed).pixels, picture(1))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "the sender closed the connection between messages"),
        (image(picture())[:30], "the sender closed the connection within a message"),
        (image(picture())[:99], "the sender closed the connection within a message"),
        (image(picture())[:-1], "the sender closed the connection within a message"),
        (b"HTTP/1.1 400 Bad Request\r\n" * 9, "a header names version 18516, expected 1 to 3"),
    ],
    ids=["nothing", "half a header", "half an image's header", "a byte short", "another protocol"],
)
def test_how_a_connection_ends_is_told(data: bytes, expected: str) -> None:
    with feed_and_sender() as (feed, sender):
        sender.sendall(data)
        sender.shutdown(socket.SHUT_WR)
        assert outcome(feed) == expected


def test_a_reset_is_told() -> None:
    with feed_and_sender() as (feed, sender):
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sender.close()
        assert outcome(feed).startswith("the connection broke: ")


def test_a_refused_connection_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    feed = IgtlFeed(Dialer(Lookup("127.0.0.1", port), "here"), IgtlWishes(), Troubles("us"))
    assert outcome(feed) == "here: Connection refused"
    feed.close()
    feed.close()


def test_every_address_of_a_name_is_tried() -> None:
    """`localhost` may be ::1 first, where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        feed = IgtlFeed(Dialer(Lookup("localhost", port), "x"), IgtlWishes(), Troubles("us"))
        server.settimeout(0.0)
        for _ in range(100):
            assert feed.read(fresh, 0.05) is None
            try:
                sender, _ = server.accept()
                break
            except BlockingIOError:
                continue
        with sender:
            sender.sendall(image(picture()))
            assert np.array_equal(next_arrival(feed).pixels, picture())
        feed.close()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "-" * 70, "a..b"])
def test_an_unknown_name_is_told(host: str) -> None:
    feed = IgtlFeed(Dialer(Lookup(host, 1), "there"), IgtlWishes(), Troubles("us"))
    assert outcome(feed, 30.0).startswith("there: ")
    feed.close()


# As a server


def test_a_sender_is_let_in_and_others_turned_away(told: list[str]) -> None:
    with Listener() as us:
        feed = us.feed()
        with us.sender() as first:
            first.sendall(image(picture(0)))
            assert np.array_equal(next_arrival(feed).pixels, picture(0))
            with us.sender() as second:
                second.sendall(image(picture(9)))
                first.sendall(image(picture(1)))
                assert np.array_equal(next_arrival(feed).pixels, picture(1))
                assert feed.read(fresh, SLICE_S) is None
                with suppress(ConnectionResetError):  # which unread bytes make of a close
                    assert second.recv(1) == b""
        feed.close()
    assert told == ["another sender was turned away, expected one (turned away: 1)"]


def test_the_next_sender_is_let_in_by_the_next_feed() -> None:
    with Listener() as us:
        for index in range(3):
            feed = us.feed()
            with us.sender() as sender:
                sender.sendall(image(picture(index)))
                assert np.array_equal(next_arrival(feed).pixels, picture(index))
            assert outcome(feed) == "the sender closed the connection between messages"
            feed.close()


def test_a_sender_that_left_and_came_again_is_not_turned_away() -> None:
    with Listener() as us:
        feed = us.feed()
        with us.sender() as first:
            first.sendall(image(picture(0)) + image(picture(1)))
            assert np.array_equal(next_arrival(feed).pixels, picture(0))
        with us.sender() as again:
            again.sendall(image(picture(2)))
            assert np.array_equal(next_arrival(feed).pixels, picture(1))
            assert outcome(feed) == "the sender closed the connection between messages"
            feed.close()
            feed = us.feed()
            assert np.array_equal(next_arrival(feed).pixels, picture(2))
        feed.close()


def test_those_who_connect_and_say_nothing_keep_nobody_out() -> None:
    with Listener() as us:
        feed = us.feed()
        silent = []
        for _ in range(20):
            silent.append(us.sender())
            us.sender().close()
            assert feed.read(fresh, 0.0) is None
        with us.sender() as sender:
            sender.sendall(image(picture()))
            assert np.array_equal(next_arrival(feed).pixels, picture())
        for one in silent:
            one.close()
        feed.close()


def test_a_silent_caller_keeps_its_place_from_feed_to_feed() -> None:
    with Listener() as us, us.sender() as sender:
        for _ in range(2):
            feed = us.feed()
            assert feed.read(fresh, 0.1) is None
            feed.close()
        sender.sendall(image(picture()))
        feed = us.feed()
        assert np.array_equal(next_arrival(feed).pixels, picture())
        feed.close()


def test_stamps_are_kept_to_the_nanosecond() -> None:
    with feed_and_sender() as (feed, sender):
        sender.sendall(image(picture(), seconds=STAMP_S, fraction=1))
        assert next_arrival(feed).captured_unix_ns == STAMP_S * 1_000_000_000
        sender.sendall(image(picture(), seconds=STAMP_S, fraction=(1 << 32) - 5))
        assert next_arrival(feed).captured_unix_ns == STAMP_S * 1_000_000_000 + 999_999_999
