"""What `results.json` holds. `python -m pipeline.offline.records` writes its JSON Schema."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import TypeAdapter

from stages.base import Section
from stages.prompting import Box, Point

SCHEMA_PATH: Final = Path(__file__).parents[2] / "configs" / "results.schema.json"
Direction = Literal["forward", "backward", "both"]


class MaskRecord(Section):
    """One mask of one object."""

    object: int
    """Its id: of a clip as it was asked for, of a picture 1, 2, ... in the order of the prompts."""
    proposal: int = 0
    """0 to 2 where the model was asked for three masks."""
    chosen: bool = True
    """The one of highest predicted IoU: what pictures of several objects show."""
    file: str | None = None
    """The mask as a picture, from the folder of this file; 0 or 255."""
    box_xyxy: tuple[int, int, int, int] | None
    """Tight around it, pixels; x2 and y2 are one past the last; null: no pixel is foreground."""
    area_px: int
    area_mm2: float | None = None
    """Where a pixel's size is known."""
    centroid_xy: Point | None
    """Mean of the pixels' centres, which lie at half numbers; null: no pixel is foreground."""
    quality: float | None = None
    """Predicted IoU."""
    presence: float | None = None
    """Object score of the model (a logit): above 0 it sees the object."""
    rle: str
    """The mask as COCO's run lengths (`counts` as text), of a picture of `size_hw`."""


class PromptRecord(Section):
    """What was told of an object on one picture."""

    object: int
    frame: int = 0
    name: str | None = None
    points: tuple[Point, ...] = ()
    """[x, y], pixels."""
    labels: tuple[int, ...] = ()
    """One for each point: 1 on the object, 0 beside it."""
    box: Box | None = None
    """[x1, y1, x2, y2], pixels."""
    mask: str | None = None
    """Name of the file."""
    text: str | None = None
    """The words that found it."""
    score: float | None = None
    """How sure the words' model was, 0..1."""


class PictureRecord(Section):
    """One picture of `maskstream image`."""

    picture: str
    """Its path as found."""
    size_hw: tuple[int, int] | None = None
    error: str | None = None
    """Why there are no masks of it."""
    overlay: str | None = None
    combined: str | None = None
    """One picture of all chosen masks: a pixel's value is the object's id, the smaller mask on
    top."""
    prompts: tuple[PromptRecord, ...] = ()
    masks: tuple[MaskRecord, ...] = ()
    seconds: float = 0.0
    """For all of it, reading and writing included."""


class FrameRecord(Section):
    """One frame of `maskstream video`."""

    frame: int
    """From 0."""
    time_s: float | None = None
    """From the clip's first frame: as the clip tells, unless a rate was asked for."""
    spacing_mm: tuple[float, float] | None = None
    """(y, x) of a pixel, millimetres: of this frame, for the depth may be changed amid a clip."""
    direction: Literal["forward", "backward"]
    """The pass that this is of; where both come to a frame, the later one, backward."""
    masks: tuple[MaskRecord, ...]


class ModelRecord(Section):
    """The weights that were used."""

    name: str
    sha256: str
    """Of the file of the weights."""
    image_size: int
    """Side of the square that pictures are squashed to, pixels."""


class Results(Section):
    """The part that pictures and clips have in common."""

    format: Literal["maskstream results"] = "maskstream results"
    version: Literal[1] = 1
    complete: bool
    """False where it was interrupted or failed: what is listed is finished."""
    error: str | None = None
    """Why it failed."""
    created: str
    """ISO 8601, UTC."""
    seconds: float
    """That the command took; after a resume, the last part alone."""
    model: ModelRecord
    device: str
    mask_threshold: float
    """Logit above which a pixel is foreground."""
    spacing_mm: tuple[float, float] | None
    """(y, x) of a pixel; of a clip, that of its first frame."""
    versions: dict[str, str]


class ImageResults(Results):
    """`results.json` of `maskstream image`."""

    command: Literal["image"] = "image"
    multimask: bool
    pictures: tuple[PictureRecord, ...] = ()


class ClipRecord(Section):
    """The clip that was read."""

    name: str
    """Of the file or folder; of DICOM files, whose names may be those of people, `dicom`."""
    frames: int
    size_hw: tuple[int, int]
    fps: float | None
    """Frames a second: as asked for, else as the clip tells, on average where it varies."""


class VideoResults(Results):
    """`results.json` of `maskstream video`."""

    command: Literal["video"] = "video"
    clip: ClipRecord
    direction: Direction
    start: int
    """The frame that propagation began with."""
    max_frames: int | None
    prompts: tuple[PromptRecord, ...]
    labels: dict[str, int]
    """The value in mask pictures of each object, by its id."""
    frames: tuple[FrameRecord, ...] = ()
    """In their order, whatever the order of tracking."""


AnyResults = ImageResults | VideoResults


def schema() -> dict[str, Any]:
    """The JSON Schema of `results.json`."""
    made = TypeAdapter(AnyResults).json_schema(mode="serialization")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "results.json of maskstream image and maskstream video",
        **made,
    }


def schema_text() -> str:
    """The schema as it lies in the file."""
    return json.dumps(schema(), indent=2) + "\n"


if __name__ == "__main__":
    (Path(sys.argv[1]) if sys.argv[1:] else SCHEMA_PATH).write_text(schema_text())
