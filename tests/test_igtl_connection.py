"""OpenIGTLink connections: how they begin, stall, are flooded, and end."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest
from igtl_messages import (
    image,
    message,
    picture,
    transform_body,
)
from igtl_peers import (
    SLICE_S,
    WAIT_S,
    Listener,
    errors_told,
    feed_and_sender,
    fresh,
    next_arrival,
    outcome,
)
from numpy.typing import NDArray

from stages.sources.feed import FeedError
from stages.sources.igtl_dial import Dialer
from stages.sources.igtl_feed import IgtlFeed, IgtlWishes
from stages.sources.igtl_lookup import Lookup
from stages.sources.troubles import Troubles


@pytest.fixture
def told() -> Iterator[list[str]]:
    """The messages of `error` events."""
    with errors_told() as messages:
        yield messages


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


def test_a_door_that_is_closed_while_it_is_listened_at_ends_the_feed() -> None:
    with Listener() as us:
        feed = us.feed()
        assert feed.read(fresh, 0.0) is None
    with pytest.raises(FeedError, match="listening is over"):
        feed.read(fresh, 0.0)
    feed.close()
