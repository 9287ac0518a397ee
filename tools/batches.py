"""Random training batches from a `ClipSet`; all randomness from one numpy generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stages.sources.phantom_scene import CLASS_NAMES
from tools.phantom_clips import FRAME_HW, FRAMES, ClipSet
from tools.prompts import SIZE

_MEAN: Final = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)  # ImageNet, as SAM2Transforms
_STD: Final = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
_PER_CLIP: Final = 3  # objects of a picture or clip that go into a batch
_BLANK_SHARE: Final = 0.1  # of the clips lose contact with the skin for one or two frames


@dataclass(frozen=True, slots=True, eq=False)
class PictureBatch:
    """``images`` float32 (I, 3, 128, 128), normalised; ``occupied`` bool (I, 120, 160), any
    object; ``shares`` float32 (I, 4, 30, 40), how much of each cell is background and each class.
    A row an object: ``rows`` int64 (B,), its picture; ``cover`` float32 (B, 120, 160),
    the share of each pixel that its mask covers; ``boxes`` float32 (B, 4), model pixels;
    ``class_ids`` int64 (B,)."""

    images: Tensor
    occupied: Tensor
    shares: Tensor
    rows: Tensor
    cover: Tensor
    boxes: Tensor
    class_ids: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class ClipBatch:
    """``images`` float32 (C, T, 3, 128, 128). A row an object: ``rows`` int64 (B,), its clip;
    ``cover`` float32 (B, T, 120, 160); ``visible`` and ``counted`` bool (B, T); ``boxes`` float32
    (B, 4), of the first frame, model pixels; ``class_ids`` int64 (B,)."""

    images: Tensor
    rows: Tensor
    cover: Tensor
    visible: Tensor
    counted: Tensor
    boxes: Tensor
    class_ids: Tensor


def normalised(gray: NDArray[np.uint8]) -> Tensor:
    """Grey pictures (..., 128, 128) uint8 to SAM2 input (..., 3, 128, 128)."""
    return (torch.from_numpy(gray)[..., None, :, :].float() / 255 - _MEAN) / _STD


def regraded(gray: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Other gain, contrast and gamma, one setting a picture or clip (first axis)."""
    shape = (len(gray),) + (1,) * (gray.ndim - 1)
    gamma, gain = rng.uniform(0.75, 1.3, shape), rng.uniform(0.8, 1.2, shape)
    changed = gain * (gray.astype(np.float32) / 255) ** gamma + rng.uniform(-0.03, 0.03, shape)
    plain = rng.random(shape) < 0.4
    regraded: NDArray[np.uint8] = np.where(plain, gray, np.clip(255 * changed, 0, 255)).astype(
        np.uint8
    )
    return regraded


def cover(masks: NDArray[np.bool_]) -> Tensor:
    """Masks (..., 240, 320) to the share that they cover of each pixel of (..., 120, 160)."""
    shares = masks.astype(np.float32)
    shares = shares[..., ::2, :] + shares[..., 1::2, :]
    return torch.from_numpy((shares[..., ::2] + shares[..., 1::2]) / 4)


def class_shares(labels: NDArray[np.uint8], class_ids: NDArray[np.int64]) -> Tensor:
    """Label maps (I, 240, 320) and the classes (I, S) of their slots to (I, 4, 30, 40)."""
    class_of = np.concatenate([np.full((len(class_ids), 1), -1), class_ids], axis=1)
    classes = torch.from_numpy(
        np.take_along_axis(class_of, labels.reshape(len(labels), -1).astype(np.int64), axis=1)
    ).reshape(labels.shape)
    shares = torch.stack([(classes == c - 1).float() for c in range(1 + len(CLASS_NAMES))], 1)
    return F.avg_pool2d(shares, 8)


def _to_model(boxes: NDArray[np.float32]) -> Tensor:
    height, width = FRAME_HW
    return torch.from_numpy(boxes) * torch.tensor([SIZE / width, SIZE / height] * 2)


def _choose(candidates: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    slots = np.flatnonzero(candidates)
    return np.sort(rng.permutation(slots)[:_PER_CLIP])


def picture_batch(clips: ClipSet, count: int, rng: np.random.Generator) -> PictureBatch:
    """``count`` pictures, each mirrored with probability one half."""
    picked, times = rng.integers(0, len(clips), count), rng.integers(0, FRAMES, count)
    mirror = rng.random(count) < 0.5
    gray = regraded(clips.sam[picked, times], rng)
    labels, boxes = clips.labels[picked, times], clips.boxes[picked, times]
    gray[mirror], labels[mirror] = gray[mirror, :, ::-1], labels[mirror, :, ::-1]
    boxes[mirror] = mirrored(boxes[mirror])
    slots = [_choose(row, rng) for row in clips.counted[picked, times]]
    rows = np.repeat(np.arange(count), [len(some) for some in slots])
    slot = np.concatenate(slots)
    return PictureBatch(
        images=normalised(gray),
        occupied=torch.from_numpy(labels[:, ::2, ::2] > 0),
        shares=class_shares(labels, clips.class_ids[picked]),
        rows=torch.from_numpy(rows),
        cover=cover(labels[rows] == (slot + 1)[:, None, None]),
        boxes=_to_model(boxes[rows, slot]),
        class_ids=torch.from_numpy(clips.class_ids[picked[rows], slot]),
    )


def mirrored(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Boxes (..., 4) in frame pixels, left and right exchanged."""
    width = FRAME_HW[1]
    swapped = boxes.copy()
    swapped[..., 0], swapped[..., 2] = width - boxes[..., 2], width - boxes[..., 0]
    return swapped


def clip_batch(clips: ClipSet, count: int, rng: np.random.Generator) -> ClipBatch:
    """``count`` clips in which an object is counted at first; half run backwards in time."""
    picked = []
    while len(picked) < count:
        clip, step = int(rng.integers(len(clips))), 1 if rng.random() < 0.5 else -1
        if clips.counted[clip, ::step][0].any():
            picked.append((clip, step, rng.random() < 0.5))
    parts = [_one_clip(clips, clip, step, mirror, rng) for clip, step, mirror in picked]
    gray, masks, visible, counted, boxes, class_ids = zip(*parts, strict=True)
    rows = np.repeat(np.arange(count), [len(some) for some in class_ids])
    return ClipBatch(
        images=normalised(np.stack(gray)),
        rows=torch.from_numpy(rows),
        cover=cover(np.concatenate(masks)),
        visible=torch.from_numpy(np.concatenate(visible)),
        counted=torch.from_numpy(np.concatenate(counted)),
        boxes=_to_model(np.concatenate(boxes)),
        class_ids=torch.from_numpy(np.concatenate(class_ids)),
    )


def _one_clip(
    clips: ClipSet, clip: int, step: int, mirror: bool, rng: np.random.Generator
) -> tuple[NDArray[np.generic], ...]:
    gray = regraded(clips.sam[clip, ::step][None], rng)[0]
    labels, boxes = clips.labels[clip, ::step].copy(), clips.boxes[clip, ::step][0]
    visible, counted = clips.visible[clip, ::step].copy(), clips.counted[clip, ::step].copy()
    if mirror:
        gray, labels, boxes = gray[..., ::-1], labels[..., ::-1], mirrored(boxes)
    if rng.random() < _BLANK_SHARE:
        first = int(rng.integers(1, FRAMES - 1))
        gone = slice(first, first + int(rng.integers(1, 3)))
        gray[gone] = gray[gone] // 16
        labels[gone], visible[gone], counted[gone] = 0, False, False
    slots = _choose(counted[0], rng)
    masks = labels[None] == (slots + 1)[:, None, None, None]
    return (
        np.ascontiguousarray(gray), masks, visible.T[slots], counted.T[slots], boxes[slots],
        clips.class_ids[clip, slots],
    )  # fmt: skip
