"""Which finds of which phrase are kept, on finds made by hand."""

from __future__ import annotations

import torch
from torchvision.ops import batched_nms, nms

from pipeline.audit import residency_guard
from stages.boxes import box_iou, greedy
from stages.detectors.concepts import POOL, Finds, choose

SIDE = 32


def finds(*found: tuple[float, tuple[int, int, int, int]]) -> Finds:
    """Scores, and boxes x1 y1 x2 y2 in cells of the mask that they are filled with."""
    masks = torch.full((len(found), SIDE, SIDE), -4.0)
    for row, (_, (x1, y1, x2, y2)) in enumerate(found):
        masks[row, y1:y2, x1:x2] = 4.0
    boxes = torch.tensor([[side / SIDE for side in box] for _, box in found])
    return Finds(torch.tensor([score for score, _ in found]), boxes, masks)


def test_of_two_that_overlap_the_surer_one_is_kept() -> None:
    given = finds((0.6, (0, 0, 10, 10)), (0.9, (0, 0, 10, 11)), (0.7, (20, 20, 30, 30)))
    chosen = choose([given], 4, 0.5, 0.7)
    assert torch.allclose(chosen.scores[chosen.valid], torch.tensor([0.9, 0.7]))
    assert chosen.scores.shape == (4,)
    assert chosen.masks.shape == (4, SIDE, SIDE)
    assert torch.equal(chosen.boxes_xyxy[0], given.boxes_xyxy[1])
    assert torch.equal(chosen.masks[0], given.masks[1])
    assert int(chosen.surplus) == 0
    assert int(choose([given], 1, 0.5, 0.7).surplus) == 1


def test_two_phrases_may_find_the_same_thing() -> None:
    a, b = finds((0.9, (0, 0, 10, 10))), finds((0.8, (0, 0, 10, 10)))
    chosen = choose([a, b], 4, 0.5, 0.7)
    assert chosen.valid.tolist() == [True, True, False, False]
    assert chosen.places[:2].tolist() == [0, 1]


def test_200_overlapping_finds_are_one() -> None:
    overlapping = finds(*[(0.9 - row / 1000, (0, 0, 10, 10)) for row in range(200)])
    chosen = choose([overlapping, overlapping], 16, 0.5, 0.7)
    assert int(chosen.valid.sum()) == 2


def test_what_is_unsure_or_shows_nothing_is_not_valid() -> None:
    unsure, flat = (0.4, (0, 0, 10, 10)), (0.9, (5, 5, 5, 20))
    assert not choose([finds(unsure, flat)], 2, 0.5, 0.7).valid.any()


def test_other_phrases_do_not_crowd_a_phrase_out_of_the_pool() -> None:
    many = finds(*[(0.95, (row % 31, row // 31, row % 31 + 1, row // 31 + 1)) for row in range(90)])
    one = finds((0.96, (0, 0, 10, 10)), *[(0.0, (0, 0, 1, 1))] * 89)
    chosen = choose([many, one], 16, 0.5, 0.7)
    assert int(chosen.places[0]) == 1
    assert POOL < 90


def test_greedy_suppression_is_torchvisions() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        corners = torch.rand(40, 2, generator=generator) * 60
        boxes = torch.cat((corners, corners + 5 + torch.rand(40, 2, generator=generator) * 30), 1)
        scores = torch.rand(40, generator=generator)
        order = scores.argsort(descending=True)
        ranked = boxes[order]
        kept = greedy(box_iou(ranked, ranked) > 0.5, torch.ones(40, dtype=torch.bool))
        assert order[kept].tolist() == nms(boxes, scores, 0.5).tolist()


def test_greedy_suppression_phrase_by_phrase_is_torchvisions_batched_one() -> None:
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(3, 20, 2, generator=generator) * 40
    boxes = torch.cat((corners, corners + 20), dim=2)
    kept = greedy(torch.stack([box_iou(each, each) > 0.4 for each in boxes]), torch.ones(3, 20) > 0)
    scores = torch.linspace(1, 0.1, 20).repeat(3)
    classes = torch.arange(3).repeat_interleave(20)
    expected = batched_nms(boxes.flatten(0, 1), scores, classes, 0.4)
    assert sorted(expected.tolist()) == kept.flatten().nonzero()[:, 0].tolist()


def test_the_choice_stays_on_the_device() -> None:
    first = finds((0.9, (0, 0, 10, 10)), (0.8, (1, 0, 10, 10)))
    second = finds((0.7, (9, 9, 20, 20)), (0.1, (0, 0, 1, 1)))
    with residency_guard():
        choose([first, second], 8, 0.5, 0.7)
