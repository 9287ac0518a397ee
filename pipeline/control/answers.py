"""How commands end, and what controllers hear of it: `Effect` and `Answer`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from pipeline.control.commands import Said
from stages.found_boxes import FLAWS
from stages.phrasing import EXPECTED

DETAILS: Final[dict[str, str]] = {
    **FLAWS,
    **{str(reason): detail for reason, detail in EXPECTED.items()},
    "bad_points": "expected 1 to 64 points, each with a label",
    "bad_mask": "expected a mask of the full picture's size with at least one pixel",
    "bad_request": "expected exactly one of box, points, mask, text",
    "outside": "it lies outside the picture that is taken in",
    "past_epoch": "the stream began anew since",
    "past_frame": "that frame has passed",
    "far_frame": "that frame is too far ahead",
    "expired": "no frame came in time, it was taken back",
    "no_frame_yet": "there was no frame yet",
    "too_many": "too many commands wait",
    "unknown_object": "no object of that id is followed",
    "no_slot": "all object slots are in use",
    "no_text": "no segmenter takes words; a sam3 detector does: `add_phrase`, or `phrase add`",
    "no_prompts": "this segmenter takes no prompts",
    "no_detector": "there is no detector that could be paused",
    "no_phrases": "this detector takes no words",
    "no_boxes": "this detector takes no boxes",
    "paused": "the detector is paused",
    "busy": "another snapshot is being written, or there are too many",
    "failed": "it could not be done, see the log of the run",
    "stopped": "the run ended",
    "too_fast": "too many commands a second",
    "id_reused": "another command had this id",
}
"""What a person may want to know of a reason."""


@dataclass(frozen=True, slots=True)
class Effect:
    """How a command ended."""

    reason: str | None = None
    epoch: int | None = None
    frame_id: int | None = None
    object_id: int | None = None
    data: dict[str, Any] | None = None


class Answer(Said):
    """How a command ended."""

    id: str | None = None
    """Of the command; left out where it could not be read, as is all that is null."""
    outcome: Literal["applied", "refused"]
    reason: str | None = None
    """Why it was refused, one word; null where it was applied."""
    detail: str | None = None
    """The same for a person."""
    epoch: int | None = None
    """Of `frame_id`; the newest one, where that is null."""
    frame_id: int | None = None
    """The frame that it took effect on; null where it had none."""
    object_id: int | None = None
    """The object that it was about, also one that it made."""
    data: dict[str, Any] | None = None
    """What `status` and `snapshot` tell."""


def answer_of(command_id: str, effect: Effect) -> Answer:
    """What is answered to the command that ended so."""
    reason = effect.reason
    return Answer(
        id=command_id,
        outcome="applied" if reason is None else "refused",
        reason=reason,
        detail=None if reason is None else DETAILS.get(reason),
        epoch=effect.epoch,
        frame_id=effect.frame_id,
        object_id=effect.object_id,
        data=effect.data,
    )
