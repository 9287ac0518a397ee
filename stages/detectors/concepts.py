"""What finds objects by a phrase: the network's interface, and the choice among its finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

from stages.boxes import greedy
from stages.phrasing import PhraseFlaw
from stages.records import Frame

POOL: Final = 64
"""Best finds of a phrase that are compared with each other; what ranks lower is left out."""


@dataclass(frozen=True, slots=True, eq=False)
class Finds:
    """The Q candidates of one phrase on one picture, in no order."""

    scores: Tensor
    """float32 (Q,), 0..1: that this is one of what the phrase names."""
    boxes_xyxy: Tensor
    """float32 (Q, 4), fractions of the picture's width and height."""
    masks: Tensor
    """float32 (Q, h, w), logits over the whole picture; > 0 is on the object."""


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """K finds of any phrase, best first."""

    scores: Tensor
    """float32 (K,)."""
    boxes_xyxy: Tensor
    """float32 (K, 4), fractions."""
    masks: Tensor
    """float32 (K, h, w), logits."""
    places: Tensor
    """int64 (K,): which of the phrases, in the order given."""
    valid: Tensor
    """bool (K,)."""
    surplus: Tensor
    """int64 (): finds that would be `valid` too, had there been rows for them."""


class ConceptNetwork(Protocol):
    """Finds what phrases name. What `words` and `look` return is the network's own and is only
    handed back to `find`; on the device nothing of it depends on data in its shape."""

    def flaw(self, phrase: str) -> PhraseFlaw | None:
        """Why a phrase cannot be looked for; callable from any thread."""

    def words(self, phrase: str) -> object:
        """A phrase as the network sees it: one upload, once a phrase."""

    def look(self, frame: Frame) -> object:
        """A picture as the network sees it, shared by all phrases. No host copy or wait."""

    def find(self, sight: object, words: object) -> Finds:
        """What of a picture a phrase names. No host copy or wait."""

    def weights_sha256(self) -> str:
        """See `stages.base.Weighted`."""


def choose(finds: Sequence[Finds], rows: int, min_score: float, max_overlap: float) -> Chosen:
    """The `rows` best finds of all phrases, no two of one phrase with a mask IoU > `max_overlap`.

    Greedy non-maximum suppression on masks, phrase by phrase: of two phrases that name the same
    thing each keeps its find. Shapes depend on the number of phrases alone, which is at least one.
    """
    best = [each.scores.topk(min(POOL, each.scores.shape[0])) for each in finds]
    scores = torch.stack([each.values for each in best])
    picked = [
        (each.boxes_xyxy.index_select(0, top.indices), each.masks.index_select(0, top.indices))
        for each, top in zip(finds, best, strict=True)
    ]
    boxes = torch.stack([each for each, _ in picked]).clamp(0, 1)
    masks = torch.stack([each for _, each in picked])
    shown = (masks > 0).flatten(2).float()
    both = shown @ shown.transpose(1, 2)
    area = both.diagonal(dim1=1, dim2=2)
    iou = both / (area[:, :, None] + area[:, None, :] - both).clamp(min=1)
    sized = (boxes[..., 2:] > boxes[..., :2]).all(dim=2)
    valid = greedy(iou > max_overlap, (scores >= min_score) & (area > 0) & sized).flatten()
    order = torch.where(valid, scores.flatten(), -1.0).topk(min(rows, valid.shape[0])).indices
    kept = valid.index_select(0, order)
    return Chosen(
        scores=_grown(scores.flatten().index_select(0, order), rows),
        boxes_xyxy=_grown(boxes.flatten(0, 1).index_select(0, order), rows),
        masks=_grown(masks.flatten(0, 1).index_select(0, order), rows),
        places=_grown(order // scores.shape[1], rows),
        valid=_grown(kept, rows),
        surplus=valid.sum() - kept.sum(),
    )


def _grown(tensor: Tensor, rows: int) -> Tensor:
    """With rows of zeros behind its own, so that there are `rows`."""
    missing = rows - tensor.shape[0]
    return torch.cat((tensor, tensor.new_zeros(missing, *tensor.shape[1:]))) if missing else tensor
