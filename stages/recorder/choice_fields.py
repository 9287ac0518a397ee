"""A `Choice` as JSON and arrays, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from stages.choices import Applied, Choice
from stages.prompting import Action, Point, Prompt
from stages.recording.entry import Json, Stamp
from stages.recording.fields import Fields
from stages.recording.input_entries import Prompted
from stages.segmenters.occupancy import Permit
from stages.window import Window


def to_fields(choice: Choice) -> tuple[dict[str, Json], dict[str, NDArray[Any]]]:
    """JSON, and the masks among the prompts."""
    prompts = [_prompt(each) for each in choice.applied]
    permit = choice.permit
    fields: dict[str, Json] = {
        "followed": choice.followed,
        "live": choice.live,
        "held": choice.held,
        "permit": None if permit is None else [permit.births, permit.looks],
        "prompts": prompts,
    }
    masks: dict[str, NDArray[Any]] = {
        f"mask_{place}": each.prompt.mask
        for place, each in enumerate(choice.applied)
        if each.prompt.mask is not None
    }
    return fields, masks


def of_fields(told: Fields, where: str, array: Mapping[str, NDArray[Any]]) -> Choice:
    """Raises `RecordingError` for what `to_fields` has not made."""
    permit = None if told.absent("permit") else Permit(*told.integers("permit", 2))
    prompts = told.items("prompts")
    return Choice(
        told.flag("followed"),
        told.integer("live"),
        told.integer("held"),
        permit,
        tuple(
            _applied(Fields(item, where), array.get(f"mask_{place}"))
            for place, item in enumerate(prompts)
        ),
    )


def asked(each: Applied, window: Window, stamp: Stamp) -> Prompted:
    """What somebody, or the configuration, asked for, in pixels of the full picture."""
    prompt = each.prompt
    y, x = window.origin_yx
    box = None
    if prompt.box is not None:
        x1, y1, x2, y2 = prompt.box
        box = (x1 + x, y1 + y, x2 + x, y2 + y)
    points = tuple((px + x, py + y) for px, py in prompt.points)
    mask = None if prompt.mask is None else window.place(prompt.mask)
    whole = replace(prompt, box=box, points=points)
    return Prompted(stamp, _prompt(Applied(whole, each.configured)), mask)


def _prompt(each: Applied) -> dict[str, Json]:
    prompt = each.prompt
    return {
        "action": prompt.action,
        "configured": each.configured,
        "object_id": prompt.object_id,
        "box": None if prompt.box is None else [float(value) for value in prompt.box],
        "points": [[float(x), float(y)] for x, y in prompt.points],
        "labels": [int(label) for label in prompt.labels],
        "text": prompt.text,
        "class_id": int(prompt.class_id),
    }


def _applied(told: Fields, mask: NDArray[Any] | None) -> Applied:
    box = None if told.absent("box") else told.numbers("box", 4)
    points = tuple(_points(told))
    labels = told.integers("labels", len(points))
    object_id = None if told.absent("object_id") else told.integer("object_id")
    prompt = Prompt(
        cast(Action, told.text("action")),
        object_id=object_id,
        box=None if box is None else (box[0], box[1], box[2], box[3]),
        points=points,
        labels=labels,
        mask=None if mask is None else mask.astype(np.bool_),
        text=None if told.absent("text") else told.text("text"),
        class_id=told.integer("class_id"),
    )
    return Applied(prompt, None if told.absent("configured") else told.integer("configured"))


def _points(told: Fields) -> Iterator[Point]:
    for item in told.items("points"):
        match item:
            case [int() | float() as x, int() | float() as y]:
                yield float(x), float(y)
            case _:
                raise told.misfit("points", "pairs of numbers")
