"""How well the unmodified SAM2VideoPredictor follows objects from one box with given weights."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sam2.sam2_video_predictor import SAM2VideoPredictor
from torch import Tensor

from stages.sources.phantom_scene import PhantomScene
from tools.batches import normalised
from tools.matching import mask_iou
from tools.phantom_clips import FRAME_HW, mask_boxes
from tools.weights import build_sam2, load_weights

_FIRST: Final = 120  # the clip's first frame in its scene


def video_predictor(weights: Path) -> SAM2VideoPredictor:
    """The official video predictor with the demo model; memory as on an endless stream."""
    predictor = build_sam2(video=True)
    load_weights(weights, predictor)
    return predictor


def video_input(picture: NDArray[np.uint8], size: int) -> Tensor:
    """A frame as sam2's own loader makes it: PIL's resize, then normalised, (3, S, S)."""
    return normalised(np.asarray(Image.fromarray(picture).resize((size, size))))


def new_state(predictor: SAM2VideoPredictor, images: list[Tensor]) -> dict[str, Any]:
    """An inference state on pictures in memory; SAM2 itself only opens files."""
    device = torch.device("cpu")
    per_object = ("point_inputs", "mask_inputs", "output_dict", "temp_output_dict",
                  "frames_tracked")  # fmt: skip
    return {
        "images": images, "num_frames": len(images), "offload_video_to_cpu": False,
        "offload_state_to_cpu": False, "video_height": FRAME_HW[0], "video_width": FRAME_HW[1],
        "device": device, "storage_device": device, "cached_features": {}, "constants": {},
        "obj_id_to_idx": OrderedDict(), "obj_idx_to_id": OrderedDict(), "obj_ids": [],
        **{f"{name}_per_obj": {} for name in per_object},
    }  # fmt: skip


def tracking_ious(weights: Path, seeds: range, frames: int) -> list[tuple[int, float]]:
    """(class, IoU) of each object that is counted in a clip's first frame, on every later frame
    where it is counted; the prompt is its box in the first frame."""
    predictor = video_predictor(weights)
    rows: list[tuple[int, float]] = []
    for seed in seeds:
        scene = PhantomScene(seed, size_hw=FRAME_HW)
        first = scene.truth(_FIRST)
        followed = {int(first.object_ids[row]): row for row in np.flatnonzero(first.counted)}
        if not followed:
            continue
        images = [video_input(scene.render(_FIRST + t), predictor.image_size)
                  for t in range(frames)]  # fmt: skip
        state = new_state(predictor, images)
        boxes = mask_boxes(first.masks)
        for object_id, row in followed.items():
            predictor.add_new_points_or_box(state, 0, object_id, box=boxes[row])
        for t, ids, logits in predictor.propagate_in_video(state):
            truth = scene.truth(_FIRST + t)
            for row in np.flatnonzero(truth.counted):
                object_id = int(truth.object_ids[row])
                if t and object_id in followed:
                    mask = (logits[ids.index(object_id), 0] > 0).numpy()
                    rows.append((int(truth.class_ids[row]), mask_iou(mask, truth.masks[row])))
    return rows
