"""Association, births and deaths on tables made by hand; no model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_sam2 import frame
from torch import Tensor

from stages.records import Detections
from stages.segmenters.lifecycle import (
    Lifecycle,
    LifecycleConfig,
    centre_distance,
    duplicates,
    mutual_best,
)
from stages.segmenters.mask_head import Masks
from stages.segmenters.slot_table import SlotTable

CPU = torch.device("cpu")
A, B, FAR = [10.0, 10.0, 50.0, 40.0], [60.0, 20.0, 90.0, 60.0], [100.0, 60.0, 130.0, 88.0]


def table(*boxes: list[float], classes: tuple[int, ...] = (), slots: int = 4) -> SlotTable:
    made = SlotTable(slots, 8, CPU)
    for place, box in enumerate(boxes):
        class_id = classes[place] if classes else 0
        made.move_in(torch.tensor([place]), yes(), torch.tensor([class_id]).int(),
                     torch.tensor([0.5]), 0)  # fmt: skip
        show(made, place, box)
    return made


def show(made: SlotTable, place: int, box: list[float], presence: float = 1.0) -> None:
    logits = torch.full((1, 8, 8), -5.0)
    logits[0, place] = 5.0
    masks = Masks(logits, torch.ones(1), torch.tensor([presence]), torch.zeros(1, 4))
    made.write(torch.tensor([place]), masks, torch.tensor([box]))


def yes() -> Tensor:
    return torch.tensor([True])


def seen(*boxes: list[float], classes: tuple[int, ...] = (), score: float = 0.9) -> Detections:
    rows = [*boxes, *[[0.0] * 4] * (3 - len(boxes))]
    return Detections(
        frame(), torch.tensor(rows), torch.full((3,), score),
        torch.tensor([*classes, *[0] * (3 - len(classes))]).int(),
        torch.arange(3) < len(boxes), computed=True,
    )  # fmt: skip


def lifecycle(**settings: Any) -> Lifecycle:
    return Lifecycle(LifecycleConfig(**{"sure": 1.0} | settings), CPU)


def test_a_detection_on_a_mask_wants_nothing_and_gives_its_score() -> None:
    slots, life = table(A), lifecycle(confirm=1)
    wishes = life.associate(seen(A), slots)
    assert not wishes.ready.any()
    assert slots.scores[0] == pytest.approx(0.9)
    assert slots.unseen[0] == 0
    assert life.waiting.tolist() == [0, 0]


def test_a_new_one_waits_until_confirmed() -> None:
    slots, life = table(A), lifecycle(confirm=3)
    ready = [bool(life.associate(seen(A, B), slots).ready[1]) for _ in range(4)]
    assert ready == [False, False, True, True]
    life.associate(seen(A), slots)
    assert not life.associate(seen(A, B), slots).ready.any()


def test_a_sure_one_begins_at_once_but_a_lost_one_is_confirmed() -> None:
    life = lifecycle(confirm=2, sure=0.5)
    assert life.associate(seen(A, score=0.6), table()).ready.tolist() == [True, False, False]
    assert not life.associate(seen(B, score=0.4), table()).ready.any()
    slots = table(A)
    slots.missing[0] = 5
    moved = [side + 15 for side in A]
    assert not life.associate(seen(moved, score=0.6), slots).ready.any()


def test_it_may_move_while_it_waits_but_not_jump() -> None:
    life = lifecycle(confirm=2)
    life.associate(seen(B), table())
    near = [side + 5 for side in B]
    assert life.associate(seen(near), table()).ready[0]
    assert not life.associate(seen(FAR), table()).ready[0]


def test_a_drifted_mask_is_looked_at_at_once_unless_somebody_prompted_it() -> None:
    drifted = [side + 8 for side in A]
    slots, life = table(A), lifecycle(confirm=3)
    wishes = life.associate(seen(drifted), slots)
    assert (wishes.ready.tolist(), int(wishes.slots[0])) == ([True, False, False], 0)
    slots.unseen[0] = -1
    assert not life.associate(seen(drifted), slots).ready.any()


def test_waiting_counts_those_that_would_be_ready_next() -> None:
    slots, life = table(FAR), lifecycle(confirm=2)
    drifted = [side + 8 for side in FAR]
    life.associate(seen(A, B, drifted), slots)
    assert life.waiting.tolist() == [2, 1]
    life.associate(seen(A), slots)
    assert life.waiting.tolist() == [1, 0]


def test_another_class_on_the_same_place_is_no_new_object() -> None:
    slots, life = table(A, classes=(1,)), lifecycle(confirm=1)
    assert not life.associate(seen(A, classes=(0,)), slots).ready.any()


def test_a_mask_that_left_its_box_is_prompted_anew() -> None:
    slots, life = table(A), lifecycle(confirm=1, refresh_below=0.6)
    half = [10.0, 10.0, 30.0, 40.0]
    wishes = life.associate(seen(half), slots)
    assert wishes.ready[0]
    assert wishes.slots[0] == 0
    assert not lifecycle(confirm=1, refresh_below=0.4).associate(seen(half), slots).ready.any()


def test_a_lost_one_is_found_again_in_reach_and_of_its_class() -> None:
    def wanted(box: list[float], class_id: int = 0, **settings: Any) -> int:
        slots = table(A)
        slots.missing[0] = 5
        wishes = lifecycle(confirm=1, **settings).associate(
            seen(box, classes=(class_id,)), slots
        )  # fmt: skip
        assert wishes.ready[0]
        return int(wishes.slots[0])

    moved = [side + 15 for side in A]
    assert wanted(moved) == 0
    assert wanted(moved, class_id=1) == 4
    assert wanted(FAR) == 4
    assert wanted(moved, reach=0.1) == 4


def test_one_whose_mask_went_astray_is_found_again_where_it_was_detected() -> None:
    def wanted(unseen: int, **settings: Any) -> int:
        slots = table(FAR)  # where its mask went
        slots.told_xyxy[0] = torch.tensor(A)
        slots.unseen[0] = unseen
        moved = [side + 30 for side in A]
        wishes = lifecycle(confirm=1, **settings).associate(seen(moved), slots)
        return int(wishes.slots[0])

    assert wanted(unseen=1) == 0
    assert wanted(unseen=0) == 4  # this one is not missed yet
    assert wanted(unseen=-1) == 4  # somebody's, to be put right by them
    assert wanted(unseen=2, astray=4) == 4
    assert wanted(unseen=2, reach=0.1) == 4


def test_of_two_detections_the_nearest_finds_a_lost_object() -> None:
    slots, life = table(A), lifecycle(confirm=1)
    slots.missing[0] = 5
    far, near = [[side + by for side in A] for by in (28.0, 9.0)]
    assert life.associate(seen(far, near), slots).slots.tolist()[:2] == [4, 0]


def test_absence_ends_an_object_after_its_time_and_presence_resets_it() -> None:
    slots, life = table(A, B), lifecycle(max_missing_frames=2)
    tracked = slots.live.clone()
    for place in range(3):
        show(slots, 0, A, presence=-1.0)
        show(slots, 1, B, presence=1.0 if place == 1 else -1.0)
        life.end(slots, tracked)
        assert slots.live[:2].tolist() == [place < 2, True]
    assert slots.object_ids[0] == -1
    assert (slots.logits[0] == -1024).all()


def test_what_no_detection_sees_ends_unless_prompted() -> None:
    slots, life = table(A, B), lifecycle(max_unseen_key_frames=2)
    slots.unseen[1] = -1
    for _ in range(3):
        life.associate(seen(), slots)
    life.end(slots, slots.live)
    assert slots.live[:2].tolist() == [False, True]


def test_what_crosses_an_object_with_a_detection_of_its_own_is_another_one() -> None:
    wide = [10.0, 10.0, 50.0, 60.0]  # the mask has spread over a neighbour
    beside = [10.0, 30.0, 50.0, 60.0]
    slots, life = table(wide), lifecycle(confirm=1)
    assert life.associate(seen(A, beside), slots).ready.tolist() == [True, True, False]
    again = [10.0, 10.0, 50.0, 44.0]  # a second box of the same object
    slots, life = table(A), lifecycle(confirm=1)
    assert not life.associate(seen(A, again), slots).ready.any()
    slots, life = table(wide), lifecycle(confirm=1)
    assert life.associate(seen(beside), slots).slots.tolist()[0] == 0  # nothing else explains it


def test_a_hidden_object_is_not_missed_by_the_detector() -> None:
    slots, life = table(A, B), lifecycle(max_unseen_key_frames=2)
    slots.missing[1] = 1
    for _ in range(3):
        life.associate(seen(), slots)
    assert slots.unseen[:2].tolist() == [3, 0]


@pytest.mark.parametrize(
    ("unseen", "gone"),
    [
        ((3, 3), [1]),  # both without a detection: the older one stays
        ((0, 3), [1]),
        ((3, 0), [0]),  # the older one has drifted onto what the younger one was given
        ((0, 0), []),  # two detections: two objects
        ((3, -1), [0]),  # asked for by somebody
        ((-1, 0), []),
    ],
)
def test_one_of_two_equal_masks_is_a_duplicate(unseen: tuple[int, int], gone: list[int]) -> None:
    slots = table(A, B)
    slots.unseen[:2] = torch.tensor(unseen)
    slots.logits[1] = slots.logits[0]
    assert duplicates(slots, 0.7).nonzero().flatten().tolist() == gone
    slots.logits[1, 3:6] = 5.0
    assert not duplicates(slots, 0.7).any()


def test_what_lies_on_another_object_is_out_of_sight_until_found_again() -> None:
    slots, life = table(A, A), lifecycle(confirm=1, max_missing_frames=2)
    slots.unseen[1] = 3
    slots.told_xyxy[1] = torch.tensor(A)

    def look() -> list[bool]:
        slots.logits[1] = slots.logits[0]  # each time the memory sees it there
        slots.presence[1] = 2.0
        life.end(slots, slots.live.clone())
        return slots.live[:2].tolist()

    assert look() == [True, True]
    assert (slots.logits[1] == -1024).all()
    assert (float(slots.presence[1]), int(slots.missing[1])) == (-2.0, 1)
    moved = [side + 30 for side in A]
    assert life.associate(seen(A, moved), slots).slots.tolist()[1] == 1
    assert [look(), look()] == [[True, True], [True, False]]


def test_slots_run_out_and_ids_are_never_used_again() -> None:
    slots = table(A, B, slots=2)
    assert int(slots.free_slot()) == 2
    refused = slots.move_in(slots.free_slot(), yes(), torch.tensor([0]).int(), torch.ones(1), 0)
    assert (int(refused), int(slots.refused)) == (-1, 1)
    slots.move_out(torch.tensor([True, False, False]))
    born = slots.move_in(slots.free_slot(), yes(), torch.tensor([0]).int(), torch.ones(1), 0)
    assert (int(born), int(slots.free_slot())) == (2, 2)
    assert slots.live.tolist() == [True, True, False]
    not_wanted = slots.move_in(slots.free_slot(), ~yes(), torch.tensor([0]).int(), torch.ones(1), 0)
    assert (int(not_wanted), int(slots.refused)) == (-1, 1)
    assert int(slots.slot_of(torch.tensor([2]))) == 0
    assert int(slots.slot_of(torch.tensor([0]))) == 2


def test_live_slots_come_first() -> None:
    slots = table(A, B, FAR)
    slots.move_out(torch.tensor([False, True, False, False, False]))
    rows, live = slots.live_first(3)
    assert rows.tolist() == [0, 2, 1]
    assert live.tolist() == [True, True, False]


def test_box_geometry() -> None:
    boxes = torch.tensor([A, B])
    assert centre_distance(boxes[:1], boxes[:1]).item() == 0
    shifted = boxes[:1] + torch.tensor([50.0, 0, 50, 0])
    assert centre_distance(boxes[:1], shifted).item() == pytest.approx(1)
    best = mutual_best(torch.tensor([[0.9, 0.5], [0.8, 0.2]]), 0.3)
    assert best.tolist() == [[True, False], [False, False]]
