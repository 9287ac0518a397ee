"""Pack against numpy: bits, boxes, areas, centroids, for any size."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from kpi.events import SamMaskOutput
from pipeline.audit import residency_guard
from pipeline.fake_cuda import fake_cuda
from stages.errors import ResidencyError
from stages.mask_upsampling import Foreground, upsample
from stages.pack import Pack, measure, pack_bits
from stages.records import ResultPacket
from tests.tiny_sam2 import blobs, frame, listening, tracks

SIZES = [(480, 640), (90, 131), (7, 1), (1, 9), (300, 8), (33, 2100), (1, 1)]


def padded(masks: NDArray[np.bool_]) -> Tensor:
    return torch.from_numpy(np.pad(masks, ((0, 0), (0, 0), (0, -masks.shape[2] % 8))))


def random_masks(size_hw: tuple[int, int], seed: int) -> NDArray[np.bool_]:
    """Noise of every density from none to all."""
    rng = np.random.default_rng(seed)
    density = np.array([0.0, 0.001, 0.5, 1.0])[:, None, None]
    return rng.random((4, *size_hw)) < density


def expected_box(mask: NDArray[np.bool_]) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return [0, 0, 0, 0]
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def expected_centroid(mask: NDArray[np.bool_]) -> list[float]:
    rows, columns = np.nonzero(mask)
    return [columns.mean() + 0.5, rows.mean() + 0.5] if len(rows) else [0.0, 0.0]


def assert_measured(packet: ResultPacket, masks: NDArray[np.bool_]) -> None:
    assert np.array_equal(packet.masks.numpy(), np.packbits(masks, axis=-1))
    assert packet.mask_boxes_xyxy.tolist() == [expected_box(mask) for mask in masks]
    assert packet.area_px.tolist() == masks.sum((1, 2)).tolist()
    centroids = [expected_centroid(mask) for mask in masks]
    np.testing.assert_allclose(packet.centroids_xy.numpy(), centroids, rtol=0, atol=1e-3)


@pytest.mark.parametrize("size_hw", SIZES)
def test_bits_are_those_of_numpy(size_hw: tuple[int, int]) -> None:
    masks = random_masks(size_hw, seed=1)
    packed = pack_bits(padded(masks))
    assert np.array_equal(packed.numpy(), np.packbits(masks, axis=-1))
    assert packed.is_contiguous()


@pytest.mark.parametrize("size_hw", SIZES)
def test_boxes_areas_and_centroids_are_those_of_numpy(size_hw: tuple[int, int]) -> None:
    masks = random_masks(size_hw, seed=2)
    shapes = measure(padded(masks))
    assert shapes.boxes_xyxy.tolist() == [expected_box(mask) for mask in masks]
    assert shapes.area_px.tolist() == masks.sum((1, 2)).tolist()
    centroids = [expected_centroid(mask) for mask in masks]
    np.testing.assert_allclose(shapes.centroids_xy.numpy(), centroids, rtol=0, atol=1e-3)


def test_counts_do_not_overflow_their_bytes() -> None:
    """Full masks taller and wider than a byte can count, in rows and in groups of columns."""
    masks = np.ones((1, 1100, 2056), dtype=np.bool_)
    shapes = measure(padded(masks))
    assert shapes.area_px.tolist() == [1100 * 2056]
    assert shapes.boxes_xyxy.tolist() == [[0, 0, 2056, 1100]]
    assert shapes.centroids_xy.tolist() == [[1028, 550]]


@pytest.mark.parametrize("size_hw", [(480, 640), (90, 131), (17, 3), (16, 16)])
@pytest.mark.parametrize("threshold", [0.0, 1.5, -2.0])
def test_masks_are_the_upsampled_logits(size_hw: tuple[int, int], threshold: float) -> None:
    logits = blobs(6, 16, seed=3)
    packet = Pack(threshold).pack(tracks(frame(size_hw), logits))
    reference = upsample(logits, size_hw)
    assert 0.1 < float((reference > threshold).float().mean()) < 0.9
    assert_measured(packet, (reference > threshold).numpy())


def test_rounding_hardly_ever_decides_a_pixel() -> None:
    """The CPU's matrix products against `interpolate`, on the hardest logits: noise."""
    generator = torch.Generator().manual_seed(4)
    for _ in range(4):
        logits = torch.randn(8, 32, 32, generator=generator) * 8
        pixels = Foreground(logits, (480, 640)).pixels(logits, torch.ones(8).bool(), 0.0)
        reference = upsample(logits, (480, 640))
        differs = pixels != (reference > 0)
        assert float(reference[differs].abs().sum()) < 1e-4
        assert int(differs.sum()) <= 2


def test_both_ways_to_upsample_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one for CUDA works on CPU tensors too."""
    logits, valid = blobs(5, 16, seed=5), torch.tensor([True, True, False, True, True])
    size_hw = (90, 131)
    products, interpolated = Foreground(logits, size_hw), Foreground(logits, size_hw)
    monkeypatch.setattr(interpolated, "_products", None)
    first = products.pixels(logits, valid, 0.5).clone()
    assert torch.equal(first, interpolated.pixels(logits, valid, 0.5))
    assert not first[2].any()
    assert first[3].any()


def test_empty_slots_have_empty_masks_whatever_their_logits() -> None:
    logits = torch.full((4, 8, 8), 9.0)
    logits[2] = float("nan")
    packet = Pack(0.0).pack(tracks(frame(), logits, valid=[True, False, False, True]))
    assert packet.valid.tolist() == [True, False, False, True]
    assert packet.area_px.tolist() == [90 * 131, 0, 0, 90 * 131]
    assert packet.mask_boxes_xyxy[1:3].tolist() == [[0, 0, 0, 0]] * 2
    assert packet.centroids_xy[1:3].tolist() == [[0, 0]] * 2
    assert not packet.masks[1:3].any()


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
def test_a_broken_logit_does_not_spread(broken: float) -> None:
    logits = torch.full((1, 8, 8), 5.0)
    logits[0, 0, 0] = broken
    mask = Pack(0.0).pack(tracks(frame((64, 64)), logits)).masks
    assert (mask[0, 16:] == 255).all()
    assert (mask[0, 0, 0] == 255) == (broken > 0)


def test_packet_carries_what_it_was_made_from() -> None:
    at = dataclasses.replace(
        frame(epoch=3, frame_id=11), captured_unix_ns=9, spacing_mm=(0.1, 0.2), pose=np.eye(4)
    )
    made_from = tracks(at, blobs(3, 8))
    packet = Pack(0.0, identity="tracked", logits=True).pack(made_from)
    info = packet.info
    assert (info.source_id, info.epoch, info.frame_id) == ("camera", 3, 11)
    assert (info.captured_ns, info.grabbed_ns, info.captured_unix_ns) == (5, 7, 9)
    assert (info.size_hw, info.spacing_mm, info.identity) == ((90, 131), (0.1, 0.2), "tracked")
    assert info.pose is at.pose
    for name in ("object_ids", "class_ids", "scores", "presence", "quality", "valid", "logits"):
        assert getattr(packet, name) is getattr(made_from, name)
    assert packet.mask_age_frames is made_from.age_frames
    plain = Pack(0.0).pack(made_from)
    assert plain.logits is None
    assert plain.info.identity == "none"


def test_packets_do_not_share_memory() -> None:
    pack = Pack(0.0)
    first = pack.pack(tracks(frame(), blobs(3, 8, seed=6)))
    kept = first.masks.clone()
    pack.pack(tracks(frame(), blobs(3, 8, seed=7)))
    assert torch.equal(first.masks, kept)


def test_a_change_of_size_leaves_nothing_behind() -> None:
    pack, logits = Pack(0.0), torch.full((2, 8, 8), 1.0)
    for size_hw in ((40, 13), (20, 9), (40, 13)):
        packet = pack.pack(tracks(frame(size_hw), logits))
        assert_measured(packet, np.ones((2, *size_hw), dtype=np.bool_))


def test_tells_the_kpi_that_masks_stayed() -> None:
    with listening() as events:
        Pack(0.0).pack(tracks(frame(), blobs(5, 8)))
    assert events == [SamMaskOutput(as_numpy=0, device="cpu", objects=5)]


def test_is_resident() -> None:
    pack, made_from = Pack(0.0), tracks(frame(), blobs(4, 16))
    pack.pack(made_from)
    with residency_guard() as report:
        packet = pack.pack(made_from)
    assert not report.violations
    with pytest.raises(ResidencyError), residency_guard():
        packet.area_px.tolist()


def test_the_way_for_cuda_is_resident(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, valid = blobs(4, 16), torch.ones(4, dtype=torch.bool)
    foreground = Foreground(logits, (90, 131))
    monkeypatch.setattr(foreground, "_products", None)
    with residency_guard() as report:
        pack_bits(foreground.pixels(logits, valid, 0.0))
    assert not report.violations


def test_nothing_is_left_on_the_host() -> None:
    made_from = tracks(frame((480, 640)), blobs(4, 16))
    with fake_cuda(made_from) as (on_cuda,):
        packet = Pack(0.0).pack(on_cuda)
    assert packet.masks.device == torch.device("cuda:0")
    assert packet.masks.shape == (4, 480, 80)


@pytest.mark.gpu
def test_on_a_gpu_as_on_the_cpu() -> None:
    logits, pack = blobs(8, 32, seed=8), Pack(0.0)
    made_from = tracks(frame((480, 640), device="cuda"), logits.cuda())
    pack.pack(made_from)
    with residency_guard(cuda_sync_debug="error"):
        packet = pack.pack(made_from)
    masks = (upsample(logits.cuda(), (480, 640)) > 0).cpu().numpy()
    assert np.array_equal(packet.masks.cpu().numpy(), np.packbits(masks, axis=-1))
    assert packet.area_px.tolist() == masks.sum((1, 2)).tolist()
    assert packet.mask_boxes_xyxy.tolist() == [expected_box(mask) for mask in masks]
