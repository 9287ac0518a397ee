"""Logits in fewer bits, at video resolution, and exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from recordings import ANY_SPACE, log_options, logits, low_logits, manifest

from stages.errors import RecordingError
from stages.mask_upsampling import Foreground, upsample
from stages.recording.entries import Logits, VideoLogits
from stages.recording.entry import Stamp
from stages.recording.export import export_npy
from stages.recording.log_reader import LogRecording
from stages.recording.manifest import Interpolation, Manifest
from stages.recording.npy_reader import NpyRecording
from stages.recording.npy_writer import NpyOptions
from stages.recording.quantise import NO_OBJECT, LogitsDtype, dequantised, quantised
from stages.recording.reading import open_recording
from stages.recording.verify import verify
from stages.recording.video_logits import video_logits, video_logits_at
from stages.recording.writing import create_log, create_npy
from stages.window import Window, whole

DTYPES: tuple[LogitsDtype, ...] = ("float32", "float16", "int8")


def bound(values: NDArray[np.float32], dtype: LogitsDtype) -> NDArray[np.float64]:
    """The worst error of each logit, as `stages.recording.quantise` states it."""
    x = np.abs(values.astype(np.float64))
    if dtype == "float32":
        return np.zeros_like(x)
    if dtype == "float16":
        return np.maximum(x / 2048, 2.0**-25)
    largest = np.where(values == NO_OBJECT, 0, x).max(axis=(1, 2), keepdims=True)
    return np.where(values == NO_OBJECT, 0, largest / 254 + largest * 2.0**-20)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_error_is_within_what_is_stated(dtype: LogitsDtype) -> None:
    rng = np.random.default_rng(1)
    scales = np.array([1e-30, 1e-6, 1, 10, 30, 6e4], np.float32)
    values = rng.uniform(-1, 1, (6, 64, 64)).astype(np.float32) * scales[:, None, None]
    values[2:, :8] = NO_OBJECT
    values[5, 8:] = NO_OBJECT  # nobody there at all
    found = dequantised(quantised(values, dtype).__getitem__)
    assert found.dtype == np.float32
    error = np.abs(found.astype(np.float64) - values)
    assert (error <= bound(values, dtype)).all()
    assert (found[values == NO_OBJECT] == NO_OBJECT).all()
    if dtype != "float32":  # the bound is no wider than it must be
        assert (error[2:5, 8:] > 0.9 * bound(values, dtype)[2:5, 8:]).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_stays_on_its_side(dtype: LogitsDtype) -> None:
    values = np.array([[[np.nan, np.inf, -np.inf, 3.0]]], np.float32)
    found = dequantised(quantised(values, dtype).__getitem__)[0, 0]
    assert not found[0] > 0
    assert found[1] >= 3 > -3 >= found[2]
    assert found[3] == 3
    assert quantised(np.zeros((0, 2, 2), np.float32), dtype)["logits"].shape == (0, 2, 2)


def test_logits_of_another_shape_are_refused() -> None:
    arrays = {"logits": np.zeros((2, 3), np.float32)}
    with pytest.raises(RecordingError, match=r"expected float32, float16 or int8 \(n, h, w\)"):
        dequantised(arrays.__getitem__)
    arrays = {"logits": np.zeros((2, 3, 3), np.int8), "scale": np.zeros(3, np.float32)}
    with pytest.raises(RecordingError, match="scale"):
        dequantised(arrays.__getitem__)


def test_video_resolution_is_sam2s() -> None:
    low = logits(0)
    found = video_logits(low, Interpolation()).values
    expected = upsample(torch.from_numpy(low.values), (24, 40))[:, None].numpy()
    np.testing.assert_array_equal(found, expected)
    assert (found.dtype, found.shape) == (np.float32, (2, 1, 24, 40))


def test_masks_of_the_video_logits_are_those_that_the_run_packs() -> None:
    low = Logits(Stamp(0, 0), np.arange(3), low_logits(3, 3, 16), whole((30, 45)))
    values = video_logits(low, Interpolation()).values[:, 0]
    tensor = torch.from_numpy(low.values)
    packed = Foreground(tensor, (30, 45)).pixels(tensor, torch.ones(3, dtype=torch.bool), 0.0)
    differ = (values > 0) != packed[..., :45].numpy()
    assert np.abs(values[differ]).max(initial=0) < 1e-4, "but for rounding at the very edge"
    assert differ.mean() < 1e-3


def test_a_region_is_placed_in_the_picture() -> None:
    low = Logits(Stamp(0, 0), np.arange(1), low_logits(1, 1), Window((6, 8), (2, 3), (20, 30)))
    found = video_logits(low, Interpolation()).values
    assert found.shape == (1, 1, 20, 30)
    inside = upsample(torch.from_numpy(low.values), (6, 8)).numpy()
    np.testing.assert_array_equal(found[0, 0, 2:8, 3:11], inside[0])
    assert (found[0, 0] == NO_OBJECT).sum() == 20 * 30 - 6 * 8


def test_overlaps_are_left_to_one_object_as_sam2_does() -> None:
    from sam2.modeling.sam2_base import SAM2Base

    low = Logits(Stamp(0, 0), np.arange(3), low_logits(5, 3), whole((12, 12)))
    found = video_logits(low, Interpolation(non_overlapping=True)).values
    plain = torch.from_numpy(video_logits(low, Interpolation()).values)
    expected = SAM2Base._apply_non_overlapping_constraints(None, plain).numpy()
    np.testing.assert_array_equal(found, expected)
    assert ((found > 0).sum(0) <= 1).all()
    assert ((plain.numpy() > 0).sum(0) > 1).any()


def recorded(root: Path, dtype: LogitsDtype, compress: bool = False) -> Path:
    """Two passes over frames with one, two and no objects, as a log and directly as npy files."""
    log = create_log(root, Manifest("log", "s", logits_dtype=dtype), log_options(3000, compress))
    npy = create_npy(root / "direct", manifest("npy"), NpyOptions(space=ANY_SPACE))
    for frame_id, pass_index in [(4, 0), (5, 0), (100_001, 0), (5, 1), (4, 1), (3, 1)]:
        low = logits(frame_id, objects=frame_id % 3, pass_index=pass_index)
        log.append(low.entry(dtype))
        npy.append(video_logits(low, Interpolation()))
    log.close()
    npy.close()
    return root / "s"


def files(root: Path) -> dict[str, bytes]:
    folder = root / "predictions" / "s"
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.npy"))}


@pytest.mark.parametrize("compress", [False, True])
def test_an_export_is_the_direct_recording_bit_for_bit(tmp_path: Path, compress: bool) -> None:
    done = export_npy(recorded(tmp_path, "float32", compress), tmp_path / "out")
    assert (done.frames, done.left_out) == (4, ())
    assert files(tmp_path / "out") == files(tmp_path / "direct")
    assert len(files(tmp_path / "out")) == 8
    assert verify(done.path).is_whole


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_an_export_of_fewer_bits_is_within_the_bound(tmp_path: Path, dtype: LogitsDtype) -> None:
    path = recorded(tmp_path, dtype)
    export_npy(path, tmp_path / "out")
    found, direct = (
        open_recording(tmp_path / name / "predictions/s") for name in ("out", "direct")
    )
    assert isinstance(found, NpyRecording)
    assert found.manifest is not None
    assert (found.manifest.logits_dtype, found.manifest.exported_from) == ("float32", dtype)
    assert isinstance(direct, NpyRecording)
    for _, frame_id in direct.frames():
        one, other = found.video_logits_at(frame_id), direct.video_logits_at(frame_id)
        np.testing.assert_array_equal(one.object_ids, other.object_ids)
        low = logits(frame_id, objects=frame_id % 3, pass_index=int(frame_id < 10)).values
        worst = bound(low, dtype).max(initial=0) * (1 + 1e-5) + 1e-6
        error = np.abs(one.values - other.values).max(initial=0)
        assert error <= worst
        assert error > 0 or frame_id % 3 == 0, "it was recorded in fewer bits"


def test_an_export_goes_on_past_a_damaged_frame(tmp_path: Path) -> None:
    path = recorded(tmp_path, "float32")
    with open_recording(path) as recording:
        assert isinstance(recording, LogRecording)
        record = recording.at("logits", 100_001)
        name, _, at = record.where.partition(" byte ")
    with (path / name).open("r+b") as file:
        file.seek(int(at) + 85)
        file.write(b"\xff")
    done = export_npy(path, tmp_path / "out")
    assert done.frames == 3
    assert len(done.left_out) == 1
    assert "frame 100001" in done.left_out[0]
    (gap,) = open_recording(done.path).gaps()
    assert (gap.dropped, gap.first.frame_id) == (1, 100_001)


def test_an_export_that_is_cut_off_says_so(tmp_path: Path) -> None:
    path = recorded(tmp_path, "float32")

    def interrupt(done: int, of: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_npy(path, tmp_path / "out", interrupt)
    with open_recording(tmp_path / "out/predictions/s") as copy:
        assert [(gap.reason, gap.dropped) for gap in copy.gaps()] == [("the export was cut off", 2)]
        assert len(copy.frames()) == 2


def test_what_cannot_be_exported_is_told(tmp_path: Path) -> None:
    log = create_log(tmp_path, manifest(session_id="twice"), log_options())
    log.append(logits(1, epoch=0).entry())
    log.append(logits(1, epoch=1).entry())
    log.close()
    with pytest.raises(RecordingError, match="frame 1 lies in more than one epoch"):
        export_npy(tmp_path / "twice", tmp_path / "out")
    create_log(tmp_path, manifest(session_id="empty"), log_options()).close()
    with pytest.raises(RecordingError, match="no logits to export"):
        export_npy(tmp_path / "empty", tmp_path / "out")
    recorded(tmp_path, "float32")
    with pytest.raises(RecordingError, match="npy layout already"):
        export_npy(tmp_path / "direct/predictions/s", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_both_layouts_give_video_logits(tmp_path: Path) -> None:
    path = recorded(tmp_path, "float32")
    with open_recording(path) as log, open_recording(tmp_path / "direct/predictions/s") as npy:
        one, other = video_logits_at(log, 5), video_logits_at(npy, 5)
    assert isinstance(one, VideoLogits)
    np.testing.assert_array_equal(one.values, other.values)
    assert one.stamp == other.stamp
