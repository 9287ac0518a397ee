"""The legacy exit and what comes after it, against the resident chain."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from kpi.events import SamMaskOutput
from pipeline.audit import residency_guard
from stages.as_numpy import AsNumpy
from stages.errors import ResidencyError
from stages.pack import Pack
from stages.pack_numpy import PackNumpy
from tests.tiny_sam2 import blobs, frame, listening, tracks

VALID = [True, False, True, True]


def test_gives_one_bool_array_a_valid_object() -> None:
    made_from = tracks(frame(), blobs(4, 16), VALID)
    host = AsNumpy(0.0).exit(made_from)
    assert host.frame is made_from.detections.frame
    assert len(host.masks) == 3
    assert all(mask.dtype == np.bool_ and mask.shape == (90, 131) for mask in host.masks)
    assert host.object_ids.tolist() == [10, 12, 13]
    assert host.class_ids.tolist() == [0, 2, 3]
    assert host.age_frames.tolist() == [0, 2, 3]
    for name in ("scores", "presence", "quality"):
        expected = getattr(made_from, name).numpy()[VALID]
        assert np.array_equal(getattr(host, name), expected)


@pytest.mark.parametrize("size_hw", [(480, 640), (90, 131), (5, 3)])
@pytest.mark.parametrize("valid", [VALID, [False] * 4])
@pytest.mark.parametrize("threshold", [0.0, 3.0])
def test_both_chains_end_in_the_same_packet(
    size_hw: tuple[int, int], valid: list[bool], threshold: float
) -> None:
    made_from = tracks(frame(size_hw), blobs(4, 16, seed=2), valid)
    legacy = PackNumpy("tracked").pack(AsNumpy(threshold).exit(made_from))
    resident = Pack(threshold, "tracked").pack(made_from)
    assert dataclasses.asdict(legacy.info) == dataclasses.asdict(resident.info)
    for name in ("object_ids", "class_ids", "scores", "presence", "quality", "mask_age_frames"):
        ours, theirs = getattr(legacy, name), getattr(resident, name).numpy()[valid]
        assert ours.dtype == theirs.dtype, name
        assert np.array_equal(ours, theirs), name
    for name in ("mask_boxes_xyxy", "area_px", "masks"):
        ours, theirs = getattr(legacy, name), getattr(resident, name).numpy()[valid]
        assert ours.dtype == theirs.dtype, name
        assert np.array_equal(ours, theirs), name
    np.testing.assert_allclose(
        legacy.centroids_xy, resident.centroids_xy.numpy()[valid], rtol=0, atol=1e-3
    )
    for row in range(sum(valid)):
        assert legacy.mask(row).sum() == legacy.area_px[row]


def test_copies_are_counted() -> None:
    exit_ = AsNumpy(0.0)
    assert (exit_.copies.direction, exit_.copies.where, exit_.copies.copies) == (
        "d2h",
        "as_numpy",
        0,
    )
    exit_.exit(tracks(frame(), blobs(4, 16)))
    assert exit_.copies.copies == 8
    rows = 4 * (1 + 8 + 4 + 4 + 4 + 4 + 4)
    assert exit_.copies.copied_bytes == 4 * 90 * 131 + rows


def test_the_audit_catches_it() -> None:
    """The control of every residency test: the same input that Pack takes cleanly."""
    made_from = tracks(frame(), blobs(4, 16))
    exit_, pack = AsNumpy(0.0), Pack(0.0)
    exit_.exit(made_from)
    pack.pack(made_from)
    with residency_guard():
        pack.pack(made_from)
    with pytest.raises(ResidencyError, match=r"as_numpy\.py"), residency_guard():
        exit_.exit(made_from)
    with residency_guard("count") as report:
        exit_.exit(made_from)
    assert report.count("d2h") >= 8
    assert not report.exits


def test_tells_the_kpi_that_masks_left() -> None:
    with listening() as events:
        AsNumpy(0.0).exit(tracks(frame(), blobs(4, 16), VALID))
    assert events == [SamMaskOutput(as_numpy=1, device="cpu", objects=4)]


@pytest.mark.gpu
def test_from_a_gpu() -> None:
    made_from = tracks(frame(device="cuda"), blobs(4, 16).cuda(), VALID)
    with listening() as events:
        host = AsNumpy(0.0).exit(made_from)
    assert events == [SamMaskOutput(as_numpy=1, device="cuda:0", objects=4)]
    assert all(isinstance(mask, np.ndarray) for mask in host.masks)
    assert len(host.masks) == 3
    assert torch.is_tensor(made_from.logits)
