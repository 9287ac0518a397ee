"""From what is held of objects to a `ClipFrame`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from stages.clip.objects import ClipObject
from stages.clip.outputs import Output
from stages.clip.records import ClipFrame
from stages.segmenters.mask_head import NO_MASK, Masks
from stages.segmenters.tracker_core import TrackerCore


@torch.inference_mode()
def frame_of(
    frame: int,
    objects: Sequence[ClipObject],
    found: Sequence[Output | None],
    core: TrackerCore,
    size_hw: tuple[int, int],
) -> ClipFrame:
    """What was `found` of one or more objects on a frame."""
    masks = [None if output is None else output.masks for output in found]
    rows = [_nothing(core) if mask is None else mask for mask in masks]
    return ClipFrame(
        frame,
        tuple(target.obj_id for target in objects),
        torch.cat([row.logits for row in rows]),
        torch.cat([row.presence for row in rows]),
        torch.cat([row.quality for row in rows]),
        tuple(mask is not None for mask in masks),
        tuple(frame in target.prompted for target in objects),
        size_hw,
    )


def _nothing(core: TrackerCore) -> Masks:
    side = core.image_size // 4
    one = torch.full((1,), NO_MASK, device=core.device)
    return Masks(one.expand(1, side, side).clone(), torch.zeros_like(one), one, one[:, None])
