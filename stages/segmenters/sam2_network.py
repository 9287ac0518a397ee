"""SAM2 on one picture: encode, embed prompts, decode masks, all on the model's device.

The results are those of sam2's `SAM2ImagePredictor` up to float rounding; its set-up per call
(host images, host prompts, tables made anew each time) is left out.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.weights_digest import digest

# Of ImageNet, as in `sam2.utils.transforms`, for pixels 0..255.
_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """One encoded picture; s is the model's image size."""

    coarse: Tensor
    """(1, C, s / 16, s / 16), with the no-memory embedding added where the model wants it."""
    fine: tuple[Tensor, ...]
    """(1, C / 8, s / 4, s / 4) and (1, C / 4, s / 8, s / 8); empty where the model has none."""


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """One mask for each of B prompts."""

    logits: Tensor
    """float32 (B, h, w), not clamped."""
    quality: Tensor
    """float32 (B,), predicted IoU."""
    presence: Tensor
    """float32 (B,), object score (logit)."""

    def rows(self, index: Tensor) -> Decoded:
        """The rows that `index`, int64 (n,) on the device, names."""
        picked = (x.index_select(0, index) for x in (self.logits, self.quality, self.presence))
        return Decoded(*picked)


@dataclass(frozen=True, slots=True, eq=False)
class Proposals:
    """M masks for each of B prompts: one, or three."""

    logits: Tensor
    """float32 (B, M, h, w), not clamped."""
    quality: Tensor
    """float32 (B, M), predicted IoU."""
    presence: Tensor
    """float32 (B,), object score (logit)."""

    def best(self) -> Decoded:
        """The mask of the highest predicted IoU."""
        logits, quality = self.logits, self.quality
        if logits.shape[1] > 1:
            best = quality.argmax(dim=1, keepdim=True)
            quality = quality.gather(1, best)
            spread = best[:, :, None, None].expand(-1, -1, *logits.shape[-2:])
            logits = logits.gather(1, spread)
        return Decoded(logits[:, 0], quality[:, 0], self.presence)


def joined(parts: Sequence[Decoded]) -> Decoded:
    """The rows of one or more parts, one after the other."""
    if len(parts) == 1:
        return parts[0]
    return Decoded(
        torch.cat([part.logits for part in parts]),
        torch.cat([part.quality for part in parts]),
        torch.cat([part.presence for part in parts]),
    )


class Sam2Network:
    """The image side of a `SAM2Base`, which stays as it is (parameters are shared)."""

    def __init__(self, model: nn.Module) -> None:
        """`model`: a `SAM2Base` in eval mode, on its final device."""
        parameter = next(model.parameters())
        self.device = parameter.device
        self._model = cast(Any, model)
        self.image_size = int(self._model.image_size)
        side = 4 * int(self._model.sam_image_embedding_size)
        none = torch.zeros(0, device=self.device)
        self.no_masks = Decoded(torch.zeros(0, side, side, device=self.device), none, none)
        """What decoding no prompts gives."""
        with torch.no_grad():
            self._encoder: Any = _without_repeated_work(self._model)
            self._dense_positions: Tensor = self._model.sam_prompt_encoder.get_dense_pe()
            self._no_mask = self._model.sam_prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1)
        self._scale = 1 / torch.tensor(_STD, device=self.device).view(1, 3, 1, 1)
        self._shift = -torch.tensor(_MEAN, device=self.device).view(1, 3, 1, 1) * self._scale

    def weights_sha256(self) -> str:
        """See `stages.base.Weighted`."""
        return digest(self._model)

    def encode(self, rgb: Tensor) -> Features:
        """uint8 (3, H, W) on the model's device to features, squashed to the model's square."""
        fine, coarse = self.maps(self.transform(rgb))
        if self._model.directly_add_no_mem_embed:
            coarse = coarse + self._model.no_mem_embed.view(1, -1, 1, 1)
        return Features(coarse, fine)

    def maps(self, pixels: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Plain features, fine and coarse, of S pictures (S, 3, s, s) that `transform` made."""
        found = self._encoder.forward_image(pixels)["backbone_fpn"]
        *fine, coarse = found[-self._model.num_feature_levels :]
        return tuple(fine), coarse

    def transform(self, rgb: Tensor) -> Tensor:
        """uint8 (3, H, W) to float32 (1, 3, s, s), resized with antialiasing and normalised.

        A grey picture expanded to three channels is resized once.
        """
        planes = (rgb[:1] if rgb.stride(0) == 0 else rgb)[None].float()
        size = (self.image_size, self.image_size)
        if planes.shape[-2:] != size:
            planes = F.interpolate(
                planes, size, mode="bilinear", antialias=True, align_corners=False
            )
        return torch.addcmul(self._shift, planes, self._scale)

    def embed(self, coords: Tensor, labels: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """Prompt tokens (B, P + 1, C) of B × P points.

        `coords` float32 (B, P, 2), x and y in pixels of a frame of `size_hw`; `labels` int32
        (B, P): 1 on the object, 0 beside it, 2 and 3 the corners of a box.
        """
        x, y = coords[..., 0] / size_hw[1], coords[..., 1] / size_hw[0]
        points = torch.stack((x, y), dim=-1) * self.image_size
        tokens: Tensor = self._model.sam_prompt_encoder(
            points=(points, labels), boxes=None, masks=None
        )[0]
        return tokens

    def embed_masks(self, masks: Tensor) -> Tensor:
        """Dense prompts (B, C, s / 16, s / 16) of rough masks, float32 (B, 1, s / 4, s / 4), as
        logits."""
        dense: Tensor = self._model.sam_prompt_encoder._embed_masks(masks)
        return dense

    def nothing_pointed_at(self, rows: int) -> Tensor:
        """Prompt tokens (B, 0, C) of prompts that have neither points nor boxes."""
        return torch.empty(rows, 0, self._dense_positions.shape[1], device=self.device)

    def decode(self, features: Features, tokens: Tensor, multimask: bool) -> Decoded:
        """One mask a prompt; with `multimask` the best of three by predicted IoU."""
        return self.propose(features, tokens, multimask).best()

    def propose(
        self, features: Features, tokens: Tensor, multimask: bool, rough: Tensor | None = None
    ) -> Proposals:
        """One mask a prompt, three with `multimask`; `rough`: what `embed_masks` gave."""
        logits, quality, _, presence = self._model.sam_mask_decoder(
            image_embeddings=features.coarse,
            image_pe=self._dense_positions,
            sparse_prompt_embeddings=tokens,
            dense_prompt_embeddings=self._no_mask if rough is None else rough,
            multimask_output=multimask,
            repeat_image=True,
            high_res_features=list(features.fine),
        )
        return Proposals(logits.float(), quality.float(), presence[:, 0].float())


class _NoPositions(nn.Module):
    """Stands for the position encodings that only sam2's video memory reads."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class _SamePositions:
    """Stands for a table that sam2 interpolates anew for each picture."""

    def __init__(self, positions: Tensor) -> None:
        self.positions = positions

    def __call__(self, size_hw: tuple[int, int]) -> Tensor:
        return self.positions


def _without_repeated_work(model: Any) -> Any:  # noqa: ANN401
    """`model` with the same parameters, whose encoder leaves out what no picture needs."""
    encoder, trunk, neck = (
        _shallow(model.image_encoder),
        _shallow(model.image_encoder.trunk),
        _shallow(model.image_encoder.neck),
    )
    neck.position_encoding = _NoPositions()
    encoder.trunk, encoder.neck = trunk, neck
    # The patches have stride 4, see `sam2.modeling.backbones.utils.PatchEmbed`.
    side = model.image_size // 4
    trunk._get_pos_embed = _SamePositions(trunk._get_pos_embed((side, side)))
    slim = _shallow(model)
    slim.image_encoder = encoder
    return slim


def _shallow(module: Any) -> Any:  # noqa: ANN401
    """A copy that can be given other children without the original noticing."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin
