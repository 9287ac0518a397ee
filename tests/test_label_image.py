"""Masks as one picture of labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from result_packets import random_packet

from stages.packets import HostPacket
from stages.sinks.label_image import LABELS, Labels, label_image
from stages.window import Window


def packet_of(ids: list[int], *, epoch: int = 0, identity: str = "tracked") -> HostPacket:
    packet, _ = random_packet(np.random.default_rng(0), len(ids), (8, 8))
    info = replace(packet.info, epoch=epoch, identity=identity)
    return replace(packet, info=info, object_ids=np.array(ids, np.int64))


def painted(packet: HostPacket, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same by the book: large masks first, pixel by pixel."""
    full = np.zeros(packet.info.size_hw, np.uint8)
    for row in np.argsort(-packet.area_px, kind="stable"):
        full[packet.mask(int(row))] = labels[row]
    return full


@pytest.mark.parametrize("size_hw", [(1, 1), (7, 9), (33, 40), (64, 129)])
@pytest.mark.parametrize("n", [0, 1, 6])
def test_each_pixel_has_the_label_of_the_smallest_mask_on_it(
    n: int, size_hw: tuple[int, int]
) -> None:
    rng = np.random.default_rng(n)
    for _ in range(10):
        packet, masks = random_packet(rng, n, size_hw)
        labels = rng.permutation(np.arange(1, 256))[:n].astype(np.uint8)
        found = label_image(packet, labels)
        assert found.shape == size_hw
        assert found.dtype == np.uint8
        assert np.array_equal(found, painted(packet, labels))
        assert np.array_equal(found > 0, masks.any(0))


def test_a_region_lies_where_it_was_cut_out() -> None:
    rng = np.random.default_rng(3)
    packet, masks = random_packet(rng, 3, (20, 30))
    window = Window((20, 30), (5, 11), (40, 60))
    info = replace(packet.info, size_hw=(40, 60), region=window)
    some = packet.area_px[:, None] > 0
    boxes = packet.mask_boxes_xyxy + some * np.array([11, 5, 11, 5], np.int32)
    moved = replace(packet, info=info, mask_boxes_xyxy=boxes.astype(np.int32))
    labels = np.array([1, 2, 3], np.uint8)
    found = label_image(moved, labels)
    assert found.shape == (40, 60)
    assert np.array_equal(found, painted(moved, labels))
    assert np.array_equal(found[5:25, 11:41] > 0, masks.any(0))


def test_a_packet_without_masks_makes_no_picture() -> None:
    packet, _ = random_packet(np.random.default_rng(0), 2, (8, 8), with_masks=False)
    with pytest.raises(ValueError, match="carries no masks"):
        label_image(packet, np.array([1, 2], np.uint8))


def test_a_label_stays_with_its_object() -> None:
    labels = Labels()
    assert labels.of(packet_of([0, 7])).tolist() == [1, 8]
    assert labels.of(packet_of([7, 262])).tolist() == [8, 9]  # 262 % 255 is 7, and taken
    assert labels.of(packet_of([262])).tolist() == [9]
    assert labels.of(packet_of([262, 517])).tolist() == [9, 8]  # 7's is free again
    assert labels.of(packet_of([254, 509, 255])).tolist() == [255, 1, 2]


def test_a_new_epoch_has_new_objects() -> None:
    labels = Labels()
    assert labels.of(packet_of([7, 262])).tolist() == [8, 9]
    assert labels.of(packet_of([262], epoch=1)).tolist() == [8]


def test_frames_segmented_afresh_count_their_rows() -> None:
    labels = Labels()
    assert labels.of(packet_of([90, 91], identity="none")).tolist() == [1, 2]
    assert labels.of(packet_of([92], identity="none")).tolist() == [1]
    many = labels.of(packet_of(list(range(300)), identity="none"))
    assert many[:255].tolist() == list(range(1, 256))
    assert not many[255:].any()


def test_more_objects_than_labels() -> None:
    labels = Labels().of(packet_of(list(range(1000, 1300))))
    assert sorted(labels[labels > 0].tolist()) == list(range(1, LABELS + 1))
    assert (labels == 0).sum() == 45
