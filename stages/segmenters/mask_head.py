"""SAM2's mask decoder as the video predictor uses it: the best mask, its pointer, its presence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

NO_MASK: Final = -1024.0
"""Logit of an absent object, as sam2 writes it."""
LOGIT_LIMIT: Final = 32.0
"""sam2 clamps the logits of an earlier mask that it takes as a prompt."""
_ON, _OFF = 10.0, -10.0
"""Logits of a mask prompt's foreground and background."""


@dataclass(frozen=True, slots=True, eq=False)
class Masks:
    """One mask for each of b objects."""

    logits: Tensor
    """float32 (b, h, w) at a quarter of the image size; `NO_MASK` where the object is absent."""
    quality: Tensor
    """float32 (b,), predicted IoU, 0..1."""
    presence: Tensor
    """float32 (b,), object score (logit)."""
    pointer: Tensor
    """float32 (b, C)."""

    def enlarged(self, size: int) -> Tensor:
        """float32 (b, 1, size, size): the logits at the model's image size."""
        return F.interpolate(
            self.logits[:, None], (size, size), mode="bilinear", align_corners=False
        )


@dataclass(frozen=True, slots=True, eq=False)
class GivenMasks:
    """Masks that are prompts themselves."""

    shares: Tensor
    """float32 (b, 1, s, s), 0 or 1, at the image size."""


Told = Tensor | GivenMasks
"""A prompt of b objects: tokens (b, P + 1, C) of `MaskHead.tokens`, or masks."""


class MaskHead:
    """Prompts and features to masks; results are those of `SAM2Base._forward_sam_heads`."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        """`model`: a `SAM2Base` in eval mode on its final device, whose parameters are shared."""
        self._model = model
        encoder = model.sam_prompt_encoder
        device = next(model.parameters()).device
        self._positions = encoder.get_dense_pe()
        self._no_mask = encoder.no_mask_embed.weight.view(1, -1, 1, 1)
        nowhere = torch.zeros(1, 1, 2, device=device)
        nothing = -torch.ones(1, 1, dtype=torch.int32, device=device)
        self._no_prompt = self.tokens(nowhere, nothing)

    def tokens(self, coords: Tensor, labels: Tensor) -> Tensor:
        """(b, P + 1, C) of float32 (b, P, 2) in model pixels, x y, and int32 (b, P)."""
        sparse: Tensor = self._model.sam_prompt_encoder(
            points=(coords, labels), boxes=None, masks=None
        )[0]
        return sparse

    def uses_three(self, points: int, initial: bool) -> bool:
        """Whether the best of three masks is taken for a prompt of so many points (0: none).

        `initial`: the prompt begins a memory; otherwise the features are conditioned on one.
        """
        model = self._model
        return bool(
            model.multimask_output_in_sam
            and (initial or model.multimask_output_for_tracking)
            and model.multimask_min_pt_num <= points <= model.multimask_max_pt_num
        )

    def unprompted(self, features: Tensor, fine: list[Tensor]) -> Masks:
        """The masks that memory-conditioned features (b, C, h, w) show by themselves."""
        prompt = self._no_prompt.expand(features.shape[0], -1, -1)
        return self._decode(features, fine, prompt, self._no_mask, self.uses_three(0, False))

    def prompted(
        self,
        features: Tensor,
        fine: list[Tensor],
        tokens: Tensor,
        before: Tensor | None = None,
        initial: bool = False,
    ) -> Masks:
        """The masks of b prompts; `before` float32 (b, h, w): logits that they correct.

        `initial`: see `uses_three`.
        """
        dense = self._no_mask
        if before is not None:
            limited = before[:, None].clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
            dense = self._model.sam_prompt_encoder._embed_masks(limited)
        multimask = self.uses_three(tokens.shape[1] - 1, initial)
        return self._decode(features, fine, tokens, dense, multimask)

    def given(self, features: Tensor, fine: list[Tensor], prompt: GivenMasks) -> Masks:
        """Masks taken as they are: only the pointer comes from the decoder.

        See `SAM2Base._use_mask_as_output`.
        """
        model, masks = self._model, prompt.shares
        logits = masks * (_ON - _OFF) + _OFF
        low = F.interpolate(
            logits, (logits.shape[-1] // 4,) * 2, mode="bilinear",
            antialias=True, align_corners=False,
        )[:, 0]  # fmt: skip
        shown = model.mask_downsample(masks)
        size = model.sam_prompt_encoder.mask_input_size
        if shown.shape[-2:] != size:
            shown = F.interpolate(shown, size, mode="bilinear", antialias=True, align_corners=False)
        dense = model.sam_prompt_encoder._embed_masks(shown)
        nothing = self._no_prompt.expand(masks.shape[0], -1, -1)
        decoded = self._decode(features, fine, nothing, dense, multimask=False)
        there = masks.flatten(1).amax(1) > 0
        pointer = self._absent_pointer(decoded.pointer, there.float()[:, None])
        presence = torch.where(there, _ON, _OFF)
        return Masks(low, torch.ones_like(presence), presence, pointer)

    def _decode(
        self, features: Tensor, fine: list[Tensor], tokens: Tensor, dense: Tensor, multimask: bool
    ) -> Masks:
        model = self._model
        masks, quality, tokens_out, score = model.sam_mask_decoder(
            image_embeddings=features,
            image_pe=self._positions,
            sparse_prompt_embeddings=tokens,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
            repeat_image=False,
            high_res_features=fine or None,
        )
        token = tokens_out[:, 0]
        if multimask:
            best = quality.argmax(dim=1, keepdim=True)
            quality = quality.gather(1, best)
            masks = masks.gather(1, best[:, :, None, None].expand(-1, -1, *masks.shape[-2:]))
            if tokens_out.shape[1] > 1:
                spread = best[:, :, None].expand(-1, -1, tokens_out.shape[2])
                token = tokens_out.gather(1, spread)[:, 0]
        logits = masks[:, 0].float()
        pointer = model.obj_ptr_proj(token)
        if model.pred_obj_scores:
            shown = score > 0
            logits = torch.where(shown[:, :, None], logits, NO_MASK)
            weight = score.sigmoid() if model.soft_no_obj_ptr else shown.float()
            pointer = self._absent_pointer(pointer, weight)
        return Masks(logits, quality[:, 0].float(), score[:, 0].float(), pointer.float())

    def _absent_pointer(self, pointer: Tensor, there: Tensor) -> Tensor:
        """Pointers (b, C) where `there`, float (b, 1), is 1, sam2's no-object pointer where 0."""
        model = self._model
        if not model.pred_obj_scores:
            return pointer
        if model.fixed_no_obj_ptr:
            pointer = there * pointer
        absent: Tensor = pointer + (1 - there) * model.no_obj_ptr
        return absent
