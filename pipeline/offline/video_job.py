"""What `maskstream video` was asked for, as its words on the command line say. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from pipeline.offline.clip_prompts import ClipPrompt
from pipeline.offline.clip_words import Words
from pipeline.offline.folder import Entry
from pipeline.offline.model import ModelOptions
from pipeline.offline.records import Direction
from stages.errors import UsageError

Save = Literal["frames", "masks", "overlays", "video", "logits", "recording"]
SAVES: Final[tuple[Save, ...]] = get_args(Save)
_DIRECTIONS: Final[tuple[Direction, ...]] = get_args(Direction)


@dataclass(frozen=True, slots=True)
class VideoJob:
    """What the command line asked for."""

    target: str
    """A file or a folder."""
    allow_burned_in: bool
    """Take DICOM files that say that text is burned into their pictures."""
    prompts: tuple[ClipPrompt, ...]
    words: Words | None
    """What else to look for."""
    direction: Direction
    start: int | None
    """None: the first prompted frame, for `backward` the last."""
    max_frames: int | None
    """In each direction."""
    saved: frozenset[Save]
    model: ModelOptions
    spacing_mm: tuple[float, float] | None
    """(y, x) of a pixel; None: what the clip tells."""
    fps: float | None
    """None: what the clip tells."""
    out: Path | None
    entry: Entry


def direction_of(text: str) -> Direction:
    """Raises `UsageError` for a word that is none."""
    for direction in _DIRECTIONS:
        if text == direction:
            return direction
    raise UsageError(f"--direction {text}: expected one of {', '.join(_DIRECTIONS)}")


def saved_of(text: str) -> frozenset[Save]:
    """Words with commas between; raises `UsageError` for one that is none."""
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in SAVES:
            raise UsageError(f"--save {text}: got {word!r}, expected some of {', '.join(SAVES)}")
    return frozenset(save for save in SAVES if save in words)


def entry_of(out: Path | None, overwrite: bool, resume: bool) -> Entry:
    """How the folder is taken; raises `UsageError` where that contradicts itself."""
    if overwrite and resume:
        raise UsageError("got --overwrite and --resume, expected one of them")
    if resume and out is None:
        raise UsageError("--resume: expected --out with the folder that was interrupted")
    return "resume" if resume else "overwrite" if overwrite else "new"
