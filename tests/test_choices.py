"""What the host chose by late headers, written down and told again: the same masks, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_sam2 import write_model
from tiny_stream import BOX, BOXES, Stream, disc, in_sight

from stages.choices import Applied, Choice, Choices
from stages.recorder.choice_fields import asked, of_fields, to_fields
from stages.recording.encode import encode
from stages.recording.entry import Entry, Stamp
from stages.recording.fields import Fields
from stages.records import Frame
from stages.segmenters.live_prompts import Prompt
from stages.segmenters.occupancy import Occupancy, Permit
from stages.window import Window

FRAMES = 10
PROMPTS = {
    3: Prompt("add", box=BOX, class_id=1),
    6: Prompt("remove", object_id=0),
    7: Prompt("add", mask=disc()),
}
SETTINGS: dict[str, Any] = {"every": 2, "lifecycle": {"confirm": 1}}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_model(tmp_path_factory.mktemp("tiny"))


def told(stream: Stream) -> list[Choice]:
    """What the stream's host chooses from now on."""
    chosen: list[Choice] = []
    stream.segmenter.choices.journal = lambda frame, choice: chosen.append(choice)
    return chosen


def played(stream: Stream, prompts: dict[int, Prompt]) -> list[torch.Tensor]:
    """The logits of each frame; detections come in waves, and prompts on their frames."""
    in_sight(stream)
    shown = []
    for number in range(FRAMES):
        if number in prompts:
            stream.segmenter.prompt(prompts[number])
        found = [BOXES[:1], None, BOXES, None][number % 4]
        shown.append(stream.shown(found, seed=number).logits.clone())
    return shown


@pytest.fixture(scope="module")
def recorded(files: tuple[Path, Path]) -> tuple[list[Choice], list[torch.Tensor]]:
    stream = Stream(files, late=3, **SETTINGS)
    chosen = told(stream)
    return chosen, played(stream, PROMPTS)


def script(choices: list[Choice]) -> Any:
    return lambda frame: choices[frame.frame_id]


def test_a_script_gives_the_same_masks_however_late_headers_are(
    files: tuple[Path, Path], recorded: tuple[list[Choice], list[torch.Tensor]]
) -> None:
    chosen, before = recorded
    assert sum(len(choice.applied) for choice in chosen) == 3
    assert {choice.followed for choice in chosen} == {True, False}
    assert any(choice.permit is not None and choice.permit.births for choice in chosen)
    stream = Stream(files, late=0, **SETTINGS)
    stream.segmenter.choices.script = script(chosen)
    again = told(stream)
    assert all(torch.equal(a, b) for a, b in zip(before, played(stream, {}), strict=True))
    assert [(c.followed, c.live, c.held, c.permit) for c in again] == [
        (c.followed, c.live, c.held, c.permit) for c in chosen
    ]


def test_without_the_script_headers_that_come_sooner_change_them(
    files: tuple[Path, Path], recorded: tuple[list[Choice], list[torch.Tensor]]
) -> None:
    stream = Stream(files, late=0, **SETTINGS)
    after = played(stream, PROMPTS)
    assert not all(torch.equal(a, b) for a, b in zip(recorded[1], after, strict=True))


def test_a_script_with_another_prompt_gives_other_masks_from_its_frame_on(
    files: tuple[Path, Path], recorded: tuple[list[Choice], list[torch.Tensor]]
) -> None:
    chosen, before = recorded
    at = next(n for n, choice in enumerate(chosen) if choice.applied)
    moved = replace(chosen[at].applied[0].prompt, box=(60.0, 10.0, 125.0, 80.0))
    other = [*chosen[:at], replace(chosen[at], applied=(Applied(moved),)), *chosen[at + 1 :]]
    stream = Stream(files, late=0, **SETTINGS)
    stream.segmenter.choices.script = script(other)
    same = [torch.equal(a, b) for a, b in zip(before, played(stream, {}), strict=True)]
    assert all(same[:at])
    assert not same[at]


def test_configured_prompts_are_those_of_the_configuration_now(files: tuple[Path, Path]) -> None:
    first = Stream(files, prompts=[{"box": BOX}])
    chosen = told(first)
    before = first.shown().logits.clone()
    assert [each.configured for each in chosen[0].applied] == [0]

    def again(box: tuple[float, ...]) -> torch.Tensor:
        stream = Stream(files, prompts=[{"box": box}])
        stream.segmenter.choices.script = script(chosen)
        return stream.shown().logits

    assert torch.equal(again(BOX), before)
    assert not torch.equal(again((60.0, 10.0, 125.0, 80.0)), before)


def test_bounds_of_a_script_are_widened_where_they_would_fall_short() -> None:
    """Rows that are not followed would be a wrong tracker, not another outcome."""
    occupancy = Occupancy(8, births=2, unheard=2)
    choices = Choices(occupancy, every=1)
    choices.script = lambda frame: Choice(True, live=1, held=1)
    occupancy.allow(0, births=3, again=False)
    assert choices.bounds(_frame()) == (3, 1)


def test_prompts_are_kept_in_pixels_of_the_full_picture() -> None:
    window = Window((90, 131), (10, 20), (200, 300))
    prompt = Prompt("add", box=(1.0, 2.0, 3.0, 4.0), points=((5.0, 6.0),), labels=(1,), mask=disc())
    told = asked(Applied(prompt), window, Stamp(0, 3))
    assert told.request["box"] == [21.0, 12.0, 23.0, 14.0]
    assert told.request["points"] == [[25.0, 16.0]]
    assert told.mask is not None
    assert told.mask.shape == (200, 300)
    assert (told.mask[10:100, 20:151] == disc()).all()


def test_a_choice_survives_being_written() -> None:
    prompts = (
        Applied(Prompt("add", points=((1.5, 2.0), (3.0, 4.0)), labels=(1, 0), class_id=2), 1),
        Applied(Prompt("reinit", object_id=7, mask=disc())),
        Applied(Prompt("correct", object_id=3, box=(0.0, 1.0, 2.0, 3.5))),
        Applied(Prompt("add", text="left vein")),
    )
    choice = Choice(True, 5, 2, Permit(1, 0), prompts)
    fields, masks = to_fields(choice)
    encode(Entry("state", fields=fields, arrays=masks))  # as it may be written
    read = of_fields(Fields(fields, "here"), "here", masks)
    assert (read.followed, read.live, read.held, read.permit) == (True, 5, 2, Permit(1, 0))
    for before, after in zip(prompts, read.applied, strict=True):
        assert after.configured == before.configured
        for name in ("action", "object_id", "box", "points", "labels", "text", "class_id"):
            assert getattr(after.prompt, name) == getattr(before.prompt, name), name
    assert read.applied[1].prompt.mask is not None
    assert (read.applied[1].prompt.mask == disc()).all()
    unlooked = of_fields(Fields(to_fields(Choice(False))[0], "here"), "here", {})
    assert (unlooked.followed, unlooked.permit) == (False, None)


def _frame() -> Frame:
    return Frame(torch.zeros(3, 8, 8, dtype=torch.uint8), "camera", 0, 0, 0, 0)
