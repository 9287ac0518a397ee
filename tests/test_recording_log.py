"""The `log` layout: what is written comes back, and what was changed is found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zstandard
from recordings import log_options, logits, manifest

from stages.errors import RecordingError
from stages.recording import layout, stored
from stages.recording.entries import (
    Detected,
    Logits,
    Masks,
    Packet,
    Picture,
    Prompted,
    State,
)
from stages.recording.entry import Entry, Stamp
from stages.recording.log_reader import LogRecording
from stages.recording.manifest import parse, render
from stages.recording.reading import open_recording
from stages.recording.segment_reader import SegmentFile
from stages.recording.verify import verify
from stages.recording.writing import create_log, reopen_log
from stages.window import Window, whole

AT = Stamp(2, 9, 11, 12)


def record(root: Path, frames: int, segment_bytes: int = 1 << 20, compress: bool = False) -> Path:
    """A closed recording of so many frames."""
    log = create_log(root, manifest(), log_options(segment_bytes, compress))
    for frame_id in range(frames):
        assert log.append(logits(frame_id).entry()) is not None
    assert log.close().written == frames
    return root / "s"


def opened(path: Path) -> LogRecording:
    recording = open_recording(path)
    assert isinstance(recording, LogRecording)
    return recording


def segments(path: Path) -> list[Path]:
    return sorted(path.glob("segment-*.log"))


@pytest.mark.parametrize("compress", [False, True])
def test_every_kind_comes_back(tmp_path: Path, compress: bool) -> None:
    rng = np.random.default_rng(0)
    window = Window((5, 9), (1, 2), (8, 16))
    bits = np.packbits(rng.random((2, 5, 9)) > 0.5, axis=-1)
    entries = [
        Logits(AT, np.array([4, 5]), rng.random((2, 3, 4), np.float32), window),
        Masks(AT, np.array([4, 5]), bits, window),
        Packet(AT, b"result/cam\0" + bytes(100)),
        Prompted(AT, {"verb": "add", "points": [[1.5, 2]]}, np.eye(3, dtype=np.bool_)),
        Prompted(AT, {"verb": "reset"}),
        Detected(AT, np.ones((1, 4), np.float32), np.ones(1, np.float32), np.ones(1, np.int32)),
        Picture(AT, rng.integers(0, 255, (5, 9, 3), np.uint8), window),
        State("stale", {"reason": "no picture"}, AT),
    ]
    log = create_log(tmp_path, manifest(), log_options(compress=compress))
    assert [log.append(entry.entry()) for entry in entries] == list(range(1, 9))
    log.close()
    with opened(tmp_path / "s") as recording:
        kinds = ("logits", "masks", "packet", "prompt", "detections", "frame", "state")
        found = list(recording.records(*kinds))
        assert [type(entry).of(record) for entry, record in zip(entries, found, strict=True)]
        for entry, stored_one in zip(entries, found, strict=True):
            assert stored_one.stamp == AT
            told, arrays = entry.entry().fields, entry.entry().arrays
            assert type(entry).of(stored_one).entry().fields == told
            assert stored_one.fields.arrays == set(arrays)
            for name, values in arrays.items():
                read = stored_one.array(name)
                assert read.dtype == values.dtype
                np.testing.assert_array_equal(read, values)
        assert recording.masks_at(9).mask(1).shape == (8, 16)
        assert recording.manifest == manifests_of(recording)
    assert verify(tmp_path / "s").is_whole


def manifests_of(recording: LogRecording) -> object:
    (meta,) = recording.records("meta")
    return parse(meta.array("manifest").tobytes(), "meta")


def test_arrays_are_views_of_the_file_and_outlive_the_recording(tmp_path: Path) -> None:
    with opened(record(tmp_path, 2)) as recording:
        values = recording.logits_at(1).values
    assert not values.flags.owndata
    assert not values.flags.writeable
    np.testing.assert_array_equal(values, logits(1).values)


def test_however_many_segments_few_files_are_open(tmp_path: Path) -> None:
    path = record(tmp_path, 40, 1500)
    assert len(segments(path)) >= 20
    before = len(os.listdir("/proc/self/fd"))
    with opened(path) as recording:
        assert [r.stamp.frame_id for r in recording.records("logits")] == list(range(40))
        assert len(os.listdir("/proc/self/fd")) <= before + 2 * 8
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_a_recording_that_cannot_be_opened_leaves_no_file_open(tmp_path: Path) -> None:
    path = record(tmp_path, 2)
    (path / "manifest.json").unlink()
    with SegmentFile(segments(path)[0]) as file:
        row = file.scan().rows[0]
    raw = bytearray(segments(path)[0].read_bytes())
    raw[int(row["offset"]) + 100] ^= 1  # in the copy of the manifest
    segments(path)[0].write_bytes(raw)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(RecordingError, match="no manifest, and no segment"):
        open_recording(path)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_frames_come_by_epoch_and_number_and_the_later_pass_wins(tmp_path: Path) -> None:
    log = create_log(tmp_path, manifest(), log_options(1500))
    order = [(0, 7, 0), (0, 8, 0), (0, 7, 1), (0, 6, 1), (1, 3, 0), (0, 8, 0)]
    for epoch, frame_id, pass_index in order:
        log.append(logits(frame_id, epoch, pass_index=pass_index).entry())
    log.close()
    assert len(segments(tmp_path / "s")) > 2
    with opened(tmp_path / "s") as recording:
        assert list(recording.frames()) == [(0, 6), (0, 7), (0, 8), (1, 3)]
        values = recording.logits_at(7).values
        np.testing.assert_array_equal(values, logits(7, pass_index=1).values)
        with pytest.raises(RecordingError, match=r"no frame 9 .*3\.\.8"):
            recording.logits_at(9)
        with pytest.raises(RecordingError, match="no frame 3 of epoch 0"):
            recording.logits_at(3, 0)


def flipped(path: Path, at: int) -> bool:
    """Whether a changed byte is found by `verify`."""
    with path.open("r+b", buffering=0) as file:
        (byte,) = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes([byte ^ 1 << at % 8]), at)
        try:
            return not verify(path.parent).is_whole
        except RecordingError:
            return True
        finally:
            os.pwrite(file.fileno(), bytes([byte]), at)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("small"), 1)


def test_every_flipped_byte_is_found(small: Path) -> None:
    assert verify(small).is_whole
    for path in (small / "manifest.json", *segments(small)):
        missed = [at for at in range(path.stat().st_size) if not flipped(path, at)]
        assert missed == [], path


def test_a_reader_that_looks_at_no_check_sum_misses_flips(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = segments(small)[0]
    with SegmentFile(path) as file:
        row = file.scan().rows[1]
    payload = int(row["offset"]) + int(row["nbytes"]) - 9  # in the logits
    head = int(row["offset"]) + 50  # in a time stamp
    assert flipped(path, payload)
    assert flipped(path, head)

    class Blind(int):
        def __eq__(self, other: object) -> bool:
            return True

        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = int.__hash__

    monkeypatch.setattr(stored, "joint_crc", lambda buffers: Blind(0))
    assert not flipped(path, payload)
    monkeypatch.setattr(layout, "_is_sealed", lambda raw: True)
    assert not flipped(path, head)


def test_cut_anywhere_it_reads_what_is_whole(small: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(small, copy)
    (segment,) = segments(copy)
    with SegmentFile(segment) as file:
        rows = file.scan().rows
    ends = (rows["offset"] + rows["nbytes"]).tolist()
    for length in range(segment.stat().st_size - 1, -1, -1):
        os.truncate(segment, length)
        with opened(copy) as recording:
            (table,) = recording.tables.values()
            assert len(table.rows) == sum(end <= length for end in ends)
            assert recording.flaws == ()
            whole_ones = [end for end in (64, *ends) if end <= length]
            assert table.torn_bytes == length - max(whole_ones, default=0)
            assert len(list(recording.records())) == len(table.rows)
        if length in (ends[-1] + 5, ends[-3] + 5):  # in the footer; in the record of the end
            verdict = verify(copy)
            assert verdict.is_whole
            assert verdict.torn_bytes == 5
            assert verdict.closed == (length > ends[-1])


def test_what_a_writer_takes_back_costs_a_reader_that_alone(small: Path, tmp_path: Path) -> None:
    """Half a record, which a full disk ended: it was there when the reader looked."""
    copy = tmp_path / "copy"
    shutil.copytree(small, copy)
    (segment,) = segments(copy)
    with SegmentFile(segment) as file:
        rows = file.scan().rows
        end = int(rows["offset"][2])
        os.truncate(segment, end + 100)
        with SegmentFile(segment) as reader:
            os.truncate(segment, end)
            assert reader.record(int(rows["offset"][1])).kind == "logits"
        with SegmentFile(segment) as reader:
            os.truncate(segment, end - 8)
            with pytest.raises(RecordingError, match="the file was cut off"):
                reader.record(int(rows["offset"][1]))
        with opened(copy) as recording:
            assert recording.flaws == ()


def test_damage_in_the_middle_costs_only_what_is_damaged(tmp_path: Path) -> None:
    path = record(tmp_path, 5)
    (segment,) = segments(path)
    raw = bytearray(segment.read_bytes())
    with SegmentFile(segment) as file:
        rows = file.table().rows
    raw[int(rows["offset"][2]) + 20] ^= 1  # a length in the head of frame 1
    raw[-1] ^= 1  # the footer: the index is rebuilt
    segment.write_bytes(raw)
    with opened(path) as recording:
        assert list(recording.frames()) == [(0, 0), (0, 2), (0, 3), (0, 4)]
        assert len(recording.flaws) == 2
    flaws = verify(path).flaws
    assert any("bytes at" in flaw for flaw in flaws)
    assert any("expected 2" in flaw for flaw in flaws)


def test_a_damaged_index_is_made_anew(tmp_path: Path) -> None:
    path = record(tmp_path, 3)
    (segment,) = segments(path)
    raw = bytearray(segment.read_bytes())
    raw[-layout.FOOTER_BYTES - 10] ^= 1
    segment.write_bytes(raw)
    with opened(path) as recording:
        assert [frame_id for _, frame_id in recording.frames()] == [0, 1, 2]
        np.testing.assert_array_equal(recording.logits_at(2).values, logits(2).values)
    assert any("its index is damaged" in flaw for flaw in verify(path).flaws)


def test_a_missing_segment_and_one_of_another_recording_are_told(tmp_path: Path) -> None:
    path = record(tmp_path / "a", 9, 1500)
    other = record(tmp_path / "b", 9, 1500)
    first, second, third = segments(path)[:3]
    kept = second.read_bytes()
    second.unlink()
    assert any("expected" in flaw for flaw in verify(path).flaws)
    second.write_bytes(segments(other)[1].read_bytes())
    assert any("of recording" in flaw for flaw in verify(path).flaws)
    second.write_bytes(kept)
    assert verify(path).is_whole
    first.unlink()
    assert any("earlier ones are gone" in flaw for flaw in verify(path).flaws)
    assert third.exists()


def test_a_manifest_that_another_one_was_put_in_for_is_told(tmp_path: Path) -> None:
    path = record(tmp_path, 1)
    with opened(path) as recording:
        other = replace(recording.manifest, mask_threshold=1)
    (path / "manifest.json").write_bytes(render(other))
    (flaw,) = verify(path).flaws
    assert flaw.endswith("not the manifest of this recording")


def test_books_that_do_not_agree_are_told(tmp_path: Path) -> None:
    log = create_log(tmp_path, manifest(), log_options())
    log.append(logits(0).entry())
    log._writer._ledger.wrote(1)  # counts what it never wrote
    log.close()
    (flaw,) = verify(tmp_path / "s").flaws
    assert "offered, written and dropped were (2, 2, 0), there are (1, 1, 0)" in flaw


def test_the_manifest_is_read_from_a_segment_where_its_file_is_gone(tmp_path: Path) -> None:
    path = record(tmp_path, 1)
    (path / "manifest.json").unlink()
    with opened(path) as recording:
        assert recording.manifest.session_id == "s"
        assert len(recording.flaws) == 1


def test_it_goes_on_in_a_recording_that_was_cut_off(tmp_path: Path) -> None:
    path = record(tmp_path, 3)
    (segment,) = segments(path)
    segment.write_bytes(segment.read_bytes()[:-400])
    log = reopen_log(path, log_options())
    log.append(logits(10).entry())
    log.close()
    again = reopen_log(path, log_options())
    again.append(logits(11).entry())
    assert again.close().written == 1
    with opened(path) as recording:
        assert [frame_id for _, frame_id in recording.frames()] == [0, 1, 2, 10, 11]
    verdict = verify(path)
    assert verdict.flaws == ()
    assert verdict.closed


def put(path: Path, row: int, head: layout.Head, json_: bytes, payload: bytes) -> None:
    """Write another record over one of a single segment, with check sums that are right; what lies
    behind it is gone."""
    (segment,) = segments(path)
    with SegmentFile(segment) as file:
        at = int(file.scan().rows["offset"][row])
    body = json_.ljust(layout.padded(len(json_))), payload.ljust(layout.padded(len(payload)), b"\0")
    sizes = {"json_bytes": len(body[0]), "payload_bytes": len(payload)}
    whole_head = replace(head, **sizes, body_crc=layout.joint_crc(body))
    segment.write_bytes(segment.read_bytes()[:at] + layout.pack_head(whole_head) + b"".join(body))


def head_of(path: Path, row: int) -> layout.Head:
    with SegmentFile(segments(path)[0]) as file:
        return file.record(int(file.scan().rows["offset"][row])).head


@pytest.mark.parametrize("shape", [f"[0, {2**70}]", str([1] * 80), "[true, 4]"])
def test_a_record_that_lies_about_its_shape_is_refused(tmp_path: Path, shape: str) -> None:
    path = record(tmp_path, 1)
    text = f'{{"fields": {{}}, "arrays": [["logits", "|u1", {shape}, 0]]}}'
    put(path, 1, replace(head_of(path, 1), raw_bytes=8), text.encode(), bytes(8))
    with opened(path) as recording, pytest.raises(RecordingError, match="got an array of shape"):
        recording.at("logits", 0)
    assert any("got an array of shape" in flaw for flaw in verify(path).flaws)


@pytest.mark.parametrize("raw_bytes", [layout.MAX_PAYLOAD_BYTES + 8, 2**32 - 8])
def test_a_few_bytes_that_claim_to_be_gigabytes_are_no_record(
    tmp_path: Path, raw_bytes: int
) -> None:
    path = record(tmp_path, 1, compress=True)
    data = b"\x28\xb5\x2f\xfd\xa0" + raw_bytes.to_bytes(4, "little") + b"\x01\x00\x00"
    assert zstandard.frame_content_size(data) == raw_bytes
    head = replace(head_of(path, 1), codec=1, raw_bytes=raw_bytes)
    put(path, 1, head, b'{"fields": {}, "arrays": []}', data)
    with opened(path) as recording:
        assert len(recording.frames()) == 0
    assert any("are no record" in flaw for flaw in verify(path).flaws)


@pytest.mark.parametrize(
    "entry",
    [
        Entry("gap"),
        Entry("packet", arrays={"message": np.zeros(2, object)}),
        Entry("prompt", fields={"x": float("nan")}),
        Entry("prompt", fields={"x": {1, 2}}),
    ],
)
def test_what_no_recording_can_hold_is_refused_and_not_counted(
    tmp_path: Path, entry: Entry
) -> None:
    log = create_log(tmp_path, manifest(), log_options())
    with pytest.raises((ValueError, TypeError)):
        log.append(entry)
    assert log.close().offered == 0


def test_reading_needs_neither_torch_nor_what_writes_masks(small: Path) -> None:
    program = (
        "import sys; from stages.recording.reading import open_recording; "
        f"r = open_recording({str(small)!r}); r.logits_at(0).values; "
        "from stages.recording.verify import verify; "
        "sys.exit('torch' in sys.modules or 'pydantic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_whole_windows_are_those_of_the_picture() -> None:
    assert Logits(AT, np.zeros(0), np.zeros((0, 2, 2), np.float32), whole((3, 3))).entry()
    with pytest.raises(ValueError, match="expected"):
        Logits(AT, np.zeros(1), np.zeros((2, 2, 2), np.float32), whole((3, 3))).entry()
