"""Frames on the wire: what goes in comes out, and bytes of no use are refused."""

from __future__ import annotations

import json
import math
import pickle
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.wire_frames import MAX_SEQ, FrameMessage, decode_frame, encode_frame
from stages.wire_messages import WireError

RGB = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
FRAME = FrameMessage(session=7, seq=0, pixels=RGB)


def raw(header: dict[str, Any] | bytes, payload: bytes, topic: str = "frame/cam1") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return topic.encode() + b"\0" + struct.pack("<I", len(text)) + text + payload


def header(**changes: Any) -> dict[str, Any]:
    """That of `FRAME`, changed; None leaves a field out. Those of `pixels` have their names."""
    message = encode_frame("cam1", FRAME)
    start = len(b"frame/cam1\0") + 4
    made: dict[str, Any] = json.loads(
        message[start : start + struct.unpack_from("<I", message, 11)[0]]
    )
    for name, value in changes.items():
        place = made["arrays"][0] if name in (*made["arrays"][0], "strides") else made
        if value is None:
            del place[name]
        else:
            place[name] = value
    return made


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (1, 1), (1, 1, 3)])
def test_what_goes_in_comes_out(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    sent = FrameMessage(
        session=2**63 - 1,
        seq=MAX_SEQ,
        pixels=rng.integers(0, 256, shape, np.uint8),
        captured_ns=5,
        captured_unix_ns=1_700_000_000_000_000_001,
        spacing_mm=(0.1, 0.25),
        pose=rng.random((4, 4)),
    )
    message = encode_frame("cam1", sent)
    got = decode_frame(memoryview(message))
    assert np.array_equal(got.pixels, sent.pixels)
    assert np.shares_memory(got.pixels, np.frombuffer(message, np.uint8))
    assert (got.session, got.seq) == (sent.session, sent.seq)
    assert (got.captured_ns, got.captured_unix_ns) == (5, sent.captured_unix_ns)
    assert got.spacing_mm == (0.1, 0.25)
    assert got.pose is not None
    assert np.array_equal(got.pose, sent.pose)  # type: ignore[arg-type]


def test_views_of_any_stride_are_sent_as_they_look() -> None:
    turned = RGB[::-1, ::2, ::-1]
    got = decode_frame(memoryview(encode_frame("cam1", FrameMessage(1, 0, turned))))
    assert np.array_equal(got.pixels, turned)


def test_unknown_fields_and_arrays_are_ignored() -> None:
    made = header(lens="35 mm")
    made["arrays"].append({"name": "depth", "dtype": "float32"})
    got = decode_frame(memoryview(raw(made, RGB.tobytes())))
    assert np.array_equal(got.pixels, RGB)
    assert (got.captured_ns, got.captured_unix_ns, got.spacing_mm, got.pose) == (None,) * 4


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was loaded",))


PIXELS = RGB.tobytes()
BAD: list[tuple[bytes, str]] = [
    (b"", "topic"),
    (pickle.dumps(Evil()), "topic"),
    (b"frame/cam1\0" + pickle.dumps(Evil()), "header"),
    (raw(pickle.dumps(Evil()), PIXELS), "JSON"),
    (b"frame/cam1\0", "too few"),
    (raw(b"{}", b"")[:-1], "header of 2 bytes"),
    (raw({"a": "x" * 10_000_000}, PIXELS), "expected at most 1048576"),
    (raw(b"[" * 100_000, PIXELS), "JSON"),
    (raw(b"[]", PIXELS), "expected an object"),
    (raw(b"{}", PIXELS), "version"),
    (raw(header(version=2), PIXELS), "version 2"),
    (raw(header(kind="result"), PIXELS), "does not name a frame"),
    (raw(header(), PIXELS, "frame/cam2"), "does not name a frame"),
    (raw(header(source_id=None), PIXELS), "source_id"),
    (raw(header(session=None), PIXELS), "session"),
    (raw(header(session=-1), PIXELS), "session"),
    (raw(header(session=2**63), PIXELS), "session"),
    (raw(header(seq=None), PIXELS), "seq"),
    (raw(header(seq=-1), PIXELS), "seq"),
    (raw(header(seq=1.5), PIXELS), "seq"),
    (raw(header(seq=2**60), PIXELS), "seq"),
    (raw(header(captured_ns="now"), PIXELS), "captured_ns"),
    (raw(header(captured_unix_ns=-5), PIXELS), "captured_unix_ns"),
    (raw(header(spacing_mm=[1]), PIXELS), "spacing_mm"),
    (raw(header(spacing_mm=[1, 0]), PIXELS), "above 0"),
    (raw(header(spacing_mm=[1, -1]), PIXELS), "above 0"),
    (raw(json.dumps(header(spacing_mm=[1, math.nan])).encode(), PIXELS), "NaN is not JSON"),
    (raw(header(pose=[1.0] * 15), PIXELS), "pose"),
    (raw(header(pose=["a"] * 16), PIXELS), "pose"),
    (raw(header(arrays=None), PIXELS), "arrays"),
    (raw(header(arrays=[]), PIXELS), "no array is named pixels"),
    (raw(header(arrays=header()["arrays"] * 2), PIXELS), "two arrays"),
    (raw(header(dtype="O"), PIXELS), "'O', expected uint8"),
    (raw(header(dtype="object"), PIXELS), "expected uint8"),
    (raw(header(dtype="uint16"), PIXELS), "expected uint8"),
    (raw(header(dtype=None), PIXELS), "dtype"),
    (raw(header(encoding="jpeg"), PIXELS), "encoding"),
    (raw(header(strides=[-9, 3, 1]), PIXELS), "strides"),
    (raw(header(shape=[2, 3, 4]), PIXELS), "RGB"),
    (raw(header(shape=[18]), PIXELS), "RGB"),
    (raw(header(shape=[1, 2, 3, 3]), PIXELS), "RGB"),
    (raw(header(shape=[2, -3, 3]), PIXELS), "shape"),
    (raw(header(shape=[0, 3, 3]), PIXELS), "shape"),
    (raw(header(shape=[2, 2**62, 3]), PIXELS), "shape"),
    (raw(header(shape=[16_000, 16_000]), PIXELS), "at most 16777216 pixels"),
    (raw(header(shape=[2, 4, 3]), PIXELS), "bytes"),
    (raw(header(shape=[2, 3]), PIXELS), "bytes"),
    (raw(header(bytes=17), PIXELS), "bytes"),
    (raw(header(), PIXELS[:-1]), "bytes"),
    (raw(header(), b""), "bytes"),
    (raw(header(offset=1), PIXELS), "offset"),
    (raw(header(offset=-1), PIXELS), "offset"),
    (raw(header(offset=2**62), PIXELS), "offset"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "words"), BAD)
def test_bytes_of_no_use_are_refused_in_one_line(message: bytes, words: str) -> None:
    with pytest.raises(WireError, match=re.escape(words)) as caught:
        decode_frame(memoryview(message))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_the_message_that_those_were_made_of_is_good() -> None:
    assert np.array_equal(decode_frame(memoryview(raw(header(), PIXELS))).pixels, RGB)


def test_whatever_changes_on_the_way_only_a_wire_error_leaves() -> None:
    rng = np.random.default_rng(5)
    good = np.frombuffer(encode_frame("cam1", FRAME), np.uint8)
    refused = 0
    for _ in range(4000):
        bad = good.copy()
        places = rng.integers(0, len(bad), rng.integers(1, 6))
        bad[places] = rng.integers(0, 256, len(places))
        try:
            cut = rng.integers(1, len(bad)) if rng.random() < 0.3 else len(bad)
            decode_frame(memoryview(bad.tobytes()[:cut]))
        except WireError:
            refused += 1
    assert 2000 < refused < 4000


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((2, 3), np.uint16),
        np.zeros((2, 3), np.bool_),
        np.zeros((2, 3, 4), np.uint8),
        np.zeros((2, 0), np.uint8),
        np.zeros(6, np.uint8),
    ],
)
def test_what_a_reader_would_refuse_is_not_sent(pixels: Any) -> None:
    with pytest.raises(WireError, match="pixels"):
        encode_frame("cam1", FrameMessage(1, 0, pixels))


def test_the_example_of_the_documentation_is_right() -> None:
    page = (Path(__file__).parent.parent / "docs" / "wire.md").read_text()
    found = re.search(r"```hex frame\n(.*?)```", page, re.DOTALL)
    assert found is not None
    message = bytes.fromhex(found[1])
    got = decode_frame(memoryview(message))
    assert got.pixels.tolist() == [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]]
    assert (got.session, got.seq, got.spacing_mm) == (1234, 17, (0.5, 0.5))
    assert encode_frame("cam1", got) == message


# Boxes that come with a picture

FOUND = np.array([[1, 2, 3, 4, 0.5, 0], [0, 0, np.nan, 9, 2, 7]], np.float32)


def with_boxes(**changes: Any) -> bytes:
    """A message with `FOUND`; `changes` are to the description of that array."""
    made = header()
    place = {"name": "boxes", "dtype": "float32", "shape": [2, 6], "encoding": "raw",
             "offset": RGB.nbytes, "bytes": FOUND.nbytes}  # fmt: skip
    made["arrays"].append({key: v for key, v in (place | changes).items() if v is not None})
    return raw(made, RGB.tobytes() + FOUND.tobytes())


@pytest.mark.parametrize("boxes", [FOUND, FOUND[:0], FOUND[::-1]])
def test_boxes_come_out_as_they_went_in(boxes: Any) -> None:
    """Their values are checked by whoever uses them; none at all is not the same as no array."""
    message = encode_frame("cam1", FrameMessage(1, 0, RGB, boxes=boxes))
    got = decode_frame(memoryview(message))
    assert np.array_equal(got.pixels, RGB)
    assert got.boxes is not None
    assert np.array_equal(got.boxes, boxes, equal_nan=True)
    assert decode_frame(memoryview(encode_frame("cam1", FRAME))).boxes is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dtype": "float64"}, "boxes: dtype: got 'float64', expected float32"),
        ({"shape": [2, 5]}, "boxes: shape: got (2, 5), expected (n, 6), n at most 300"),
        ({"shape": [12]}, "boxes: shape: got (12,), expected (n, 6)"),
        ({"shape": [301, 6]}, "n at most 300"),
        ({"shape": [3, 6]}, "bytes"),
        ({"offset": RGB.nbytes + 1}, "offset"),
        ({"offset": -1}, "offset"),
        ({"encoding": "zip"}, "encoding: got 'zip', expected raw"),
        ({"strides": [24, 4]}, "strides"),
        ({"name": "pixels"}, "two arrays are named pixels"),
        ({"bytes": None}, "bytes"),
    ],
)
def test_an_array_of_boxes_that_does_not_fit(changes: dict[str, Any], expected: str) -> None:
    assert decode_frame(memoryview(with_boxes())).boxes is not None
    with pytest.raises(WireError, match=re.escape(expected)):
        decode_frame(memoryview(with_boxes(**changes)))


def test_boxes_of_another_shape_are_not_sent() -> None:
    with pytest.raises(WireError, match="expected \\(n, 6\\)"):
        encode_frame("cam1", FrameMessage(1, 0, RGB, boxes=np.zeros((2, 4), np.float32)))
