"""A feed of OpenIGTLink pictures over real sockets: what it delivers."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from igtl_messages import (
    IDENTITY,
    MS,
    QUARTER,
    STAMP_NS,
    STAMP_S,
    extended,
    image,
    image_body,
    message,
    picture,
)
from igtl_peers import (
    SLICE_S,
    WAIT_S,
    errors_told,
    feed_and_sender,
    next_arrival,
)
from numpy.typing import NDArray

from stages.sources.igtl_feed import IgtlWishes
from stages.sources.region import Region, RegionError


@pytest.fixture
def told() -> Iterator[list[str]]:
    """The messages of `error` events."""
    with errors_told() as messages:
        yield messages


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


def test_stamps_are_kept_to_the_nanosecond() -> None:
    with feed_and_sender() as (feed, sender):
        sender.sendall(image(picture(), seconds=STAMP_S, fraction=1))
        assert next_arrival(feed).captured_unix_ns == STAMP_S * 1_000_000_000
        sender.sendall(image(picture(), seconds=STAMP_S, fraction=(1 << 32) - 5))
        assert next_arrival(feed).captured_unix_ns == STAMP_S * 1_000_000_000 + 999_999_999
