"""Boxes on the device: overlaps, and what is named twice."""

from __future__ import annotations

import pytest
import torch
from torchvision import ops

from stages.boxes import box_iou, centre_distance, covered, diagonal, repeated

BOX, SHIFTED, FURTHER = [10.0, 10.0, 50.0, 40.0], [14.0, 10.0, 54.0, 40.0], [18.0, 10.0, 58.0, 40.0]
"""Neighbours overlap by 0.82, the outer two by 0.67."""


def test_overlaps_are_torchvisions_and_an_empty_box_has_none() -> None:
    boxes = torch.tensor([BOX, SHIFTED, FURTHER, [60.0, 20.0, 90.0, 60.0]])
    torch.testing.assert_close(box_iou(boxes, boxes), ops.box_iou(boxes, boxes))
    empty = torch.zeros(1, 4)
    assert box_iou(empty, empty).tolist() == [[0]]


@pytest.mark.parametrize(
    ("classes", "valid", "expected"),
    [
        ([0, 0, 0], [True, True, True], [False, True, True]),  # the third repeats a repetition
        ([0, 1, 0], [True, True, True], [False, False, False]),
        ([0, 0, 0], [False, True, True], [False, False, True]),
        ([0, 0, 0], [True, False, True], [False, True, False]),
    ],
)
def test_repetitions(classes: list[int], valid: list[bool], expected: list[bool]) -> None:
    boxes = torch.tensor([BOX, SHIFTED, FURTHER])
    found = repeated(boxes, torch.tensor(classes), torch.tensor(valid), most=0.7)
    assert found.tolist() == expected


def test_distances_and_sizes() -> None:
    boxes = torch.tensor([BOX, [40.0, 50.0, 80.0, 80.0]])
    assert diagonal(boxes).tolist() == [50, 50]
    assert centre_distance(boxes, boxes).tolist() == [[0, 50], [50, 0]]


def test_the_share_of_a_box_that_a_mask_covers_is_exact_within_cells() -> None:
    mask = torch.zeros(2, 4, 8, dtype=torch.bool)
    mask[0, 1:3, 2:6] = True  # of a frame of 40 x 160: x 40 to 120, y 10 to 30
    boxes = torch.tensor([[40.0, 10, 120, 30], [30.0, 10, 50, 20], [0, 25, 160, 35], [9, 9, 9, 9]])
    shares = covered(boxes, mask, (40, 160))
    torch.testing.assert_close(shares[:, 0], torch.tensor([1, 0.5, 0.25, 0]))
    assert not shares[:, 1].any()
