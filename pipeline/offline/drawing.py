"""Objects on a picture: masks, outlines, ids, scores, and what was told of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.offline.records import PromptRecord
from pipeline.painting import Colour, colour_of, fill, tag

_ON, _BESIDE, _EDGE = (40, 220, 60), (235, 40, 40), (255, 255, 255)
_LETTERS: Final = 36
"""Lines of text that a picture is high, at least 11 pixels each."""
_LEAST_LETTERS: Final = 11.0


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """One object as it is shown."""

    label: int
    """Chooses the colour, the same as in the pictures of labels."""
    text: str
    mask: NDArray[np.bool_]
    """bool (H, W)."""
    box_xyxy: tuple[int, int, int, int] | None
    """Tight around the mask; None: no pixel is foreground, and there is no tag."""


def overlay(
    pixels: NDArray[np.uint8], objects: Sequence[Drawn], prompts: Sequence[tuple[int, PromptRecord]]
) -> Image.Image:
    """uint8 (H, W) or (H, W, 3) with `objects`, and with `prompts`, each behind its object's
    label: green points on it, red ones with a bar beside it, boxes in its colour."""
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    letters = max(_LEAST_LETTERS, pixels.shape[0] / _LETTERS)
    masks, colours = [one.mask for one in objects], [colour_of(one.label) for one in objects]
    image = fill(pixels, masks, colours, line=round(letters / _LEAST_LETTERS))
    for one in objects:
        if one.box_xyxy is not None:
            tag(image, one.box_xyxy[:2], one.text, colour_of(one.label), letters)
    for label, prompt in prompts:
        _mark(image, prompt, colour_of(label), max(3.0, letters / 3))
    return image


def side_by_side(left: NDArray[np.uint8], right: Image.Image) -> NDArray[np.uint8]:
    """uint8 (H, 2 W, 3): the original, (H, W) or (H, W, 3), and what was drawn on it."""
    if left.ndim == 2:
        left = np.repeat(left[..., None], 3, axis=2)
    return np.concatenate((left, np.asarray(right)), axis=1)


def _mark(image: Image.Image, prompt: PromptRecord, colour: Colour, radius: float) -> None:
    pen, width = ImageDraw.Draw(image), max(1, round(radius / 3))
    if prompt.box is not None:
        pen.rectangle(prompt.box, outline=colour, width=width)
    for (x, y), label in zip(prompt.points, prompt.labels, strict=True):
        around = (x - radius, y - radius, x + radius, y + radius)
        pen.ellipse(around, fill=_ON if label else _BESIDE, outline=_EDGE, width=width)
        pen.line((x - radius / 2, y, x + radius / 2, y), fill=_EDGE, width=width)
        if label:
            pen.line((x, y - radius / 2, x, y + radius / 2), fill=_EDGE, width=width)
