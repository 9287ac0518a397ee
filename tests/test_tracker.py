"""What a key frame grants, and corrections of who was not followed; a tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from tiny_sam2 import detections, frame, write_model

from pipeline.build import tracker_bytes
from stages.records import Detections
from stages.segmenters import lifecycle
from stages.segmenters.live_prompts import Prompt
from stages.segmenters.occupancy import Permit
from stages.segmenters.sam2_stream import Sam2StreamConfig, Sam2StreamSegmenter
from stages.segmenters.slot_table import SlotTable
from stages.segmenters.tracker import APPLIED, UNKNOWN_OBJECT, Tracker
from stages.segmenters.tracker_records import Pictures

CPU = torch.device("cpu")
BOXES = [[20.0, 20.0, 70.0, 60.0], [80.0, 30.0, 120.0, 80.0], [0.0] * 4, [0.0] * 4]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    structure, weights = write_model(tmp_path_factory.mktemp("model"))
    config = Sam2StreamConfig(model=str(structure), checkpoint=weights, max_objects=4)
    return Sam2StreamSegmenter(config, CPU).tracker


@pytest.fixture
def tracker(built: Tracker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracker]:
    # The random model may give two boxes one mask; that is not what is tested here.
    monkeypatch.setattr(lifecycle, "hosts", lambda table, _: table.live & False)
    with torch.inference_mode():
        built.clear()
        yield built


@pytest.fixture
def encoded(tracker: Tracker) -> Pictures:
    return tracker.units.encode(tracker.core.network.transform(frame().rgb))


def two(score: float = 0.9) -> Detections:
    found = detections(frame(), BOXES, [True, True, False, False])
    return replace(found, scores=torch.full((4,), score))


def test_the_table_is_as_large_as_it_says(tracker: Tracker) -> None:
    sizes = [tensor.numel() * tensor.element_size() for tensor in tracker.table.tensors]
    assert sum(sizes) == SlotTable.nbytes(4, tracker.table.logits.shape[-1])


def test_what_doctor_tells_is_what_the_demo_holds() -> None:
    demo = Sam2StreamSegmenter(Sam2StreamConfig(model="demo", max_objects=3), CPU).tracker
    held = [*demo.core.bank.tensors, *demo.table.tensors]
    assert tracker_bytes(3, 4)["demo"] == sum(one.numel() * one.element_size() for one in held)


@pytest.mark.parametrize("looks", [0, 1, 2, 4])
def test_permitted_looks_that_nobody_needs_take_no_birth_away(
    tracker: Tracker, encoded: Pictures, looks: int
) -> None:
    tracker.grow(encoded, two(), Permit(births=3, looks=looks))
    assert tracker.table.live.tolist() == [True, True, False, False, False]


def test_two_detections_of_one_place_begin_one_object(tracker: Tracker, encoded: Pictures) -> None:
    found = two()
    found.boxes_xyxy[1] = found.boxes_xyxy[0] + 2
    tracker.grow(encoded, found, Permit(births=3, looks=2))
    assert int(tracker.table.live.sum()) == 1


@pytest.mark.parametrize(("permit", "granted"), [(Permit(0, 1), True), (Permit(0, 0), False)])
def test_who_is_brought_back_has_just_come_and_takes_the_score(
    tracker: Tracker, encoded: Pictures, permit: Permit, granted: bool
) -> None:
    table = tracker.table
    found = detections(frame(), BOXES, [True, False, False, False])
    tracker.grow(encoded, found, Permit(1, 0))
    tracker.grow(encoded, found, Permit(0, 0))
    table.missing[0], table.settled[0] = 5, 9
    weaker = replace(found, scores=torch.full((4,), 0.5))
    tracker.grow(encoded, weaker, Permit(0, 0))  # once more, to be confirmed
    tracker.grow(encoded, weaker, permit)
    assert int(table.missing[0]) == (0 if granted else 5)
    assert int(table.settled[0]) == (0 if granted else 11)
    assert float(table.scores[0]) == pytest.approx(0.5 if granted else 0.9)


@pytest.mark.parametrize(("action", "answer"), [("correct", UNKNOWN_OBJECT), ("reinit", APPLIED)])
def test_who_was_added_on_this_frame_has_nothing_to_correct_yet(
    tracker: Tracker, encoded: Pictures, action: str, answer: int
) -> None:
    of = frame()
    tracker.prompt(encoded, of, Prompt("add", box=(20, 20, 70, 60)), 1)
    tracker.follow(encoded, of, 1, 1)
    tracker.prompt(encoded, of, Prompt("add", box=(80, 30, 120, 80)), 2)
    before = tracker.table.logits[:2].clone()
    point = Prompt(action, object_id=1, points=((90.0, 40.0),), labels=(1,))  # type: ignore[arg-type]
    tracker.prompt(encoded, of, point, 3)
    answers = tracker.finish(two()).feedback
    assert answers is not None
    assert answers[4:].view(-1, 3)[3].tolist() == [3, answer, 1]
    assert torch.equal(tracker.table.logits[0], before[0])
    assert torch.equal(tracker.table.logits[1], before[1]) == (answer == UNKNOWN_OBJECT)
