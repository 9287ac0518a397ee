"""Short clips of the synthetic phantom, rendered once, kept as plain arrays for training.

A clip is `FRAMES` pictures of one seed, one of `STRIDES` frames apart. Pictures are stored
already resized, in the way each model's stage resizes a frame; truth is a label map at half the
frame's size, precise enough for losses at a quarter of it.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from stages.sources.phantom_scene import PhantomScene

FRAME_HW: Final = (480, 640)
SAM_HW: Final = (128, 128)
DETECTOR_HW: Final = (192, 256)
LABEL_HW: Final = (240, 320)
FRAMES: Final = 8
STRIDES: Final = (1, 2, 3, 4, 6, 10)  # the longer ones let objects fade, hide and come back
MAX_START: Final = 900
CLIPS_PER_SEED: Final = 2  # a scene costs as much to set up as ten frames do to draw
SLOTS: Final = 8  # objects of a clip; later ones are left out (at most 5 are in view at once)
FIRST_EVALUATION_SEED: Final = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class ClipSet:
    """N clips of T frames and up to `SLOTS` objects.

    ``sam`` uint8 (N, T, 128, 128) and ``detector`` uint8 (N, T, 192, 256), grey; ``labels``
    uint8 (N, T, 240, 320), 0 background, 1 + slot of the visible object; ``boxes`` float32
    (N, T, S, 4), x0 y0 x1 y1 in frame pixels, ends exclusive; ``visible`` and ``counted`` bool
    (N, T, S); ``class_ids`` int64 (N, S), -1 for an unused slot; ``seeds`` int64 (N,).
    """

    sam: NDArray[np.uint8]
    detector: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    visible: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    class_ids: NDArray[np.int64]
    seeds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.seeds)


Clip = tuple[NDArray[np.generic] | np.int64, ...]


def resize_gray(picture: NDArray[np.uint8], size_hw: tuple[int, int]) -> torch.Tensor:
    """(H, W) uint8 to float32 ``size_hw``, 0..255, as the stages resize a frame."""
    frame = torch.from_numpy(picture)[None, None].float()
    return F.interpolate(frame, size=size_hw, mode="bilinear", antialias=True, align_corners=False)[
        0, 0
    ]


def mask_boxes(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Tight boxes (n, 4) of masks (n, H, W), x0 y0 x1 y1, ends exclusive; zeros where empty."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if rows.size:
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def render_seed(seed: int) -> list[Clip]:
    """The clips of one seed, a pure function of it."""
    rng = np.random.default_rng([seed, 77])
    scene = PhantomScene(seed, size_hw=FRAME_HW)
    return [
        render_clip(scene, seed, int(rng.integers(0, MAX_START)), int(rng.choice(STRIDES)))
        for _ in range(CLIPS_PER_SEED)
    ]


def render_clip(scene: PhantomScene, seed: int, start: int, stride: int) -> Clip:
    """One clip: the arrays of `ClipSet` without the first axis."""
    sam = np.zeros((FRAMES, *SAM_HW), np.uint8)
    detector = np.zeros((FRAMES, *DETECTOR_HW), np.uint8)
    labels = np.zeros((FRAMES, *LABEL_HW), np.uint8)
    boxes = np.zeros((FRAMES, SLOTS, 4), np.float32)
    visible, counted = np.zeros((2, FRAMES, SLOTS), np.bool_)
    class_ids = np.full(SLOTS, -1, np.int64)
    slot_of: dict[int, int] = {}
    for t in range(FRAMES):
        picture, truth = scene.render(start + t * stride), scene.truth(start + t * stride)
        sam[t] = resize_gray(picture, SAM_HW).round().byte().numpy()
        detector[t] = resize_gray(picture, DETECTOR_HW).round().byte().numpy()
        found = mask_boxes(truth.masks)
        for row, object_id in enumerate(truth.object_ids):
            slot = slot_of.setdefault(int(object_id), len(slot_of))
            if slot >= SLOTS or not truth.masks[row].any():
                continue
            class_ids[slot] = truth.class_ids[row]
            labels[t][truth.masks[row, 1::2, 1::2]] = slot + 1
            boxes[t, slot] = found[row]
            visible[t, slot], counted[t, slot] = True, truth.counted[row]
    return sam, detector, labels, boxes, visible, counted, class_ids, np.int64(seed)


def _one_thread() -> None:
    torch.set_num_threads(1)


def render_clips(seeds: Iterable[int], workers: int = 2) -> Iterator[Clip]:
    """Render `CLIPS_PER_SEED` clips for each seed, in the seeds' order."""
    if workers <= 1:
        for seed in seeds:
            yield from render_seed(seed)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, initializer=_one_thread) as pool:
        for clips in pool.imap(render_seed, list(seeds), chunksize=8):
            yield from clips


def save_clips(clips: Iterable[Clip], count: int, folder: Path) -> None:
    """Write `count` clips as they come, one uncompressed .npy an array, so that loading can map
    them: all the training clips are more than memory holds. Raises ValueError if there are fewer
    or more."""
    folder.mkdir(parents=True, exist_ok=True)
    coming = iter(clips)
    first = next(coming)
    arrays = [
        np.lib.format.open_memmap(
            folder / f"{field.name}.npy", "w+", dtype=value.dtype, shape=(count, *value.shape)
        )
        for field, value in zip(fields(ClipSet), first, strict=True)
    ]
    for number, clip in zip(range(count), chain((first,), coming), strict=True):
        for array, value in zip(arrays, clip, strict=True):
            array[number] = value
    for array in arrays:
        array.flush()


def load_clips(folder: Path) -> ClipSet:
    """Map what `save_clips` wrote; the arrays are read-only."""
    return ClipSet(
        *(
            np.load(folder / f"{field.name}.npy", mmap_mode="r", allow_pickle=False)
            for field in fields(ClipSet)
        )
    )
