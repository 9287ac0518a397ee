"""OpenIGTLink messages out of bytes, however they are cut."""

from __future__ import annotations

import numpy as np
import pytest
from igtl_messages import (
    STAMP_NS,
    extended,
    image,
    image_body,
    message,
    picture,
    status_body,
    transform_body,
)

from stages.sources.igtl_header import StreamError, crc64, parse_header, unix_ns
from stages.sources.igtl_reader import MessageReader
from stages.sources.igtl_told import (
    PictureBegins,
    PictureEnds,
    PoseTold,
    Refused,
    StatusTold,
    Told,
)

POSE = np.array([[0.0, -1, 0, 3], [1, 0, 0, 4], [0, 0, 1, 5], [0, 0, 0, 1]])


class Reading:
    """A reader with what it told, and the pixels that came."""

    def __init__(self, *, check_crc: bool = True) -> None:
        self.reader = MessageReader(check_crc=check_crc)
        self.told: list[Told] = []
        self.pixels: list[bytes] = []
        self._room = bytearray()

    def feed(self, data: bytes) -> None:
        while data:
            count = min(len(data), len(self.reader.wanted))
            self.reader.wanted[:count] = data[:count]
            data = data[count:]
            told = self.reader.filled(count)
            if isinstance(told, PictureBegins):
                self._room = bytearray(told.layout.nbytes)
                self.reader.place(memoryview(self._room))
            elif told is not None:
                self.told.append(told)
                if isinstance(told, PictureEnds):
                    self.pixels.append(bytes(self._room))


def read(data: bytes) -> Reading:
    reading = Reading()
    reading.feed(data)
    return reading


def v2(kind: str, content: bytes) -> bytes:
    return message(kind, extended(content, ((b"key", b"value"), (b"k", b""))), version=2)


STREAM = b"".join(
    (
        image(picture(0)),
        v2("IMAGE", image_body(picture(1))),
        message("TRANSFORM", transform_body(POSE), device="Tool"),
        message("STRING", b"of a type that is skipped"),
        message("GET_IMAGE", b""),
        v2("STATUS", status_body(13, b"text\0")),
        message("IMAGE", extended(image_body(picture(2)), own=20), version=3, device="x" * 20),
    )
)


def check_stream(reading: Reading) -> None:
    kinds = [type(told) for told in reading.told]
    assert kinds == [PictureEnds, PictureEnds, PoseTold, StatusTold, PictureEnds]
    assert reading.pixels == [picture(index).tobytes() for index in range(3)]
    assert not reading.reader.within_message


def test_a_stream_is_read() -> None:
    reading = read(STREAM)
    check_stream(reading)
    first, _, pose, status, last = reading.told
    assert isinstance(first, PictureEnds)
    assert first.header.unix_ns == STAMP_NS
    assert (first.header.device, first.layout.shape) == ("Probe", (6, 8))
    assert isinstance(pose, PoseTold)
    assert pose.header.device == "Tool"
    assert np.array_equal(pose.matrix, POSE)
    assert isinstance(status, StatusTold)
    assert status.code == 13
    assert isinstance(last, PictureEnds)
    assert last.header.device == "x" * 20


@pytest.mark.parametrize("step", [1, 7, 57, 58, 59, 4096])
def test_pieces_of_any_length_make_the_same_stream(step: int) -> None:
    reading = Reading()
    for start in range(0, len(STREAM), step):
        reading.feed(STREAM[start : start + step])
    check_stream(reading)


def test_every_split_point_makes_the_same_stream() -> None:
    for cut in range(1, len(STREAM)):
        reading = Reading()
        reading.feed(STREAM[:cut])
        reading.feed(STREAM[cut:])
        check_stream(reading)


def test_every_flipped_bit_of_a_body_is_caught() -> None:
    good = image(picture(0, (2, 3)))
    for bit in range(58 * 8, len(good) * 8):
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        reading = read(bytes(damaged) + image(picture(1)))
        assert [type(told) for told in reading.told] == [Refused, PictureEnds], bit
        assert reading.told[0] == Refused("IMAGE damaged: its check sum is wrong"), bit


def test_damage_in_skipped_types_is_caught_too() -> None:
    assert read(message("STRING", b"text", crc=1)).told == [
        Refused("STRING damaged: its check sum is wrong")
    ]


def test_a_wrong_check_sum_passes_where_none_is_looked_at() -> None:
    reading = Reading(check_crc=False)
    reading.feed(image(picture(), crc=0))
    assert [type(told) for told in reading.told] == [PictureEnds]


def test_an_unwanted_picture_is_passed_over() -> None:
    reader = MessageReader()
    data = image(picture(0)) + message("STATUS", status_body(1))
    told: list[Told] = []
    while data:
        count = min(len(data), len(reader.wanted))
        reader.wanted[:count] = data[:count]
        data = data[count:]
        one = reader.filled(count)
        if isinstance(one, PictureBegins):
            assert reader.place(None) is None
        elif one is not None:
            told.append(one)
    assert [type(one) for one in told] == [StatusTold]


def test_the_check_sum_is_that_of_the_protocol() -> None:
    """The check value of CRC-64/ECMA-182 in the catalogue of parametrised CRC algorithms."""
    assert crc64(b"123456789") == 0x6C40DF5F0B497347
    assert crc64(b"6789", crc64(b"12345")) == crc64(b"123456789")


@pytest.mark.parametrize(
    ("seconds", "fraction", "expected"),
    [
        (0, 0, None),
        (1, 0, 1_000_000_000),
        (1, 1 << 31, 1_500_000_000),
        (1, (1 << 32) - 1, 2_000_000_000),
        ((1 << 32) - 1, 0, 4_294_967_295_000_000_000),
    ],
)
def test_time_stamps_are_fixed_point(seconds: int, fraction: int, expected: int | None) -> None:
    assert unix_ns(seconds, fraction) == expected


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"version": 0}, "version 0, expected 1 to 3"),
        ({"version": 99}, "version 99, expected 1 to 3"),
        ({"kind": b"\xff\xfeIMAGE"}, "names no type"),
        ({"kind": b""}, "names no type"),
        ({"kind": b"IM\nAGE"}, "names no type"),
        ({"body_bytes": 1 << 62}, "a body of 4611686018427387904 bytes, expected 67108864"),
        ({"body_bytes": (64 << 20) + 1}, "a body of 67108865 bytes"),
    ],
)
def test_what_is_no_header_ends_the_stream(wrong: dict[str, object], expected: str) -> None:
    header = {"kind": "IMAGE", "body": b"", **wrong}
    with pytest.raises(StreamError, match=expected):
        read(message(**header))  # type: ignore[arg-type]


def test_a_name_that_is_no_ascii_is_still_a_name() -> None:
    header = parse_header(message("STATUS", b"", device=b"Pr\xf6be\0junk")[:58])
    assert header.device == "Pr\N{REPLACEMENT CHARACTER}be"
    assert header.type == "STATUS"
