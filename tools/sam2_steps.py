"""One training step of SAM2 on pictures, and one on clips; both return a loss to minimise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from stages.sources.phantom_scene import CLASS_NAMES
from tools.batches import ClipBatch, PictureBatch
from tools.losses import LOSS_HW, RawMasks, decoder_loss
from tools.prompts import (
    Points,
    background_prompts,
    correcting_click,
    inner_click,
    jittered_boxes,
)

_ENDLESS: Final = 10**6  # as on a stream: the pointers' time scale is then always 15 frames
_LOGIT_LIMIT: Final = 32.0  # SAM2VideoPredictor clamps logits that it feeds back
_BACKGROUND_EVERY: Final = 4  # every fourth picture is also prompted where nothing is
_SMALL: Final = 400.0  # of the loss's pixels, 6400 of the frame's: the smaller, the harder
_CLASS_WEIGHTS: Final = torch.tensor([1.0, 1.0, 2.0])  # lumen, lesion, needle: thin is hard


class DecoderTap:
    """Keeps the raw output of the mask decoder's latest call.

    SAM2 hides the masks of an object that it takes for absent, and returns only the masks that
    it selects; training needs them all.
    """

    def __init__(self, model: SAM2Base) -> None:
        self._decoder = model.sam_mask_decoder
        self._original = self._decoder.predict_masks
        self.raw: RawMasks | None = None
        self._decoder.predict_masks = self

    def remove(self) -> None:
        """Give the decoder its own method back."""
        del self._decoder.predict_masks

    def __call__(self, **inputs: object) -> tuple[Tensor, ...]:
        """In place of MaskDecoder.predict_masks."""
        output: tuple[Tensor, ...] = self._original(**inputs)
        self.raw = RawMasks(output[0], output[1], output[3])
        return output

    def loss(self, cover: Tensor, present: Tensor, weight: Tensor) -> Tensor:
        """Loss of the latest call; see `decoder_loss`."""
        assert self.raw is not None
        return decoder_loss(self.raw, cover, present, weight)

    def single_logits(self) -> Tensor:
        """The single masks' logits (B, 1, h, w) of the latest call, detached and clamped."""
        assert self.raw is not None
        return self.raw.logits[:, :1].detach().clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT)


def enlarged(logits: Tensor, like: Tensor) -> Tensor:
    """Logits (B, 1, h, w) to bool masks of the size of ``like`` (B, H, W)."""
    up = torch.nn.functional.interpolate(
        logits, size=like.shape[-2:], mode="bilinear", align_corners=False
    )
    return up[:, 0] > 0


def small_first(cover: Tensor) -> Tensor:
    """Weight (B,) of objects by what of them is seen, ``cover`` (B, 120, 160): 1 to 2."""
    return 1 + (1 - cover.flatten(1).sum(1) / _SMALL).clamp(0, 1)


@dataclass(frozen=True, slots=True, eq=False)
class _Pictures:
    """Encoded pictures, ready for the mask decoder; picked per object by ``rows``."""

    top: Tensor
    fine: list[Tensor]

    def decode(self, model: SAM2Base, rows: Tensor, points: Points, mask: Tensor | None) -> None:
        model._forward_sam_heads(
            backbone_features=self.top[rows],
            point_inputs=points.as_inputs(),
            mask_inputs=mask,
            high_res_features=[level[rows] for level in self.fine],
            multimask_output=False,
        )


class DenseHeads(nn.Module):
    """Class shares read straight off the encoder's maps, in training only.

    Prompted masks alone teach the encoder slowly: each shows it one object of a picture.
    """

    def __init__(self, model: SAM2Base) -> None:
        super().__init__()
        channels = (model.hidden_dim // 8, model.hidden_dim // 4, model.hidden_dim)
        self.heads = nn.ModuleList(
            nn.Conv2d(count, 1 + len(CLASS_NAMES), kernel_size=1) for count in channels
        )

    def forward(self, levels: list[Tensor], shares: Tensor) -> Tensor:
        """Mean cross-entropy with ``shares`` (I, 4, h, w) over the levels."""
        losses = []
        for head, level in zip(self.heads, levels, strict=True):
            wanted = F.adaptive_avg_pool2d(shares, level.shape[-2:])
            losses.append(F.cross_entropy(head(level), wanted))
        return torch.stack(losses).mean()


def picture_step(
    model: SAM2Base,
    tap: DecoderTap,
    batch: PictureBatch,
    corrections: int,
    dense: DenseHeads | None = None,
    box_weight: float = 1.0,
) -> Tensor:
    """Boxes, clicks, corrected boxes and clicks, and prompts on nothing; scalar loss.

    ``box_weight``: of the boxes before correction, which count among the rest by their number.
    """
    levels = model.forward_image(batch.images)["backbone_fpn"]
    top = levels[-1] + model.no_mem_embed.view(1, -1, 1, 1)
    pictures = _Pictures(top, levels[:-1])
    weight = _CLASS_WEIGHTS[batch.class_ids] * small_first(batch.cover)
    present = torch.ones(len(weight), dtype=torch.bool)
    masks = batch.cover > 0.5
    losses = []
    starts = ((jittered_boxes(batch.boxes), box_weight), (inner_click(masks), 1.0))
    for points, share in starts:
        mask = None
        for turn in range(corrections + 1):
            if turn:
                mask = tap.single_logits()
                points = points.then(correcting_click(masks, enlarged(mask, masks)))
                share = 1.0
            pictures.decode(model, batch.rows, points, mask)
            losses.append(share * tap.loss(batch.cover, present, weight))
    rows = torch.arange(0, len(batch.images), _BACKGROUND_EVERY)
    nothing, absent = torch.zeros(len(rows), *LOSS_HW), torch.zeros(len(rows)) > 0
    for points in background_prompts(batch.occupied[rows]):
        pictures.decode(model, rows, points, None)
        losses.append(0.3 * tap.loss(nothing, absent, torch.ones(len(rows))))
    loss = torch.stack(losses).mean()
    return loss if dense is None else loss + dense(levels, batch.shares)


@dataclass(frozen=True, slots=True, eq=False)
class _Tracking:
    """The official per-frame step with every object of the batch in one call."""

    model: SAM2Base
    features: list[Tensor]
    positions: list[Tensor]
    sizes: list[tuple[int, int]]
    rows: Tensor
    frames: int
    memory: dict[str, dict[int, Any]]

    def step(
        self, t: int, points: Points | None, mask: Tensor | None, previous: Tensor | None,
        keep: bool,
    ) -> dict[str, Any]:  # fmt: skip
        """Run frame ``t``; ``keep`` encodes its memory."""
        at = self.rows * self.frames + t
        return self.model.track_step(
            frame_idx=t,
            is_init_cond_frame=t == 0,
            current_vision_feats=[level[:, at] for level in self.features],
            current_vision_pos_embeds=[level[:, at] for level in self.positions],
            feat_sizes=self.sizes,
            point_inputs=points.as_inputs() if points else None,
            mask_inputs=mask,
            output_dict=self.memory,
            num_frames=_ENDLESS,
            run_mem_encoder=keep,
            prev_sam_mask_logits=previous,
        )


def clip_step(model: SAM2Base, tap: DecoderTap, batch: ClipBatch) -> Tensor:
    """Prompt the first frame, follow the objects, correct one frame by a click; scalar loss.

    The image encoder learns from pictures alone: here it would double the cost of a step.
    """
    frames = batch.images.shape[1]
    with torch.no_grad():
        backbone = model.forward_image(batch.images.flatten(0, 1))
    _, features, positions, sizes = model._prepare_backbone_features(backbone)
    memory: dict[str, dict[int, Any]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    tracking = _Tracking(model, features, positions, sizes, batch.rows, frames, memory)
    class_weight = _CLASS_WEIGHTS[batch.class_ids]
    losses = []
    corrected = int(torch.randint(0, 2 * frames, ()))  # beyond the clip: none
    for t in range(frames):
        cover, masks = batch.cover[:, t], batch.cover[:, t] > 0.5
        weight = class_weight * torch.where(batch.counted[:, t], 1.0, 0.3)
        points, mask = _first_prompt(batch) if t == 0 else (None, None)
        again = t == corrected and mask is None
        output = tracking.step(t, points, mask, None, not again)
        losses.append(tap.loss(cover, batch.visible[:, t], weight))
        if again:
            previous = output["pred_masks"].detach().clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT)
            click = correcting_click(masks, enlarged(previous, masks))
            points = points.then(click) if points else click
            output = tracking.step(t, points, None, previous, True)
            losses.append(tap.loss(cover, batch.visible[:, t], weight))
        memory["non_cond_frame_outputs" if t else "cond_frame_outputs"][t] = output
    return torch.stack(losses).mean()


def _first_prompt(batch: ClipBatch) -> tuple[Points | None, Tensor | None]:
    """A box for half of the batches, else a click or a mask."""
    draw = float(torch.rand(()))
    if draw < 0.5:
        return jittered_boxes(batch.boxes), None
    if draw < 0.8:
        return inner_click(batch.cover[:, 0] > 0.5), None
    mask = torch.nn.functional.interpolate(
        batch.cover[:, :1], size=batch.images.shape[-2:], mode="bilinear",
        antialias=True, align_corners=False,
    )  # fmt: skip
    return None, (mask >= 0.5).float()
