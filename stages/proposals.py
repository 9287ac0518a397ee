"""One picture, any number of prompts, every mask the model proposes: `Proposer`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from stages.mask_upsampling import upsample
from stages.sam_inputs import as_rgb, to_device
from stages.segmenters.prompts import BOX_CORNERS
from stages.segmenters.sam2_network import Features, Sam2Network
from stages.shapes import Shape

_TOGETHER: Final = 16
"""Prompts in one call of the decoder: memory, not time, is what more would cost."""
_SURE: Final = 10.0
"""Logit of a given mask's foreground, and, negative, of its background: see
`SAM2Base._use_mask_as_output`."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """An encoded picture."""

    features: Features
    size_hw: tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Proposal:
    """What the model makes of one prompt, on the host."""

    masks: NDArray[np.bool_]
    """bool (M, H, W) at the picture's size."""
    quality: NDArray[np.float32]
    """float32 (M,), predicted IoU of each."""
    presence: float
    """Object score (logit)."""

    @property
    def best(self) -> int:
        """Row of the highest predicted IoU."""
        return int(self.quality.argmax())


class Proposer:
    """Masks as sam2's `SAM2ImagePredictor` gives them, up to float rounding."""

    def __init__(self, model: nn.Module, mask_threshold: float = 0.0) -> None:
        """`model`: a sam2 `SAM2Base` in eval mode on its final device (it is not changed);
        `mask_threshold`: the logit above which a pixel is foreground.
        """
        self._network = Sam2Network(model)
        self._threshold = mask_threshold
        self.device = self._network.device
        self.image_size = self._network.image_size
        """Side of the square that a picture is squashed to, pixels."""

    @torch.inference_mode()
    def look_at(self, picture: NDArray[np.uint8]) -> Seen:
        """Encode uint8 (H, W) grey or (H, W, 3) RGB."""
        rgb = as_rgb(to_device(picture, self.device))
        return Seen(self._network.encode(rgb), (rgb.shape[1], rgb.shape[2]))

    @torch.inference_mode()
    def propose(
        self, seen: Seen, shapes: Sequence[Shape], multimask: bool | None = None
    ) -> list[Proposal]:
        """One proposal a shape, in their order. `multimask`: three masks each (True), one (False),
        or (None) the best of three for a lone click, which is ambiguous, and one for all else.

        Shapes of equally many points that have no mask are decoded together.
        """
        found: dict[int, Proposal] = {}
        for members in _batches(shapes):
            batch = [shapes[index] for index in members]
            for index, proposal in zip(members, self._decode(seen, batch, multimask), strict=True):
                found[index] = proposal
        return [found[index] for index in range(len(shapes))]

    def _decode(self, seen: Seen, batch: Sequence[Shape], multimask: bool | None) -> list[Proposal]:
        shape = batch[0]
        alone = shape.pointed == 1 and shape.mask is None
        three = alone if multimask is None else multimask
        rough = None if shape.mask is None else self._rough(shape.mask)
        proposals = self._network.propose(seen.features, self._tokens(seen, batch), three, rough)
        if multimask is None:
            best = proposals.best()
            logits, quality = best.logits[:, None], best.quality[:, None]
        else:
            logits, quality = proposals.logits, proposals.quality
        scores, presence = quality.cpu().numpy(), proposals.presence.cpu().tolist()
        return [
            Proposal(self._masks(logits[row], seen.size_hw), scores[row], presence[row])
            for row in range(len(batch))
        ]

    def _masks(self, logits: Tensor, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """A prompt's masks alone, so that memory does not depend on how many prompts there are."""
        return np.asarray((upsample(logits, size_hw) > self._threshold).cpu().numpy())

    def _tokens(self, seen: Seen, batch: Sequence[Shape]) -> Tensor:
        if batch[0].pointed == 0:
            return self._network.nothing_pointed_at(len(batch))
        corners = [() if s.box is None else (s.box[:2], s.box[2:]) for s in batch]
        coords = [[*box, *s.points] for box, s in zip(corners, batch, strict=True)]
        labels = [[*(BOX_CORNERS if box else ()), *s.labels]
                  for box, s in zip(corners, batch, strict=True)]  # fmt: skip
        return self._network.embed(
            torch.tensor(coords, dtype=torch.float32).to(self.device),
            torch.tensor(labels, dtype=torch.int32).to(self.device),
            seen.size_hw,
        )

    def _rough(self, mask: NDArray[np.bool_]) -> Tensor:
        side = self._network.image_size // 4
        shares = to_device(mask.astype(np.float32), self.device)[None, None]
        small = F.interpolate(
            shares, (side, side), mode="bilinear", antialias=True, align_corners=False
        )
        return self._network.embed_masks(small * (2 * _SURE) - _SURE)


def _batches(shapes: Sequence[Shape]) -> list[list[int]]:
    """Places of shapes that may be decoded together: as many points, a box or none."""
    batches: list[list[int]] = []
    kinds: dict[tuple[int, bool], list[int]] = {}
    for index, shape in enumerate(shapes):
        if shape.mask is not None:
            batches.append([index])
            continue
        members = kinds.setdefault((shape.pointed, shape.box is not None), [])
        members.append(index)
    for members in kinds.values():
        batches += [members[at : at + _TOGETHER] for at in range(0, len(members), _TOGETHER)]
    return batches
