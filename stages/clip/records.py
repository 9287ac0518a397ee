"""What tracking a clip gives, a frame at a time: `ClipFrame`."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class ClipFrame:
    """The masks of N objects on one frame of a clip, on the clip's device."""

    frame_idx: int
    """From 0."""
    obj_ids: tuple[int, ...]
    """N, in the order in which they were first prompted."""
    logits: Tensor
    """float32 (N, h, w) at a quarter of the model's image size: above 0 where the object is;
    -1024 everywhere where it is absent, or `known` is false."""
    presence: Tensor
    """float32 (N,), object score (logit): above 0 where the object is in the picture."""
    quality: Tensor
    """float32 (N,), predicted IoU, 0..1; 1 where a mask was the prompt."""
    known: tuple[bool, ...]
    """N: whether there is a result; false for objects that were neither tracked nor prompted on
    the frame, or whose result is held no more. Always true in what `propagate` gives."""
    prompted: tuple[bool, ...]
    """N: whether the mask is that of a prompt on this frame."""
    size_hw: tuple[int, int]
    """Of the clip's pictures, pixels."""

    def masks(self) -> Tensor:
        """float32 (N, 1, H, W): the logits at the clip's resolution, made anew by each call."""
        return F.interpolate(
            self.logits[:, None], self.size_hw, mode="bilinear", align_corners=False
        )

    def as_tuple(self) -> tuple[int, list[int], Tensor]:
        """(frame_idx, obj_ids, masks), as sam2's own predictor gives them."""
        return self.frame_idx, list(self.obj_ids), self.masks()
