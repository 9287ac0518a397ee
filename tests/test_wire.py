"""The wire format: what goes in comes out, and nothing else is believed."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import re
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from result_packets import random_packet

from stages.packets import HostPacket
from stages.wire import (
    MAX_MESSAGE_BYTES,
    ResultMessage,
    StateMessage,
    WireError,
    decode,
    encode_result,
    encode_state,
    topic,
)

ROOT = Path(__file__).parents[1]
NAMES = ("vessel", "needle")


def split(message: bytes) -> tuple[bytes, dict[str, Any], bytes]:
    """Topic, header and payload, read independently of the decoder."""
    name, _, rest = message.partition(b"\0")
    (length,) = struct.unpack("<I", rest[:4])
    return name, json.loads(rest[4 : 4 + length]), rest[4 + length :]


def join(name: bytes, header: object, payload: bytes) -> bytes:
    raw = json.dumps(header).encode()
    return name + b"\0" + struct.pack("<I", len(raw)) + raw + payload


def result(message: bytes) -> ResultMessage:
    decoded = decode(message)
    assert isinstance(decoded, ResultMessage)
    return decoded


def a_message(n: int = 2, size_hw: tuple[int, int] = (13, 21)) -> bytes:
    return encode_result(random_packet(np.random.default_rng(5), n, size_hw)[0], 3, NAMES)


@pytest.mark.parametrize("seed", range(60))
def test_round_trip_of_random_packets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size_hw = (int(rng.integers(1, 70)), int(rng.integers(1, 70)))
    packet, masks = random_packet(rng, int(rng.integers(0, 6)), size_hw, frame_id=seed)
    message = encode_result(packet, seed + 7, NAMES)
    got = result(message)

    assert message.startswith(topic("result", "cam1"))
    assert (got.seq, got.source_id, got.frame_id) == (seed + 7, "cam1", seed)
    assert (got.size_hw, got.identity, got.stale) == (size_hw, "tracked", False)
    assert (got.captured_ns, got.grabbed_ns) == (packet.info.captured_ns, packet.info.grabbed_ns)
    assert np.array_equal(got.masks(), masks)
    assert len(got.objects) == len(packet.object_ids)
    for row, item in enumerate(got.objects):
        assert np.array_equal(got.mask(row), masks[row])
        assert item.id == packet.object_ids[row]
        assert item.class_id == packet.class_ids[row]
        assert item.label == {0: "vessel", 1: "needle"}.get(item.class_id)
        assert item.mask_age_frames == packet.mask_age_frames[row]
        assert item.box == tuple(packet.mask_boxes_xyxy[row])
        assert item.area_px == packet.area_px[row]
        for name in ("score", "presence", "quality"):
            sent = getattr(packet, {"score": "scores"}.get(name, name))[row]
            assert np.float32(getattr(item, name)) == sent
        assert np.array_equal(np.float32(item.centroid), packet.centroids_xy[row])


def test_masks_are_cut_to_their_box_and_laid_out_as_numpy_packbits_does() -> None:
    packet, _ = random_packet(np.random.default_rng(1), 0, (40, 50))
    mask = np.zeros((1, 40, 50), np.bool_)
    mask[0, 10:13, 9:20] = True
    packet = one_object(packet, mask)
    _, header, payload = split(encode_result(packet, 0))
    (array,) = header["arrays"]
    assert array["shape"] == [1, 40, 50]
    assert array["rows"] == [{"box": [8, 10, 24, 13], "offset": 0, "bytes": 6}]
    assert payload == np.packbits(mask[0, 10:13, 8:24], axis=1).tobytes()


def one_object(like: HostPacket, mask: np.ndarray[Any, Any]) -> HostPacket:
    rows, columns = np.nonzero(mask[0])
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    return dataclasses.replace(
        like,
        object_ids=np.array([4]),
        class_ids=np.array([0], np.int32),
        scores=np.array([0.9], np.float32),
        presence=np.array([8.5], np.float32),
        quality=np.array([0.75], np.float32),
        mask_age_frames=np.array([0], np.int32),
        mask_boxes_xyxy=np.array([box], np.int32),
        area_px=np.array([mask.sum()], np.int32),
        centroids_xy=np.array([[columns.mean(), rows.mean()]], np.float32),
        masks=np.packbits(mask, axis=-1),
    )


def test_a_full_frame_mask_an_empty_one_and_no_object_at_all() -> None:
    packet, _ = random_packet(np.random.default_rng(1), 0, (9, 17))
    assert result(encode_result(packet, 0)).masks().shape == (0, 9, 17)
    full = result(encode_result(one_object(packet, np.ones((1, 9, 17), np.bool_)), 0))
    assert full.mask(0).all()
    assert full.mask_rows is not None
    assert full.mask_rows[0].box == (0, 0, 17, 9)
    empty, _ = random_packet(np.random.default_rng(1), 3, (9, 17))
    blank = dataclasses.replace(
        empty, masks=np.zeros_like(empty.masks), mask_boxes_xyxy=np.zeros((3, 4), np.int32)
    )
    message = encode_result(blank, 0)
    assert not result(message).masks().any()
    assert split(message)[2] == b""


def test_physical_size_pose_and_clocks() -> None:
    packet, _ = random_packet(np.random.default_rng(2), 2, (30, 30))
    pose = np.arange(16, dtype=np.float64).reshape(4, 4) / 7
    info = dataclasses.replace(
        packet.info, spacing_mm=(0.5, 0.25), pose=pose, captured_unix_ns=12, captured_ns=1_000
    )
    packet = dataclasses.replace(packet, info=info)
    got = result(encode_result(packet, 0, published_ns=5_000, published_unix_ns=2**60))
    assert got.spacing_mm == (0.5, 0.25)
    assert np.array_equal(got.pose, pose)
    assert [item.area_mm2 for item in got.objects] == [item.area_px * 0.125 for item in got.objects]
    assert got.captured_unix_ns == 12
    assert got.age_ns(2**60 + 10) == 4_010
    assert result(a_message()).objects[0].area_mm2 is None


def test_numbers_that_are_not_finite_travel_as_null() -> None:
    packet, _ = random_packet(np.random.default_rng(2), 2, (8, 8))
    presence = np.array([np.nan, np.inf], np.float32)
    message = encode_result(dataclasses.replace(packet, presence=presence), 0)
    assert [row["presence"] for row in split(message)[1]["objects"]] == [None, None]
    assert all(math.isnan(item.presence) for item in result(message).objects)


def test_without_masks() -> None:
    packet, _ = random_packet(np.random.default_rng(2), 2, (8, 8), with_masks=False)
    got = result(encode_result(packet, 0, encoding="none"))
    assert got.mask_rows is None
    with pytest.raises(ValueError, match="no masks"):
        got.masks()
    with pytest.raises(ValueError, match="no masks"):
        got.mask(0)
    with pytest.raises(ValueError, match="no masks to send"):
        encode_result(packet, 0, encoding="bits")


def test_state_round_trip() -> None:
    message = encode_state("cam1", 2, "streaming", 41, ("vessel", "Gefäß"), published_unix_ns=9)
    assert message.startswith(topic("state", "cam1"))
    assert decode(message) == StateMessage("cam1", 2, "streaming", 41, ("vessel", "Gefäß"), 9)
    first = decode(encode_state("cam1", 0, "connecting", None, ()))
    assert isinstance(first, StateMessage)
    assert first.last_seq is None


def test_what_a_reader_would_refuse_is_not_sent() -> None:
    with pytest.raises(WireError, match=r"header of \d+ bytes, expected at most"):
        encode_state("cam1", 0, "streaming", 0, ["n" * 100] * 20_000)
    with pytest.raises(WireError, match="cannot be written as JSON"):
        encode_state("cam1", 0, "streaming", 0, ["\ud800"])


def test_fields_of_a_newer_publisher_are_ignored() -> None:
    name, header, payload = split(a_message())
    header["future"] = {"deep": [1, None]}
    header["objects"][0]["future"] = "x"
    header["arrays"][0]["rows"][0]["future"] = 1
    header["arrays"].append(
        {"name": "flow", "dtype": "float16", "shape": [2], "encoding": "wavelet", "offset": 0}
        | {"bytes": len(payload)}
    )
    want = result(a_message())
    got = result(join(name, header, payload + b"more"))
    assert got.objects == want.objects
    assert np.array_equal(got.masks(), want.masks())


def put(*path: str | int) -> Callable[[Any, Any], None]:
    def change(header: Any, value: Any) -> None:
        for key in path[:-1]:
            header = header[key]
        header[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (["version"], 2, "message version 2; this reader knows version 1"),
        (["version"], None, "version: got None"),
        (["kind"], "kpi", "does not name kpi/cam1"),
        (["source_id"], "cam2", "does not name result/cam2"),
        (["seq"], -1, "seq: got -1, expected an integer 0"),
        (["seq"], True, "seq: got True"),
        (["seq"], 1.0, "seq: got 1.0"),
        (["captured_ns"], 2**63, "captured_ns"),
        (["size_hw"], [0, 21], "size_hw: got 0"),
        (["size_hw"], [2**31, 2**31], "size_hw"),
        (["size_hw"], [13], "a list of 2"),
        (["stale"], 0, "stale: got 0, expected true or false"),
        (["identity"], "guessed", "expected tracked or none"),
        (["pose"], [0.0] * 15, "pose: .* a list of 16"),
        (["spacing_mm"], [0.1, 10**400], "spacing_mm"),
        (["spacing_mm"], ["a", "b"], "expected a finite number"),
        (["objects"], {}, "objects: got {}"),
        (["objects", 0], 7, "got 7, expected an object"),
        (["objects", 0, "label"], "\x1b[2J", "printable"),
        (["objects", 0, "label"], "\ud800", "printable"),
        (["objects", 0, "label"], "n" * 129, "at most 128"),
        (["objects", 0, "box"], [0, 0, 22, 13], "inside"),
        (["objects", 0, "box"], [5, 0, 4, 13], "inside"),
        (["objects", 0, "area_px"], 13 * 21 + 1, "area_px"),
        (["arrays"], None, "arrays"),
        (["arrays", 0, "dtype"], "object", "dtype: got 'object'"),
        (["arrays", 0, "dtype"], "float32", "expected bool as bits or rle"),
        (["arrays", 0, "encoding"], "raw", "expected bool as bits or rle"),
        (["arrays", 0, "shape"], [2, 13, 22], "shape"),
        (["arrays", 0, "shape"], [3, 13, 21], "shape"),
        (["arrays", 0, "offset"], 10**6, "offset"),
        (["arrays", 0, "offset"], -1, "offset"),
        (["arrays", 0, "bytes"], 10**6, "bytes"),
        (["arrays", 0, "rows"], [], "a list of 2"),
        (["arrays", 0, "rows", 0, "bytes"], 1, "bytes: got 1"),
        (["arrays", 0, "rows", 0, "offset"], 10**6, "offset"),
        (["arrays", 0, "rows", 0, "box"], [0, 0, 0, 14], "inside"),
    ],
)
def test_a_header_that_lies_is_refused(path: list[str | int], value: Any, says: str) -> None:
    name, header, payload = split(a_message())
    decode(join(name, header, payload))  # the control: rewritten as it was, it is read
    put(*path)(header, value)
    with pytest.raises(WireError, match=says):
        decode(join(name, header, payload))


def test_an_array_must_lie_in_the_payload_whatever_its_name() -> None:
    name, header, payload = split(a_message())
    entry = {"name": "x", "dtype": "uint8", "encoding": "raw", "offset": 0, "bytes": len(payload)}
    decode(join(name, {**header, "arrays": [entry]}, payload))
    with pytest.raises(WireError, match="bytes"):
        decode(join(name, {**header, "arrays": [entry | {"offset": 1}]}, payload))
    with pytest.raises(WireError, match="one array"):
        decode(join(name, {**header, "arrays": header["arrays"] * 2}, payload))


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (b"", "no topic"),
        (b"result/cam1", "no topic"),
        (b"r" * 500 + b"\0", "no topic"),
        (b"result/cam1\0\x01\x00", "too few"),
        (b"result/cam1\0\xff\xff\xff\xff{}", "expected at most 2"),
        (b"result/cam1\0\x02\x00\x00\x00[]", "expected an object"),
        (b"result/cam1\0\x02\x00\x00\x00\xff\xfe", "not JSON in UTF-8"),
        (b'result/cam1\0\x09\x00\x00\x00{"a":NaN}', "NaN is not JSON"),
        (b"x\0" + struct.pack("<I", 100_000) + b"[" * 100_000, "not JSON"),
        (b"x\0" + struct.pack("<I", 2**21) + b" " * 2**21, "header of 2097152 bytes"),
        (
            b"log/a\0" + struct.pack("<I", 42) + b'{"version":1,"kind":"log","source_id":"a"}',
            "'log'",
        ),
    ],
)
def test_bytes_that_are_no_message_are_refused(message: bytes, says: str) -> None:
    with pytest.raises(WireError, match=says):
        decode(message)


def test_a_small_message_cannot_ask_for_much_memory() -> None:
    name, header, _ = split(a_message(0))
    side = 16_384
    header["size_hw"] = [side, side]
    row = {"box": [0, 0, 0, 0], "offset": 0, "bytes": 0}
    template = split(a_message(1, (1, 1)))[1]["objects"][0] | {"box": [0, 0, 0, 0]}
    header["objects"] = [template] * 5
    header["arrays"][0] |= {"shape": [5, side, side], "rows": [row] * 5, "bytes": 0}
    tracemalloc.start()
    try:
        with pytest.raises(WireError, match="pixels"):
            decode(join(name, header, b""))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert MAX_MESSAGE_BYTES < 1 << 28


ODD: list[Any] = [
    *(None, True, -1, 0, 1, 2**31, 2**63, 2**64, 10**400, 0.5, 1e308, "", "x", "\x00"),
    *("\ud800", "object", [], [[]], {}, [1, 2, 3, 4], {"box": None}),
]


def mutate_bytes(rng: random.Random, message: bytes) -> bytes:
    data = bytearray(message)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.randint(1, 40))
        how = rng.randrange(5)
        if how == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif how == 1:
            del data[at:end]
        elif how == 2:
            data[at:at] = rng.randbytes(rng.randint(1, 8))
        elif how == 3:
            data[at:at] = data[at:end]
        else:
            data[at:end] = rng.randbytes(end - at)
    return bytes(data[: rng.randrange(len(data) + 1)] if rng.random() < 0.1 else data)


def mutate_header(rng: random.Random, message: bytes) -> bytes:
    name, header, payload = split(message)
    node: Any = header
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = rng.choice(keys)
        if not isinstance(node[key], dict | list) or not node[key] or rng.random() < 0.2:
            break
        node = node[key]
    if rng.random() < 0.1:
        del node[key]
    else:
        node[key] = rng.choice(ODD)
    return join(name, header, payload)


def test_thousands_of_mutants_are_read_or_refused_and_nothing_else() -> None:
    rng = random.Random(20_240_817)  # noqa: S311 (a seed is wanted)
    bases = [
        a_message(),
        a_message(0),
        a_message(4, (3, 40)),
        encode_state("cam1", 1, "streaming", 4, NAMES),
    ]
    outcomes = {"read": 0, "refused": 0}
    for turn in range(6_000):
        mutate = mutate_header if turn % 2 else mutate_bytes
        mutant = mutate(rng, rng.choice(bases))
        try:
            message = decode(mutant)
        except WireError:
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
        if isinstance(message, ResultMessage) and message.mask_rows is not None:
            assert message.masks().shape == (len(message.objects), *message.size_hw)
    # Both happen often, or the mutants would be testing nothing.
    assert min(outcomes.values()) > 200, outcomes


def documented(kind: str) -> bytes:
    """The example message of this kind that docs/wire.md spells out in hex."""
    page = (ROOT / "docs" / "wire.md").read_text()
    found = re.search(rf"```hex {kind}\n(.*?)```", page, re.DOTALL)
    assert found is not None
    return bytes.fromhex(found[1])


def test_the_documented_messages_are_what_version_1_is() -> None:
    mask = np.zeros((1, 6, 20), np.bool_)
    mask[0, 1:4, 9:18] = True
    mask[0, 2, 12] = False
    packet, _ = random_packet(np.random.default_rng(0), 0, (6, 20))
    info = dataclasses.replace(
        packet.info,
        frame_id=17,
        captured_ns=1_000_000_000,
        grabbed_ns=1_002_000_000,
        spacing_mm=(0.5, 0.5),
    )
    packet = one_object(dataclasses.replace(packet, info=info), mask)
    sent = encode_result(packet, 17, NAMES, published_ns=1_010_000_000, published_unix_ns=2**60)
    assert documented("result") == sent
    assert np.array_equal(result(documented("result")).mask(0), mask[0])
    state = encode_state("cam1", 0, "streaming", 17, NAMES, published_unix_ns=2**60)
    assert documented("state") == state


def test_decoding_never_imports_torch() -> None:
    program = (
        "import sys\n"
        "from stages.wire import decode\n"
        "message = decode(bytes.fromhex(sys.argv[1]))\n"
        "assert message.mask(0).sum() == 26\n"
        "print(sorted({'torch', 'pydantic', 'zmq'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", program, documented("result").hex()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_what_people_call_an_object_is_its_label() -> None:
    packet, _ = random_packet(np.random.default_rng(3), 2, (20, 30))
    named = dataclasses.replace(packet, names={int(packet.object_ids[1]): "left vein"})
    got = decode(encode_result(named, 0, ("vessel", "needle")))
    assert isinstance(got, ResultMessage)
    class_id = int(packet.class_ids[0])
    known = ("vessel", "needle")[class_id] if 0 <= class_id < 2 else None
    assert [one.label for one in got.objects] == [known, "left vein"]
