"""A picture and a mask to the spatial memory of an object, with SAM2's modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class MemoryEncoder:
    """Results are those of `SAM2Base._encode_new_memory`, what objects share is computed once."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        """`model`: a `SAM2Base` in eval mode on its final device, whose parameters are shared."""
        self._model = model
        self._encoder = model.memory_encoder
        self._scale = float(model.sigmoid_scale_for_mem_enc)
        self._bias = float(model.sigmoid_bias_for_mem_enc)

    def look(self, coarse: Tensor) -> Tensor:
        """Features (S, C, h, w) to what the memory of every object in the picture shares."""
        looked: Tensor = self._encoder.pix_feat_proj(coarse)
        return looked

    def encode(self, looked: Tensor, masks: Tensor, presence: Tensor, prompted: bool) -> Tensor:
        """bfloat16 (b, L, M), as the official predictor keeps it.

        `looked` (b, C, h, w), a row an object; `masks` float32 (b, 1, s, s), logits at the image
        size; `presence` float32 (b,); the mask of a prompted frame is binarised, as
        `build_sam2_video_predictor` asks of every model.
        """
        shares = (masks > 0).float() if prompted else masks.sigmoid()
        encoder = self._encoder
        told = encoder.mask_downsampler(shares * self._scale + self._bias)
        memory = encoder.out_proj(encoder.fuser(looked + told))
        absent = self._model.no_obj_embed_spatial
        if absent is not None:
            gone = (presence <= 0).float()[:, None, None, None]
            memory = memory + gone * absent[..., None, None]
        tokens: Tensor = memory.flatten(2).transpose(1, 2).to(torch.bfloat16)
        return tokens
