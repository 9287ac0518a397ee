"""What a controller may say: one JSON object a command, checked by its schema."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from stages.found_boxes import MAX_BOXES
from stages.phrasing import LONGEST

MAX_COMMAND_BYTES: Final = 1 << 16
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
Count = Annotated[int, Field(ge=0, le=2**53)]
Coordinate = Annotated[float, Field(ge=-1e6, le=1e6)]
"""Pixels of the full picture."""


def _printable(text: str) -> str:
    """Subscribers refuse a label that is not."""
    if not text.isprintable():
        raise ValueError("expected printable characters")
    return text


Text = Annotated[str, Field(min_length=1, max_length=128)]
Phrase = Annotated[str, Field(min_length=1, max_length=LONGEST)]


class Said(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    version: Literal[1] = 1


class Mask(BaseModel):
    """A mask of the full picture as COCO's uncompressed run lengths: column by column, runs of
    pixels beside and on the object by turns, beginning beside it."""

    model_config = Said.model_config

    size_hw: tuple[Annotated[int, Field(ge=1, le=4096)], Annotated[int, Field(ge=1, le=4096)]]
    counts: tuple[Count, ...] = Field(min_length=1, max_length=MAX_COMMAND_BYTES)


class _Command(Said):
    id: Id
    """Chosen by the controller. A command that comes again is not done again, but answered as
    before."""
    epoch: Count | None = None
    """Of the picture that was looked at; the newest epoch, where it is left out."""


class _Shaped(_Command):
    """One of `box`, `points` with `labels`, `mask`, `text`."""

    box: tuple[Coordinate, Coordinate, Coordinate, Coordinate] | None = None
    """x1, y1, x2, y2."""
    points: tuple[tuple[Coordinate, Coordinate], ...] = Field(default=(), max_length=64)
    """x, y."""
    labels: tuple[Literal[0, 1], ...] = Field(default=(), max_length=64)
    """One for each point: 1 on the object, 0 beside it."""
    mask: Mask | None = None
    text: Text | None = None
    """Only for segmenters that take words."""
    frame_id: Count | None = None
    """The frame to apply it on, or the first one after it that is looked at; the next one, where
    it is left out. A frame that has passed is refused."""


class Add(_Shaped):
    """Follow a new object."""

    verb: Literal["add"]
    class_id: Annotated[int, Field(ge=0, le=2**15)] = 0


class Correct(_Shaped):
    """Put an object's mask right."""

    verb: Literal["correct"]
    object_id: Count


class Reinit(_Shaped):
    """Follow an object from this alone, as if it were new."""

    verb: Literal["reinit"]
    object_id: Count


class Remove(_Command):
    """Follow an object no longer."""

    verb: Literal["remove"]
    object_id: Count
    frame_id: Count | None = None


class Rename(_Command):
    """Give an object a label of its own, for as long as it is followed."""

    verb: Literal["rename"]
    object_id: Count
    name: Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_printable)]


class Reset(_Command):
    """Remove all objects."""

    verb: Literal["reset"]
    frame_id: Count | None = None


class Pause(_Command):
    """Let the detector look for nothing; objects are still followed."""

    verb: Literal["pause"]


class Resume(_Command):
    """Let the detector look again."""

    verb: Literal["resume"]


class AddPhrase(_Command):
    """Look for what a phrase names, and follow it."""

    verb: Literal["add_phrase"]
    phrase: Phrase


class RemovePhrase(_Command):
    """Look for it no longer; its objects end."""

    verb: Literal["remove_phrase"]
    phrase: Phrase


class FoundBox(BaseModel):
    """A box that a detector of the controller's own found."""

    model_config = Said.model_config

    box: tuple[Coordinate, Coordinate, Coordinate, Coordinate]
    """x1, y1, x2, y2."""
    score: Annotated[float, Field(ge=0, le=1)] = 1.0
    class_id: Annotated[int, Field(ge=0, le=2**15)] = 0


class Boxes(_Command):
    """Tell the detector of kind `boxes` what there is in a frame; none: nothing is there."""

    verb: Literal["boxes"]
    boxes: tuple[FoundBox, ...] = Field(max_length=MAX_BOXES)
    frame_id: Count | None = None
    """As of a prompt."""


class Snapshot(_Command):
    """Write the next frame with its masks, and what is known of it, into the run's folder."""

    verb: Literal["snapshot"]


class Status(_Command):
    """Tell how the run is doing, and which objects there are."""

    verb: Literal["status"]


class Ping(_Command):
    """Answer at once."""

    verb: Literal["ping"]


Shaped = Add | Correct | Reinit
Prompting = Shaped | Remove | Reset
Phrasing = AddPhrase | RemovePhrase
Command = Prompting | Phrasing | Rename | Pause | Resume | Boxes | Snapshot | Status | Ping
COMMAND: Final[TypeAdapter[Command]] = TypeAdapter(Annotated[Command, Field(discriminator="verb")])
