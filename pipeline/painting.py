"""Masks on a picture: fill, outline, a tag with a name. Used wherever we draw."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
"""Red, green, blue, 0..255."""

_FILL: Final = 0.35
_GOLDEN_RATIO: Final = 0.618034


def colour_of(kind: int, row: int = 0) -> Colour:
    """A hue a kind, a shade a row, so that neighbours of one kind still differ."""
    hue = (0.08 + kind * _GOLDEN_RATIO + (0.05 * row)) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)


def fill(
    pixels: NDArray[np.uint8],
    masks: Sequence[NDArray[np.bool_]],
    colours: Sequence[Colour],
    line: int = 1,
) -> Image.Image:
    """`pixels` uint8 (H, W, 3) with each mask, bool (H, W), filled and outlined, `line` pixels
    thick."""
    canvas = pixels.astype(np.float32)
    for mask, colour in zip(masks, colours, strict=True):
        place = _around(mask)
        part, inside = canvas[place], mask[place]
        part[inside] += _FILL * (np.array(colour, dtype=np.float32) - part[inside])
        part[outline(inside, line)] = colour
    return Image.fromarray(canvas.round().astype(np.uint8))


def tag(
    image: Image.Image,
    at_xy: tuple[int, int],
    text: str,
    colour: Colour,
    letters: float | None = None,
) -> None:
    """Write `text` on a plate above `at_xy`, moved so that the picture holds all of it; `letters`:
    their height in pixels, where it should not be Pillow's."""
    pen = ImageDraw.Draw(image)
    font = None if letters is None else ImageFont.load_default(letters)
    left, top, right, bottom = (round(edge) for edge in pen.textbbox((0, 0), text, font))
    width, height = right - left + 6, bottom - top + 6
    x = min(max(at_xy[0], 0), max(image.width - width, 0))
    y = min(max(at_xy[1] - height - 2, 0), max(image.height - height, 0))
    pen.rectangle((x, y, x + width, y + height), fill=colour)
    pen.text((x + 3 - left, y + 3 - top), text, fill="black", font=font)


def outline(mask: NDArray[np.bool_], line: int = 1) -> NDArray[np.bool_]:
    """The mask's pixels that at most `line` steps, each to a 4-neighbour, lead out of."""
    inner = mask
    for _ in range(line):
        padded = np.pad(inner, 1)
        near = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        inner = inner & near
    return mask & ~inner


def _around(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns that hold all of a mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return slice(0), slice(0)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
