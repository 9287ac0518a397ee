"""What to track in a clip: prompts from the command line and from a YAML file. Imports no torch.

--prompt "1@0 +120,80 -30,40"       object 1, frame 0: a point on it and one beside it
--prompt "2@45 box=100,60,180,160"  object 2, frame 45
--prompt "3@0 mask=lesion.png name=lesion"
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, ValidationError, model_validator

from pipeline.config_errors import explain
from pipeline.offline.records import PromptRecord
from pipeline.shape_words import numbers, read_mask
from pipeline.yaml_file import parse_yaml
from stages.base import Section
from stages.errors import ConfigError, UsageError
from stages.prompting import Box, Point
from stages.shapes import Shape

_FORM: Final = (
    'OBJECT@FRAME, then +X,Y and -X,Y points, box=X1,Y1,X2,Y2, or mask=FILE, such as "1@0 +120,80"'
)
_MOST: Final = 2**31 - 1
_MOST_OBJECTS: Final = 255
"""As many as a picture of labels holds."""


class ClipPromptConfig(Section):
    """One prompt in a `--prompts` file; coordinates are pixels."""

    frame: int = Field(ge=0, le=_MOST, strict=True)
    object: int = Field(ge=0, le=_MOST, strict=True)
    name: str | None = Field(None, min_length=1, max_length=64)
    """Of the object, on any one of its prompts."""
    points: tuple[Point, ...] = Field((), max_length=64)
    """[[x, y], ...]"""
    labels: tuple[Literal[0, 1], ...] = ()
    """One for each point: 1 on the object, 0 beside it."""
    box: Box | None = None
    """[x1, y1, x2, y2]"""
    mask: Path | None = None
    """A PNG as large as the pictures, black around the object; from the file's own folder."""

    @model_validator(mode="after")
    def _is_usable(self) -> ClipPromptConfig:
        if len(self.labels) != len(self.points):
            raise ValueError(
                f"labels: got {len(self.labels)}, expected one for each of "
                f"{len(self.points)} points"
            )
        if self.mask is not None and (self.points or self.box is not None):
            raise ValueError("mask: got points or a box too, expected a mask alone")
        if self.mask is None and self.box is None and not self.points:
            raise ValueError("expected points, a box or a mask")
        if self.box is not None and not (self.box[0] < self.box[2] and self.box[1] < self.box[3]):
            raise ValueError(f"box: got {list(self.box)}, expected x1 < x2 and y1 < y2")
        return self


class ClipPromptsFile(Section):
    """A `--prompts` file."""

    prompts: tuple[ClipPromptConfig, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True, eq=False)
class ClipPrompt:
    """One prompt, its mask read."""

    where: str
    """How messages call it."""
    told: PromptRecord
    shape: Shape
    mask_sha256: str | None = None


def clip_prompts(words: Sequence[str], file: Path | None) -> tuple[ClipPrompt, ...]:
    """All prompts by object, then frame; raises `UsageError` and, for the file, `ConfigError`."""
    found = [_parsed(text) for text in words]
    if file is not None:
        found += _from_file(file)
    if not found:
        raise UsageError(f"expected what to track: --prompts FILE, or --prompt {_FORM}")
    objects = {prompt.told.object for prompt in found}
    if len(objects) > _MOST_OBJECTS:
        raise UsageError(f"got {len(objects)} objects, expected at most {_MOST_OBJECTS}")
    found.sort(key=lambda prompt: (prompt.told.object, prompt.told.frame))
    for one, two in pairwise(found):
        if (one.told.object, one.told.frame) == (two.told.object, two.told.frame):
            raise UsageError(
                f"{two.where}: object {two.told.object} is prompted twice on frame "
                f"{two.told.frame}, expected one prompt with all its points"
            )
    return tuple(found)


def _from_file(file: Path) -> list[ClipPrompt]:
    try:
        parsed = ClipPromptsFile.model_validate(parse_yaml(file))
    except ValidationError as error:
        raise ConfigError(f"{file}: {explain(error, ClipPromptsFile)}") from error
    return [
        _made(f"{file}: prompts.{place}", each, file.parent)
        for place, each in enumerate(parsed.prompts)
    ]


def _parsed(text: str) -> ClipPrompt:
    where = f"--prompt {text!r}"
    try:
        first, *words = shlex.split(text)
    except ValueError as error:  # nothing in it, or an open quote
        raise UsageError(f"{where}: expected {_FORM}") from error
    aim = re.fullmatch(r"(\d{1,10})@(\d{1,10})", first, re.ASCII)
    if aim is None:
        raise UsageError(f"{where}: {first}: expected {_FORM}")
    points: list[Point] = []
    labels: list[int] = []
    more: dict[str, object] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if word[0] in "+-":
            x, y = numbers(where, word[1:], 2)
            points.append((x, y))
            labels.append(int(word[0] == "+"))
        elif not equals or key not in ("box", "mask", "name") or key in more:
            raise UsageError(f"{where}: {word}: expected {_FORM}")
        else:
            more[key] = numbers(where, value, 4) if key == "box" else value
    asked = {"object": int(aim[1]), "frame": int(aim[2]), "points": points, "labels": labels}
    try:
        section = ClipPromptConfig.model_validate({**asked, **more})
    except ValidationError as error:
        raise UsageError(f"{where}: {explain(error, ClipPromptConfig)}") from error
    return _made(where, section, Path())


def _made(where: str, section: ClipPromptConfig, folder: Path) -> ClipPrompt:
    path = None if section.mask is None else folder / section.mask.expanduser()
    told = PromptRecord(
        object=section.object,
        frame=section.frame,
        name=section.name,
        points=section.points,
        labels=section.labels,
        box=section.box,
        mask=None if path is None else path.name,
    )
    mask = None if path is None else read_mask(where, path)
    sha256 = None if mask is None else hashlib.sha256(mask.tobytes()).hexdigest()
    shape = Shape(section.points, section.labels, section.box, mask)
    return ClipPrompt(where, told, shape, sha256)
