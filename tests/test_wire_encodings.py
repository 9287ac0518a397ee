"""Run lengths, logits, events and pictures on the wire, and the files that fix version 1."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wire_golden as golden
from result_packets import random_masks, random_packet, tight_box
from services import require
from test_wire import join, mutate_bytes, mutate_header, put, result, split

from stages.rle import Cut, paint, run_lengths
from stages.wire import (
    KpiMessage,
    PictureMessage,
    ResultMessage,
    WireError,
    decode,
    encode_picture,
    encode_result,
)
from stages.wire_masks import LogitsArray, mask_of_logits

DECODER = Path(__file__).parent / "wire_decoder.mjs"
FILES = sorted(golden.messages())


# --- run lengths -----------------------------------------------------------------------------


def picture(text: bytes, hw: tuple[int, int]) -> Any:
    return columns(text, hw, 0, hw[1])


def columns(text: bytes, hw: tuple[int, int], first: int, last: int) -> Any:
    out = np.zeros(hw, np.bool_)
    paint(np.frombuffer(text, np.uint8), first, last, out)
    assert not out[:, :first].any()
    assert not out[:, last:].any()
    return out[:, first:last]


def runs(mask: Any) -> bytes:
    height, width = np.shape(mask)
    packed = np.packbits(np.asarray(mask, np.bool_), axis=1)
    (text,) = run_lengths([Cut(packed, width, 0, 0)], (height, width))
    return text


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_round_trip(seed: int) -> None:
    rng = np.random.default_rng(seed)
    masks = random_masks(rng, 6, (int(rng.integers(1, 50)), int(rng.integers(1, 200))))
    boxes = [tight_box(mask) for mask in masks]
    cuts = [
        Cut(np.packbits(mask[y1:y2, x1:x2], axis=1), x2 - x1, y1, x1)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True)
    ]
    texts = run_lengths(cuts, masks[0].shape)
    for mask, (x1, _, x2, _), text in zip(masks, boxes, texts, strict=True):
        assert np.array_equal(picture(text, mask.shape), mask)
        assert text == runs(mask), "cut or not, the text is that of the whole picture"
        assert np.array_equal(columns(text, mask.shape, x1, x2), mask[:, x1:x2])


def test_bits_beyond_the_last_column_are_not_seen() -> None:
    clean = np.array([[0b10110000], [0b00010000]], np.uint8)
    texts = run_lengths([Cut(clean, 4, 1, 2), Cut(clean | 0b1111, 4, 1, 2)], (4, 7))
    assert texts[0] == texts[1]


def test_no_masks_are_no_texts() -> None:
    assert run_lengths([], (4, 5)) == []


@pytest.mark.parametrize(
    ("mask", "text"),
    [  # what pycocotools 2.0 writes
        (np.zeros((4, 5)), b"d0"),
        (np.ones((4, 5)), b"0d0"),
        (np.eye(4), b"01400000"),
        (np.arange(30).reshape(5, 6) % 7 == 3, b"41:0K000M"),
        (np.indices((40, 50)).sum(0) > 60, b"gl01V1" + b"1O" * 26 + b"1"),
    ],
)
def test_run_lengths_are_those_of_coco(mask: Any, text: bytes) -> None:
    assert runs(mask) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"c0", "do not add up to 20 pixels"),
        (b"e0", "do not add up"),
        (b"d0d0", "do not add up"),
        (b"O0d0", "do not add up"),
        (b"d", "no COCO text"),
        (b"d0\x2f", "no COCO text"),
        (b"d0\x80", "no COCO text"),
        (b"oooooooo0", "more than 7 characters"),
        (b"", "no COCO text"),
    ],
)
def test_texts_that_are_none_are_refused(text: bytes, says: str) -> None:
    picture(b"d0", (4, 5))
    with pytest.raises(ValueError, match=says):
        picture(text, (4, 5))


def test_masks_as_run_lengths() -> None:
    packet, masks = random_packet(np.random.default_rng(3), 4, (33, 47))
    got = result(encode_result(packet, 0, encoding="rle"))
    assert np.array_equal(got.masks(), masks)
    assert np.array_equal(got.mask(2), masks[2])
    name, header, payload = split(encode_result(packet, 0, encoding="rle"))
    lied = bytes([payload[0] ^ 1]) + payload[1:]
    with pytest.raises(WireError, match="masks: rle: the run lengths"):
        result(join(name, header, lied)).mask(0)


# --- logits ----------------------------------------------------------------------------------


def test_logits_give_the_masks_that_pack_makes() -> None:
    torch = pytest.importorskip("torch")
    from stages.mask_upsampling import Foreground

    rng = np.random.default_rng(0)
    logits = rng.normal(0, 4, (3, 16, 16)).astype(np.float32)
    packet, _ = random_packet(rng, 3, (120, 161))
    packet = dataclasses.replace(packet, logits=logits)
    got = result(encode_result(packet, 0, encoding="logits", threshold=0.5))
    assert np.array_equal(got.logits(), logits)
    assert not got.logits().flags.owndata
    values = torch.from_numpy(logits)
    made = Foreground(values, (120, 161)).pixels(values, torch.ones(3, dtype=torch.bool), 0.5)
    differing = got.masks() ^ made.numpy()[..., :161]
    assert 0.2 < got.masks().mean() < 0.8
    assert differing.mean() < 1e-4, "rounding on the outline"


def test_logits_cover_the_window_alone() -> None:
    out = np.zeros((6, 9), np.bool_)
    array = LogitsArray((1, 1, 1), 0, (2, 1, 5, 4), 0.0)
    mask_of_logits(np.ones((1, 1), np.float32), array, out)
    assert (out.sum(), out[1:4, 2:5].all()) == (9, True)
    mask_of_logits(np.full((1, 1), np.nan, np.float32), array, out)
    assert not out.any()


def test_without_logits_they_cannot_be_sent_or_asked_for() -> None:
    packet, _ = random_packet(np.random.default_rng(0), 1, (8, 8))
    with pytest.raises(ValueError, match="no logits to send"):
        encode_result(packet, 0, encoding="logits")
    with pytest.raises(ValueError, match="carries no logits"):
        result(encode_result(packet, 0)).logits()


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (["dtype"], "float16", "expected float32, raw"),
        (["encoding"], "zip", "expected float32, raw"),
        (["shape"], [3, 6, 8], "expected 4 planes"),
        (["shape"], [4, 0, 8], "expected 4 planes"),
        (["shape"], [4, 6, 9], "bytes: got 768, expected 864"),
        (["bytes"], 764, "bytes: got 764, expected 768"),
        (["offset"], 4, "bytes"),
        (["window"], [0, 0, 38, 24], "inside"),
        (["window"], None, "a list of 4"),
        (["threshold"], None, "a finite number"),
        (["threshold"], "0", "a finite number"),
    ],
)
def test_logits_that_lie_are_refused(path: list[str], value: Any, says: str) -> None:
    name, header, payload = split(golden.messages()["result_logits"])
    decode(join(name, header, payload))
    put("arrays", 0, *path)(header, value)
    with pytest.raises(WireError, match=says):
        decode(join(name, header, payload))


def test_masks_and_logits_do_not_come_together() -> None:
    name, header, payload = split(golden.messages()["result_logits"])
    _, with_masks, _ = split(golden.messages()["result_bits"])
    both = [*header["arrays"], *with_masks["arrays"]]
    with pytest.raises(WireError, match="one array of masks or of logits"):
        decode(join(name, {**header, "arrays": both}, payload))


# --- events and pictures ---------------------------------------------------------------------


def test_an_event_and_a_picture() -> None:
    event = decode(golden.messages()["kpi"])
    assert isinstance(event, KpiMessage)
    assert (event.source_id, event.event) == ("cam1", "source_state")
    assert json.loads(event.line) == {"ts": 1.5, "event": "source_state"}
    shown = decode(golden.messages()["picture"])
    assert isinstance(shown, PictureMessage)
    assert bytes(shown.jpeg) == golden.JPEG
    assert (shown.epoch, shown.frame_id, shown.size_hw) == (2, 17, golden.SIZE)
    assert shown.box == (5, 3, 34, 23)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (["arrays", 0, "encoding"], "raw", "expected jpeg"),
        (["arrays", 0, "name"], "other", "0 arrays are named pixels, expected one"),
        (["arrays", 0, "bytes"], 99, "bytes"),
        (["box"], [0, 0, 99, 1], "inside"),
        (["frame_id"], -1, "frame_id"),
    ],
)
def test_pictures_that_lie_are_refused(path: list[str | int], value: Any, says: str) -> None:
    name, header, payload = split(encode_picture(golden.packet().info, b"12"))
    decode(join(name, header, payload))
    put(*path)(header, value)
    with pytest.raises(WireError, match=says):
        decode(join(name, header, payload))


def test_a_frame_that_was_sent_in_is_no_picture() -> None:
    with pytest.raises(WireError):
        decode(golden.messages()["frame"])


def test_ten_thousand_mutants_are_read_or_refused_and_nothing_else() -> None:
    rng = random.Random(20_260_311)  # noqa: S311 (a seed is wanted)
    names = ("result_rle", "result_logits", "kpi", "picture")
    outcomes = {"read": 0, "refused": 0}
    for turn in range(10_000):
        mutate = mutate_header if turn % 2 else mutate_bytes
        try:
            message = decode(mutate(rng, golden.messages_once()[names[turn // 2 % 4]]))
            if isinstance(message, ResultMessage) and message.has_masks:
                assert message.masks().shape == (len(message.objects), *message.size_hw)
        except WireError:
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1
    assert sum(outcomes.values()) == 10_000
    assert min(outcomes.values()) > 500, outcomes


# --- what version 1 is -----------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_version_1_stays_what_it_is(name: str) -> None:
    assert golden.messages()[name] == (golden.FOLDER / f"{name}.bin").read_bytes()


def test_every_file_is_looked_at() -> None:
    assert sorted(path.stem for path in golden.FOLDER.iterdir()) == FILES


@pytest.mark.parametrize("encoding", ["bits", "rle"])
def test_the_files_hold_the_masks(encoding: str) -> None:
    got = result((golden.FOLDER / f"result_{encoding}.bin").read_bytes())
    assert np.array_equal(got.masks(), golden.masks())


def read_by_node(*paths: Path) -> list[dict[str, Any]]:
    command = [require("node"), str(DECODER), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=50)
    return [json.loads(line) for line in done.stdout.splitlines()]


def as_text(masks: Any) -> list[str]:
    return ["".join(mask.astype(int).astype(str).ravel()) for mask in masks]


def test_a_reader_in_another_language_gets_the_same_bits(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    paths, wanted = [], []
    for size_hw in ((24, 37), (1, 1), (61, 20)):
        packet, masks = random_packet(rng, 4, size_hw)
        logits = rng.normal(0, 5, (4, 16, 16)).astype(np.float32)
        packet = dataclasses.replace(packet, logits=logits)
        for encoding in ("bits", "rle", "logits", "none"):
            path = tmp_path / f"{len(paths)}"
            path.write_bytes(encode_result(packet, 3, encoding=encoding, threshold=0.25))  # type: ignore[arg-type]
            got = result(path.read_bytes())
            paths.append(path)
            wanted.append(as_text(got.masks()) if encoding == "logits" else as_text(masks))
    answers = read_by_node(*paths)
    assert len(answers) == 12
    for path, answer, want in zip(paths, answers, wanted, strict=True):
        got = result(path.read_bytes())
        assert answer["masks"] == (want if got.has_masks else None)
        assert [int(item["id"]) for item in answer["objects"]] == [item.id for item in got.objects]
        assert int(answer["captured_ns"]) == got.captured_ns
        if got.logits_array is not None:
            assert answer["logits"] == got.logits().tobytes().hex()


def test_it_reads_the_files_and_refuses_another_version(tmp_path: Path) -> None:
    files = [golden.FOLDER / f"{name}.bin" for name in FILES]
    answers = dict(zip(FILES, read_by_node(*files), strict=True))
    for name in ("result_bits", "result_rle"):
        assert answers[name]["masks"] == as_text(golden.masks())
    logits = result(golden.messages()["result_logits"])
    assert answers["result_logits"]["masks"] == as_text(logits.masks())
    assert (answers["state"]["state"], answers["result_stale"]["stale"]) == ("stale", True)
    newer = tmp_path / "newer"
    newer.write_bytes(golden.messages()["state"].replace(b'"version":1', b'"version":2'))
    assert read_by_node(newer) == [{"refused": "version 2, expected 1"}]
