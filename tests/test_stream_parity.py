"""The whole stage against sam2's own predictor: prompts, late headers, slots used again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import pytest
import torch
from tiny_stream import Stream
from torch import Tensor

from benchmarks.official import SCENE, UNSURE, OfficialPredictor, Told, build_official
from benchmarks.parity import CONDITIONING, Parity, judged
from benchmarks.script import Step, script
from stages.records import Frame, Tracks
from stages.segmenters import sam2_stream
from stages.segmenters.live_prompts import Prompt, Ticket
from stages.segmenters.memory_bank import MemoryBank
from stages.segmenters.occupancy import Occupancy
from stages.segmenters.tracker import UNKNOWN_OBJECT
from stages.segmenters.tracker_core import TrackerCore
from stages.segmenters.tracker_records import Pictures, Shown
from stages.sources.phantom_scene import PhantomScene
from tools.phantom_clips import FRAME_HW

FRAMES, LATE, SLOTS = 60, 2, 3
IDS: Final = {"a": 0, "b": 1, "c": 2, "b2": 3}
"""Of the script's objects, in the order in which they are added."""
UNBORN: Final = 9


class Reference:
    """The script run by the official predictor, on the pictures that the stage makes of frames."""

    @torch.inference_mode()
    def __init__(self) -> None:
        self.predictor = build_official(UNSURE, CONDITIONING)
        seed, first = SCENE
        scene = PhantomScene(seed, size_hw=FRAME_HW)
        self.frames = [frame(scene.render(first + number), number) for number in range(FRAMES)]
        transform = TrackerCore(self.predictor, 1, CONDITIONING).network.transform
        official = OfficialPredictor(self.predictor, [transform(f.rgb)[0] for f in self.frames])
        self.steps = script(FRAMES)
        self.wanted = [
            official.frame(number, self.steps.get(number, [])) for number in range(FRAMES)
        ]


def frame(grey: Any, number: int) -> Frame:
    return Frame(torch.from_numpy(grey.copy()).expand(3, -1, -1), "phantom", 0, number, 0, 0)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


@dataclass(frozen=True, slots=True)
class Followed:
    """What the stage made of the script."""

    parity: Parity
    applied: list[Ticket]
    unborn: Ticket
    rows: dict[int, set[int]]
    """The slots in which each object was."""

    @property
    def answers(self) -> list[tuple[str | None, int | None]]:
        """Of the script's prompts, then of the one for an object that there is not."""
        ends = [ticket.outcome.result(0) for ticket in (*self.applied, self.unborn)]
        return [(end.reason, end.object_id) for end in ends]


@torch.inference_mode()
def follow(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> Followed:
    """The script through the stage; headers are read back `LATE` frames later."""
    monkeypatch.setattr(sam2_stream, "build_sam2", lambda *_: reference.predictor)
    stream, told = Stream(("demo", None), LATE, max_objects=SLOTS), Told()
    stream.step(of=reference.frames[0])  # there is nobody yet, but prompts are taken from here on
    segment, seen = stream.tracks, list[Tracks]()
    monkeypatch.setattr(stream, "tracks", lambda found: seen.append(segment(found)) or seen[-1])
    applied, unborn = list[Ticket](), list[Ticket]()
    for number, picture in enumerate(reference.frames):
        for step in reference.steps.get(number, []):
            applied.append(stream.segmenter.prompt(asked(told, number, step)))
            if step == Step("add", "b", "click"):  # the host cannot know yet what was born
                unborn.append(stream.segmenter.prompt(Prompt("remove", object_id=UNBORN)))
        stream.step(of=replace(picture, frame_id=stream.number))
    for _ in range(LATE):
        stream.step(of=replace(picture, frame_id=stream.number))
    found, rows = list[dict[str, Tensor]](), dict[int, set[int]]()
    for tracks in seen[:FRAMES]:
        ids = tracks.object_ids.tolist()
        found.append({name: tracks.logits[ids.index(i)] for name, i in IDS.items() if i in ids})
        for row, object_id in enumerate(ids):
            rows.setdefault(object_id, set()).add(row)
    return Followed(judged(reference.wanted, found), applied, unborn[0], rows)


def asked(told: Told, number: int, step: Step) -> Prompt:
    object_id = None if step.action == "add" else IDS[step.name]
    if step.action == "remove":
        return Prompt("remove", object_id=object_id)
    if step.told_by == "mask":
        return Prompt(step.action, object_id=object_id, mask=told.mask(number, step).numpy())
    if step.told_by == "box":
        box = tuple(told.box(number, step).tolist())
        return Prompt(step.action, object_id=object_id, box=box)
    (point,) = told.click(number, step).tolist()
    return Prompt(step.action, object_id=object_id, points=(tuple(point),), labels=(1,))


def test_the_stage_equals_the_official_predictor(
    reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = follow(reference, monkeypatch)
    assert found.parity.worst_abs_logit_diff <= 1e-3
    assert found.parity.worst_mask_iou >= 0.999
    assert found.parity.nonempty_fraction >= 0.9
    steps = [step for number in range(FRAMES) for step in reference.steps.get(number, [])]
    assert found.answers[:-1] == [(None, IDS[step.name]) for step in steps]
    assert found.answers[-1] == ("unknown_object", UNBORN)
    assert found.rows[IDS["b2"]] == found.rows[IDS["b"]], "a slot that was used before"


def _advance_never(core: TrackerCore) -> None:
    pass


def _open_never(bank: MemoryBank, rows: Tensor) -> None:
    pass


def _begin_instead(
    core: TrackerCore, encoded: Pictures, rows: Tensor, features: Tensor, before: Tensor,
    prompt: Any,
) -> Shown:  # fmt: skip
    return core.begin(encoded, rows, prompt)


BROKEN: dict[str, tuple[type, str, Any]] = {
    "one conditioning frame held": (Occupancy, "held", lambda occupancy: 1),
    "time stands still": (TrackerCore, "advance", _advance_never),
    "a new object remembers the old one": (MemoryBank, "open", _open_never),
    "a correction begins anew": (TrackerCore, "correct", _begin_instead),
    "one live object": (Occupancy, "live", lambda occupancy: 1),
}


@pytest.mark.parametrize("flaw", BROKEN)
def test_a_stage_that_uses_its_memory_wrongly_does_not(
    reference: Reference, flaw: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*BROKEN[flaw])
    found = follow(reference, monkeypatch)
    assert not found.parity.holds
    assert found.parity.nonempty_fraction >= 0.9


def test_an_answer_with_the_wrong_reason_shows(
    reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sam2_stream._REFUSALS, UNKNOWN_OBJECT, "no_slot")
    assert follow(reference, monkeypatch).answers[-1] == ("no_slot", UNBORN)
