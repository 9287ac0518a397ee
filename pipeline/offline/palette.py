"""Several masks in one picture of indexed colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.painting import colour_of

LABELS: Final = 255
"""1 to 255; 0 is the background."""


def labels_of(object_ids: Sequence[int]) -> dict[int, int]:
    """The pixel value of each object: its id where all of them are 1 to 255, else its place in
    the order of the ids, from 1. Raises `ValueError` for more than 255."""
    ids = sorted(set(object_ids))
    if len(ids) > LABELS:
        raise ValueError(f"got {len(ids)} objects, expected at most {LABELS}")
    if all(1 <= each <= LABELS for each in ids):
        return {each: each for each in ids}
    return {each: place for place, each in enumerate(ids, 1)}


def label_picture(
    masks: Mapping[int, NDArray[np.bool_]], labels: Mapping[int, int], size_hw: tuple[int, int]
) -> NDArray[np.uint8]:
    """uint8 (H, W): each pixel has the label of the mask, bool (H, W), that it lies in; where
    masks overlap, the smaller one is on top."""
    picture = np.zeros(size_hw, np.uint8)
    for each in sorted(masks, key=lambda one: (-int(masks[one].sum()), one)):
        picture[masks[each]] = labels[each]
    return picture


def save_labels(picture: NDArray[np.uint8], path: Path) -> None:
    """An indexed PNG of uint8 (H, W), with our colours as its palette. Raises OSError."""
    image = Image.fromarray(picture, mode="P")
    image.putpalette(_PALETTE)
    image.save(path, format="PNG")


def save_picture(picture: Image.Image | NDArray[np.uint8], path: Path) -> None:
    """A PNG of a picture or of uint8 (H, W) or (H, W, 3), not as small as can be, but soon done.
    Raises OSError."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(path, format="PNG", compress_level=1)


def save_mask(mask: NDArray[np.bool_], path: Path) -> None:
    """A grey PNG, 0 or 255, of bool (H, W). Raises OSError."""
    Image.fromarray(mask.astype(np.uint8) * 255).save(path, format="PNG")


_PALETTE: Final = bytes((0, 0, 0)) + b"".join(bytes(colour_of(n)) for n in range(1, LABELS + 1))
