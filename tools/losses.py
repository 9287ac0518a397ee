"""Losses on SAM2's raw decoder output: four masks, their predicted IoU, the object score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

LOSS_HW: Final = (120, 160)  # a quarter of the phantom's frame


@dataclass(frozen=True, slots=True, eq=False)
class RawMasks:
    """The mask decoder's output before any selection, B objects.

    ``logits`` (B, 4, h, w): the single mask, then the three alternatives; ``ious`` (B, 4)
    predicted, 0..1; ``presence`` (B, 1), logit.
    """

    logits: Tensor
    ious: Tensor
    presence: Tensor


def _upsampled(logits: Tensor) -> Tensor:
    return F.interpolate(logits, size=LOSS_HW, mode="bilinear", align_corners=False)


def true_ious(logits: Tensor, target: Tensor) -> Tensor:
    """IoU (B, M) of the masks ``logits`` (B, M, h, w) > 0 with ``target`` (B, 120, 160)."""
    predicted = _upsampled(logits.detach()) > 0
    truth = target[:, None] > 0.5
    overlap = (predicted & truth).flatten(2).sum(2)
    union = (predicted | truth).flatten(2).sum(2)
    return torch.where(union > 0, overlap / union.clamp(min=1), 1.0)


def mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy by the object's area plus Dice loss, (B,) for one mask each (B, h, w)."""
    up = _upsampled(logits[:, None])[:, 0]
    entropy = F.binary_cross_entropy_with_logits(up, target, reduction="none").flatten(1).sum(1)
    area = target.flatten(1).sum(1)
    probability = up.sigmoid()
    overlap = (probability * target).flatten(1).sum(1)
    dice = 1 - (2 * overlap + 1) / (probability.flatten(1).sum(1) + area + 1)
    return entropy / (area + 60.0) + dice


def decoder_loss(raw: RawMasks, target: Tensor, present: Tensor, weight: Tensor) -> Tensor:
    """Scalar loss of B objects.

    The single mask and one alternative are compared with ``target`` (B, 120, 160), all four
    predicted IoUs with the true ones. The alternative is the best of the three half of the
    time, else any: if only the best learns, each takes to one kind of object and forgets the
    rest. Cross-entropy, not a difference, judges the IoUs: it moves a saturated sigmoid too.
    Where an object is not ``present`` (bool (B,)) only the presence counts. ``weight`` (B,)
    scales each object's share.
    """
    ious = true_ious(raw.logits, target)
    rows = torch.arange(len(ious))
    chosen = torch.where(torch.rand(len(ious)) < 0.5, ious[:, 1:].argmax(1), rows % 3) + 1
    masks = mask_loss(raw.logits[:, 0], target) + mask_loss(raw.logits[rows, chosen], target)
    quality = F.binary_cross_entropy(raw.ious, ious, reduction="none").mean(1)
    seen = present.float() * weight
    presence = F.binary_cross_entropy_with_logits(
        raw.presence[:, 0], present.float(), reduction="none"
    )
    objects = (seen * (masks + quality)).sum() / seen.sum().clamp(min=1.0)
    return objects + presence.mean()
