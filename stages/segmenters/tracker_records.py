"""What the steps of `TrackerCore` take and give."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from stages.segmenters.mask_head import Masks


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """S pictures, ready for any number of objects."""

    coarse: Tensor
    """(S, C, h, w), plain."""
    looked: Tensor
    """(S, L, C), what reading memory needs."""
    remembered: Tensor
    """(S, C, h, w), what writing memory needs."""
    fine: tuple[Tensor, ...]
    """(S, C / 8, 4h, 4w) and (S, C / 4, 2h, 2w); empty where the model has none."""


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """The masks of b objects in the current picture."""

    masks: Masks
    enlarged: Tensor
    """float32 (b, 1, s, s): their logits at the image size."""
    features: Tensor
    """(b, C, h, w): what was decoded; after `track` the picture in the light of the memory."""
    memory: Tensor | None = None
    """bfloat16 (b, L, M): what is remembered of it; None where that is still open."""
