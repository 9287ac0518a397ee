"""What somebody may want of a segmenter while it runs, and how that ends: `Prompt` to `Outcome`."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]
Box = tuple[float, float, float, float]
Action = Literal["add", "reinit", "correct", "remove", "reset"]
Refusal = Literal[
    "bad_box", "bad_points", "bad_mask", "bad_request", "outside", "past_epoch", "no_frame_yet",
    "too_many", "unknown_object", "no_slot", "stopped", "failed", "no_text",
    "past_frame", "far_frame", "expired",
]  # fmt: skip
"""`stopped`: the segmenter was closed; `failed`: an error of ours, too little memory say."""


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """What somebody wants of the tracker.

    Coordinates are those of the source's full picture, also where only a region of it is taken in.
    `add` a new object; `reinit` one from this prompt alone, as if it were new; `correct` its mask
    of the next frame; `remove` it; `reset`: remove all. A shape is one of box, points, mask,
    text.

    Never two on one object and frame: a `correct` asked for together with a `reinit` is applied on
    the frame after it. sam2's own predictor would take it on the same frame, show it there, and
    forget it: what follows depends on the frame as it was begun.
    """

    action: Action
    object_id: int | None = None
    """For reinit, correct and remove; a new object's id is the tracker's to give."""
    box: Box | None = None
    """(x1, y1, x2, y2), pixels of the full picture."""
    points: tuple[Point, ...] = ()
    """(x, y), pixels of the full picture."""
    labels: tuple[int, ...] = ()
    """One for each point: 1 on the object, 0 beside it."""
    mask: NDArray[np.bool_] | None = None
    """bool (H, W) at the full picture's size."""
    text: str | None = None
    """What it is called; only for segmenters that take words."""
    class_id: int = 0
    """Of a new object."""
    epoch: int | None = None
    """The epoch that the prompt was made for; refused once another one has begun."""
    frame_id: int | None = None
    """The first frame that it may be applied on, or the next one looked at after it; refused where
    one that came later was looked at before. None: the next frame."""
    until_ns: int | None = None
    """Monotonic clock: refused where no frame came for it before then."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a prompt ended."""

    reason: Refusal | None
    """None: it was applied."""
    object_id: int | None = None
    frame_id: int | None = None
    """The frame that it took effect on; None where it was refused before one."""

    @property
    def applied(self) -> bool:
        return self.reason is None


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """A prompt on its way; `outcome.result(timeout)` waits for its end, which always comes.

    It cannot be cancelled. Callbacks on `outcome` run in the thread that ends it, often the frame
    loop's: they may prompt, and must not take long.
    """

    number: int
    prompt: Prompt
    outcome: Future[Outcome] = field(default_factory=Future)

    def end(
        self,
        reason: Refusal | None,
        object_id: int | None = None,
        frame_id: int | None = None,
    ) -> None:
        """Tell whoever waits; only the first end counts."""
        if not self.outcome.done():
            self.outcome.set_result(Outcome(reason, object_id, frame_id))
