"""Association, births and deaths on tables made by hand; no model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_sam2 import frame
from torch import Tensor

from stages.records import Detections
from stages.segmenters.association import best_pairs
from stages.segmenters.duplicates import duplicates
from stages.segmenters.lifecycle import Lifecycle, LifecycleConfig
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
    return Lifecycle(LifecycleConfig(**{"sure": 1.0, "patience": 0} | settings), CPU)


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


def test_the_further_a_mask_slipped_off_the_more_urgent_is_its_refresh() -> None:
    slots, life = table(A, B, FAR), lifecycle(confirm=1)
    slots.missing[2] = 5
    slipped = [side + 8 for side in B]
    at_once = life.associate(seen(A, slipped, FAR), slots).urgency.tolist()
    assert at_once[0] == 0
    assert 0.3 < at_once[1] < 0.6
    assert at_once[2] == 1  # out of sight


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


def test_who_shows_little_is_found_by_the_size_that_it_had() -> None:
    """A sliver at one edge of a shadow comes out at the other one."""

    def wanted(first: list[float]) -> int:
        slots, life = table(first), lifecycle(confirm=1)
        life.associate(seen(first), slots)
        sliver = [44.0, 10.0, 50.0, 40.0]
        show(slots, 0, sliver)
        life.associate(seen(sliver), slots)
        slots.missing[0] = 5
        moved = [side + 40 if place % 2 == 0 else side for place, side in enumerate(sliver)]
        return int(life.associate(seen(moved), slots).slots[0])

    assert wanted(A) == 0
    assert wanted([44.0, 10.0, 52.0, 40.0]) == 4  # it was never larger


def test_a_part_of_an_object_that_is_detected_too_is_that_object() -> None:
    part = [10.0, 10.0, 30.0, 55.0]  # it sticks out

    def wants(on: list[float], classes: tuple[int, int] = (0, 0)) -> bool:
        slots, life = table(A, classes=classes[:1]), lifecycle(confirm=1)
        height, width = frame().size_hw
        x1, x2 = (round(side / width * 8) for side in on[::2])
        y1, y2 = (round(side / height * 8) for side in on[1::2])
        slots.logits[0] = -5.0
        slots.logits[0, y1:y2, x1:x2] = 5.0
        return bool(life.associate(seen(A, part, classes=(classes[0], classes[1])), slots).ready[1])

    assert not wants(on=A)
    assert wants(on=A, classes=(0, 1))
    assert wants(on=[35.0, 10.0, 50.0, 40.0])  # the mask leaves room for another one


@pytest.mark.parametrize("swapped", [False, True])
def test_a_box_in_a_box_of_its_class_is_the_same_object(swapped: bool) -> None:
    """What a shadow parts is detected in part and as a whole."""

    def wants(other: list[float], class_id: int = 0) -> list[bool]:
        known, second = (other, A) if swapped else (A, other)
        slots, life = table(known), lifecycle(confirm=1, refresh_below=0)
        slots.logits[0] = -5.0
        return life.associate(seen(known, second, classes=(0, class_id)), slots).ready.tolist()

    assert wants([12.0, 12.0, 28.0, 30.0]) == [False, False, False]
    assert wants([12.0, 12.0, 28.0, 30.0], class_id=1) == [False, True, False]
    assert wants([12.0, 34.0, 28.0, 52.0]) == [False, True, False]


def test_of_a_part_and_the_whole_the_surer_one_is_the_object() -> None:
    whole, part = [10.0, 10.0, 50.0, 60.0], [12.0, 10.0, 48.0, 38.0]

    def told(score: float) -> list[float]:
        slots, life = table(part), lifecycle()
        detections = seen(whole, part)
        detections.scores[1] = score
        life.associate(detections, slots)
        return slots.told_xyxy[0].tolist()

    assert told(0.9) == part
    assert told(0.3) == whole


def test_a_detection_follows_on_though_another_objects_fits_its_mask_better() -> None:
    """Both detections claim the object whose mask lies on both; each gets one of the objects."""
    slots, life = table(A, B), lifecycle(confirm=1, refresh_below=0)
    slots.told_xyxy[1] = torch.tensor(B)
    slots.boxes_xyxy[1] = torch.tensor(A)  # its mask slipped off
    slots.told_xyxy[0] = torch.tensor(A)
    assert not life.associate(seen(A, B), slots).ready.any()
    assert slots.unseen[:2].tolist() == [0, 0]
    assert slots.told_xyxy[:2].tolist() == [A, B]


def test_a_weak_detection_begins_nothing_and_brings_nobody_back() -> None:
    def ready(score: float, missing: int) -> list[bool]:
        slots, life = table(A), lifecycle(confirm=1, least=0.25)
        slots.missing[0] = missing
        moved = [side + 15 for side in A]
        return life.associate(seen(moved if missing else B, score=score), slots).ready.tolist()

    assert ready(0.3, missing=0) == ready(0.3, missing=5) == [True, False, False]
    assert ready(0.2, missing=0) == ready(0.2, missing=5) == [False, False, False]
    slots, life = table(A), lifecycle(confirm=1, refresh_below=0.95)
    assert life.associate(seen([side + 4 for side in A], score=0.2), slots).ready[0]  # it is known


def test_close_to_one_of_its_class_a_detection_must_be_patient() -> None:
    beside = [45.0, 10.0, 85.0, 40.0]

    def frames(box: list[float], class_id: int = 0, **lost: int) -> int:
        slots, life = table(A), lifecycle(confirm=1, patience=2, sure=0.5)
        slots.told_xyxy[0] = torch.tensor(A)
        slots.missing[0] = lost.get("missing", 0)
        for place in range(9):
            wishes = life.associate(seen(A, box, classes=(0, class_id)), slots)
            if wishes.ready[1]:
                return place
        return 9

    assert frames(beside) == 2
    assert frames(beside, class_id=1) == 0
    assert frames(FAR) == 0


def test_to_look_again_confirms_nobody() -> None:
    """Key frames on which a detection wanted its own mask refreshed do not count."""
    slots, life = table(A, FAR), lifecycle(confirm=2, refresh_below=0.95, reach=9.0)
    drifted = [side + 4 for side in A]
    life.associate(seen(drifted), slots)
    slots.missing[:2] = 5  # whoever wants one now must be there twice
    assert not life.associate(seen(drifted), slots).ready.any()
    assert life.associate(seen(drifted), slots).ready[0]


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
    beside = [10.0, 32.0, 50.0, 60.0]
    slots, life = table(wide), lifecycle(confirm=1)
    wishes = life.associate(seen(A, beside), slots)
    assert (wishes.ready.tolist(), wishes.slots.tolist()[:2]) == ([True, True, False], [0, 4])
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
    slots.unseen[:2], slots.settled[:2] = torch.tensor(unseen), 9
    slots.logits[1] = slots.logits[0]
    assert duplicates(slots, 0.7, 2).nonzero().flatten().tolist() == gone
    slots.logits[1, 3:6] = 5.0
    assert not duplicates(slots, 0.7, 2).any()


def test_who_was_out_of_sight_has_no_right_from_before() -> None:
    slots = table(A, B)
    slots.logits[1] = slots.logits[0]
    assert not duplicates(slots, 0.7, 2).any()
    slots.missing[0] = 1  # its memory sees it where the other one is detected
    assert duplicates(slots, 0.7, 2).nonzero().flatten().tolist() == [0]


@pytest.mark.parametrize(
    ("unseen", "settled", "gone"),
    [
        ((0, 0), (9, 0), [1]),
        ((0, 0), (0, 9), [0]),  # the older one was brought back onto a younger one
        ((1, 0), (9, 0), [1]),  # the newcomer took the detection
        ((2, 0), (9, 0), [0]),  # nobody saw the other one any more
        ((0, -1), (9, 0), []),  # asked for by somebody
        ((-1, 0), (0, 0), [1]),
        ((0, 0), (9, 9), []),
        ((0, 0), (0, 0), []),
    ],
)
def test_who_just_came_does_not_take_the_place_of_an_object(
    unseen: tuple[int, int], settled: tuple[int, int], gone: list[int]
) -> None:
    slots = table(A, B)
    slots.unseen[:2], slots.settled[:2] = torch.tensor(unseen), torch.tensor(settled)
    slots.logits[1] = slots.logits[0]
    assert duplicates(slots, 0.7, 2).nonzero().flatten().tolist() == gone


@pytest.mark.parametrize(("class_id", "gone"), [(0, [2]), (1, [])])
def test_who_just_came_is_not_what_others_of_its_class_show(class_id: int, gone: list[int]) -> None:
    slots = table(A, B, FAR, classes=(0, 0, class_id))
    slots.settled[:2] = 9
    slots.logits[2] = torch.maximum(slots.logits[0], slots.logits[1])  # one mask over two objects
    assert duplicates(slots, 0.7, 2).nonzero().flatten().tolist() == gone
    slots.logits[2, 4:7] = 5.0  # they are a small part of it
    assert not duplicates(slots, 0.7, 2).any()


def test_a_prompt_that_shows_what_another_object_shows_is_not_admitted() -> None:
    slots, life = table(A, B, FAR), lifecycle()
    slots.settled[:2] = 9
    rows = torch.tensor([1, 4, 0, 2])  # B and A looked at again, C new
    logits = slots.logits[[0, 0, 0, 1]]  # B shows A, A itself, C shows B
    assert life.admit(slots, rows, logits, known=3).tolist() == [4, 4, 0, 4]
    assert slots.live.tolist() == [True, True, False, False, False]
    slots.unseen[0] = 2  # A may be lost itself: no detection saw it
    assert life.admit(slots, rows, logits, known=3).tolist() == [1, 4, 0, 4]


def test_who_is_out_of_sight_and_near_is_found_again() -> None:
    slots, life = table(A, B), lifecycle(confirm=1)
    life.associate(seen(A), slots)
    slots.missing[1] = 5
    life.associate(seen(A), slots)
    assert slots.settled[:2].tolist() == [2, 2]
    moved = [side + 5 for side in B]
    wishes = life.associate(seen(A, moved), slots)
    assert (wishes.ready.tolist(), int(wishes.slots[1])) == ([False, True, False], 1)
    assert wishes.again.tolist() == [False, True, False]


@pytest.mark.parametrize(("settled", "refreshed"), [((9, 0), 0), ((9, 9), None)])
def test_who_was_there_keeps_its_detection(settled: tuple[int, int], refreshed: int | None) -> None:
    slots, life = table(FAR, A), lifecycle()
    slots.settled[:2] = torch.tensor(settled)
    slots.told_xyxy[0] = torch.tensor([10.0, 10, 50, 36])  # its mask just slipped off
    wishes = life.associate(seen(A), slots)
    assert wishes.ready[0] == (refreshed is not None)
    assert int(wishes.slots[0]) == (1 if refreshed is None else refreshed)


def test_who_is_out_of_sight_has_just_come_once_it_is_seen_again() -> None:
    slots, life = table(A, B), lifecycle()
    slots.settled[:2] = 9
    show(slots, 1, B, presence=-1.0)
    for _ in range(2):
        life.end(slots, slots.live.clone())
        show(slots, 1, B)
    assert slots.settled[:2].tolist() == [9, 0]


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


def test_padding_may_hold_anything() -> None:
    """A row that is not valid disturbs nobody, whatever stands there."""
    slots, life = table(A, FAR), lifecycle(confirm=1, reach=9.0)
    slots.missing[1] = 5
    detections = seen(A, B)
    detections.boxes_xyxy[2], detections.scores[2] = float("nan"), float("nan")
    wishes = life.associate(detections, slots)
    assert (wishes.ready.tolist(), wishes.slots.tolist()[:2]) == ([False, True, False], [0, 1])
    assert slots.unseen[0] == 0
    assert slots.told_xyxy[0].tolist() == A


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


@pytest.mark.parametrize(
    ("scores", "pairs"),
    [
        ([[0.9, 0.5], [0.8, 0.2]], [(0, 0), (1, 1)]),  # the loser takes what is left
        ([[0.9, 0.0], [0.8, 0.0]], [(0, 0)]),
        ([[0.5, 0.5], [0.5, 0.5]], [(0, 0), (1, 1)]),  # equal claims are not granted twice
        ([[0.0, 0.0]], []),
    ],
)
def test_pairs_by_falling_score(scores: list[list[float]], pairs: list[tuple[int, int]]) -> None:
    found = best_pairs(torch.tensor(scores)).nonzero().tolist()
    assert [tuple(pair) for pair in found] == pairs
