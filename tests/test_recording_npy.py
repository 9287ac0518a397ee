"""The `npy` layout, as existing tools expect it, and .npy files that lie."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from recordings import ANY_SPACE, manifest, video

from stages.errors import RecordingError
from stages.recording.npy_file import read_npy
from stages.recording.npy_reader import NpyRecording
from stages.recording.npy_writer import NpyOptions, NpyWriter
from stages.recording.reading import open_recording
from stages.recording.space import SpaceLimits
from stages.recording.verify import verify
from stages.recording.writing import create_npy, reopen_npy

OPTIONS = NpyOptions(space=ANY_SPACE)


def writer(root: Path) -> NpyWriter:
    return create_npy(root, manifest("npy", "session-1"), OPTIONS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A closed recording: two passes, and frames past the fifth digit."""
    npy = writer(tmp_path)
    for frame_id, pass_index in [(3, 0), (99_999, 0), (100_000, 0), (3, 1), (2, 1)]:
        assert npy.append(video(frame_id, pass_index)) is not None
    assert npy.close().written == 5
    return tmp_path / "predictions" / "session-1"


def opened(path: Path) -> NpyRecording:
    recording = open_recording(path)
    assert isinstance(recording, NpyRecording)
    return recording


def test_the_files_are_those_that_existing_tools_read(folder: Path) -> None:
    names = sorted(path.name for path in folder.glob("*.npy"))
    assert names == sorted(
        f"frame_{number}{kind}.npy"
        for number in ("00002", "00003", "99999", "100000")
        for kind in ("", "_obj_ids")
    )
    values = np.load(folder / "frame_00003.npy", allow_pickle=False)
    ids = np.load(folder / "frame_00003_obj_ids.npy", allow_pickle=False)
    assert (values.dtype, values.shape) == (np.float32, (2, 1, 3, 5))
    assert (ids.dtype, ids.tolist()) == (np.int64, [10, 11])
    np.testing.assert_array_equal(values, video(3, 1).values), "the later pass wins"


def test_it_reads_back_in_the_order_of_numbers(folder: Path) -> None:
    with opened(folder) as recording:
        assert [i for _, i in recording.frames()] == [2, 3, 99_999, 100_000]
        assert sorted(folder.glob("frame_?????*.npy"))[0].name == "frame_00002.npy"
        found = recording.video_logits_at(100_000)
    np.testing.assert_array_equal(found.values, video(100_000).values)
    assert not found.values.flags.owndata
    assert found.stamp.pass_index == 0
    assert verify(folder).flaws == ()
    assert verify(folder).closed


def test_what_another_tool_wrote_is_read_too(tmp_path: Path) -> None:
    for number in (10, 9):
        np.save(tmp_path / f"frame_{number:05d}.npy", np.ones((1, 1, 2, 2), np.float32))
        np.save(tmp_path / f"frame_{number:05d}_obj_ids.npy", np.array([1], np.int32))
    with opened(tmp_path) as recording:
        assert recording.manifest is None
        assert [i for _, i in recording.frames()] == [9, 10]
        assert recording.video_logits_at(9).object_ids.dtype == np.int64
    assert verify(tmp_path).is_whole
    (tmp_path / "frame_00009_obj_ids.npy").unlink()
    assert len(verify(tmp_path).flaws) == 1


def test_every_flipped_byte_of_a_recording_is_found(tmp_path: Path) -> None:
    npy = writer(tmp_path)
    npy.append(video(0, objects=1))
    npy.close()
    folder = tmp_path / "predictions" / "session-1"
    for path in sorted(folder.glob("*.*")):
        missed = []
        for at in range(path.stat().st_size):
            with path.open("r+b", buffering=0) as file:
                (byte,) = os.pread(file.fileno(), 1, at)
                os.pwrite(file.fileno(), bytes([byte ^ 1 << at % 8]), at)
                found = not verify(folder).is_whole
                os.pwrite(file.fileno(), bytes([byte]), at)
            if not found:
                missed.append(at)
        assert missed == [], path
    assert verify(folder).is_whole


def test_an_index_that_is_cut_anywhere_is_torn_and_not_damaged(tmp_path: Path) -> None:
    npy = writer(tmp_path)
    npy.append(video(0, objects=1))
    npy.close()
    index = tmp_path / "predictions" / "session-1" / "index.jsonl"
    raw = index.read_bytes()
    for length in range(raw.index(b"\n") + 1, len(raw)):
        index.write_bytes(raw[:length])
        verdict = verify(index.parent)
        assert (verdict.is_whole, verdict.closed) == (True, False)
        assert verdict.torn_bytes == length - raw.index(b"\n", 0, length) - 1


def lying(shape: str, dtype: str = "<f8", data: int = 0) -> bytes:
    """A .npy file of 128 bytes, and data, that claims this shape."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00\x76\x00" + text.ljust(117).encode() + b"\n" + bytes(data)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (lying("(65536, 65536)"), "34359738368 bytes, but 0 follow it"),
        (lying("(2, 2)", data=31), "32 bytes, but 31 follow it"),
        (lying("(2, 2)", data=33), "32 bytes, but 33 follow it"),
        (lying("(-1,)"), "expected numbers"),
        (lying("(1,)", "|O", 8), "expected numbers"),
        (lying("(1,)", "|S8", 8), "expected numbers"),
        (b"\x93NUMPY\x03\x00", r"version \(3, 0\), expected 1.0 or 2.0"),
        (b"PK\x03\x04", "no .npy header"),
        (b"", "no .npy header"),
        (lying("(" * 60), "no .npy header"),
        (lying(f"(0, 1, {2**62}, 4)"), "got an array of shape"),
        (lying("(True, 1, 1, 1)", data=8), r"got an array of shape \(True"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "frame_00000.npy"
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=told) as caught:
        read_npy(path)
    assert "\n" not in str(caught.value)


def test_what_is_no_lie_is_read(tmp_path: Path) -> None:
    for number, array in enumerate(
        [
            np.zeros((0, 1, 4, 4)),
            np.eye(3).T[:, ::-1],
            np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        ]
    ):
        np.save(tmp_path / f"{number}.npy", array)
        np.testing.assert_array_equal(read_npy(tmp_path / f"{number}.npy"), array)
    (tmp_path / "link.npy").symlink_to(tmp_path / "1.npy")
    with pytest.raises(RecordingError, match="cannot be read"):
        read_npy(tmp_path / "link.npy")


def test_logits_and_ids_that_do_not_agree_are_refused(folder: Path) -> None:
    np.save(folder / "frame_00003_obj_ids.npy", np.arange(5))
    assert any("frame_00003_obj_ids.npy: its check sum" in flaw for flaw in verify(folder).flaws)
    (folder / "index.jsonl").unlink()
    with (
        opened(folder) as recording,
        pytest.raises(RecordingError, match=r"expected \(n, 1, H, W\)"),
    ):
        recording.video_logits_at(3)


def test_it_goes_on_after_a_kill(folder: Path) -> None:
    index = folder / "index.jsonl"
    raw = index.read_bytes()
    index.write_bytes(raw[:-40])  # the end was not written
    assert verify(folder).torn_bytes > 0
    npy = reopen_npy(folder, OPTIONS)
    npy.append(video(50))
    npy.close()
    verdict = verify(folder)
    assert (verdict.flaws, verdict.closed, verdict.frames) == ((), True, 5)


def test_a_quota_counts_a_replaced_frame_once(folder: Path) -> None:
    size = sum(path.stat().st_size for path in folder.iterdir())
    limits = NpyOptions(space=SpaceLimits(0, 0, 2 * size))
    npy = reopen_npy(folder, limits)
    for pass_index in range(2, 8):
        npy.append(video(3, pass_index))
    assert npy.status.dropped == 0
    for frame_id in range(200, 220):
        npy.append(video(frame_id))
    assert npy.close().dropped > 0
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2.2 * size


def test_a_frame_that_is_missing_is_told(folder: Path) -> None:
    (folder / "frame_00003.npy").unlink()
    (flaw,) = verify(folder).flaws
    assert flaw == "frame_00003.npy: is gone"


@pytest.mark.parametrize("content", [b"", io.BytesIO().getvalue() + b"not json\n"])
def test_an_index_that_is_none_leaves_the_frames(folder: Path, content: bytes) -> None:
    (folder / "index.jsonl").write_bytes(content)
    with opened(folder) as recording:
        assert len(recording.frames()) == 4
    assert not verify(folder).is_whole
