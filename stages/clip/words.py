"""Objects of a clip named by words: found on one frame, then followed from there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stages.clip.session import Clip
from stages.detectors.concepts import Chosen
from stages.errors import PromptError
from stages.exits import named_exit
from stages.records import Frame


class WordFinder(Protocol):
    """The detector `sam3`, as far as a clip needs it."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Phrases by class id."""

    def find(self, frame: Frame) -> tuple[Chosen, Tensor]:
        """The best finds of what it looks for, and their class ids, int32 (K,)."""

    def weights_sha256(self) -> str:
        """See `stages.base.Weighted`."""


@dataclass(frozen=True, slots=True, eq=False)
class Named:
    """An object that words found on a frame, on the host."""

    obj_id: int
    phrase: str
    score: float
    """0..1."""
    mask: NDArray[np.bool_]
    """(H, W), with at least one pixel."""


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """What words named on a frame."""

    named: tuple[Named, ...]
    """Surest first, at least one."""
    left_out: int
    """How many more the finder had no room for."""


def find_named(finder: WordFinder, picture: Tensor, frame_idx: int, first_id: int = 1) -> Finding:
    """What the finder's phrases name on a picture, uint8 (3, H, W); ids count from `first_id`.
    Raises `PromptError` where there is nothing."""
    with torch.inference_mode():
        chosen, classes = finder.find(Frame(picture, "clip", 0, frame_idx, 0, 0))
        size = (int(picture.shape[1]), int(picture.shape[2]))
        inside = _full_size(chosen.masks, size)
        wanted = chosen.valid & inside.flatten(1).any(dim=1)
    with named_exit("prompt"):
        rows = wanted.cpu().nonzero()[:, 0].tolist()
        masks = inside.cpu().numpy()
        scores, class_ids = chosen.scores.tolist(), classes.tolist()
        left_out = int(chosen.surplus)
    if not rows:
        looked_for = ", ".join(name for name in finder.class_names[1:] if name)
        raise PromptError(f"{looked_for}: nothing of that on frame {frame_idx}")
    named = tuple(
        Named(first_id + place, finder.class_names[class_ids[row]], scores[row], masks[row])
        for place, row in enumerate(rows)
    )
    return Finding(named, left_out)


def _full_size(logits: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """bool (K, H, W) of logits (K, h, w): probabilities are interpolated, not logits, as SAM3's
    processor does (`Sam3Processor.post_process_instance_segmentation`)."""
    inside = logits[:, None].sigmoid()
    return F.interpolate(inside, size_hw, mode="bilinear", align_corners=False)[:, 0] > 0.5


def prompt_named(
    clip: Clip, finder: WordFinder, frame_idx: int, first_id: int = 1
) -> tuple[Named, ...]:
    """Have a clip follow what words name on one of its frames; each mask becomes a prompt. Raises
    as `find_named` and `Clip.add_new_mask`."""
    found = find_named(finder, clip.picture(frame_idx), frame_idx, first_id).named
    for each in found:
        clip.add_new_mask(frame_idx, each.obj_id, each.mask)
    return found
