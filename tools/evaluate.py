"""``python -m tools.evaluate``: figures of the demo weights on phantom seeds never trained on.

Truth is every *counted* object of a frame; all overlaps are measured at 480 x 640. SAM2 runs in
the unmodified official predictors, the detector through its end-to-end head.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from sam2.sam2_image_predictor import SAM2ImagePredictor
from torch import nn

from stages.sources.phantom_scene import CLASS_NAMES, PhantomScene, SceneTruth
from tools.matching import box_ious, detector_scores, mask_iou, matched
from tools.phantom_clips import (
    DETECTOR_HW,
    FIRST_EVALUATION_SEED,
    FRAME_HW,
    mask_boxes,
    resize_gray,
)
from tools.tracking import tracking_ious
from tools.weights import SAM2_YAML, YOLO_YAML, build_sam2, build_yolo, load_weights

SEEDS: Final = range(FIRST_EVALUATION_SEED, FIRST_EVALUATION_SEED + 20)
FRAMES: Final = range(30, 900, 87)  # ten frames a seed, far apart
MAX_DETECTIONS: Final = 32
_JITTER: Final = 0.05  # of the box's size, each side of a prompted box

Row = tuple[int, float]  # class, IoU


@dataclass(frozen=True, slots=True, eq=False)
class Detected:
    """Best first: ``boxes`` float32 (K, 4) frame pixels, ``scores`` (K,), ``class_ids`` (K,)."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]


def image_predictor(weights: Path) -> SAM2ImagePredictor:
    """The official image predictor with the demo model."""
    model = build_sam2()
    load_weights(weights, model)
    predictor = SAM2ImagePredictor(model)
    predictor._bb_feat_sizes = [(model.image_size // s,) * 2 for s in (4, 8, 16)]
    return predictor


def end_to_end(weights: Path) -> nn.Module:
    """The fused detector; its output is (B, `MAX_DETECTIONS`, 6)."""
    model = build_yolo()
    load_weights(weights, model)
    model.model[-1].end2end, model.model[-1].max_det = True, MAX_DETECTIONS
    return model.fuse(verbose=False).eval()


@torch.inference_mode()
def detect(model: nn.Module, picture: NDArray[np.uint8]) -> Detected:
    """Detections in one frame; no threshold."""
    pixels = (resize_gray(picture, DETECTOR_HW) / 255).expand(1, 3, -1, -1)
    rows = model(pixels)[0][0].numpy()
    scale = np.float32(FRAME_HW[0] / DETECTOR_HW[0])
    return Detected(rows[:, :4] * scale, rows[:, 4], rows[:, 5].astype(np.int64))


def deepest_point(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """(x, y) of the pixel farthest from the mask's outside."""
    distance = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), mask.shape)
    return float(x) + 0.5, float(y) + 0.5


def prompted(
    predictor: SAM2ImagePredictor, truth: SceneTruth, rng: np.random.Generator
) -> dict[str, list[Row]]:
    """IoU from a loose box and from one click, for each counted object of the set picture."""
    found: dict[str, list[Row]] = {"box": [], "click": []}
    boxes = mask_boxes(truth.masks)
    for row in np.flatnonzero(truth.counted):
        size = np.tile(boxes[row, 2:] - boxes[row, :2], 2)
        box = boxes[row] + rng.uniform(-_JITTER, _JITTER, 4) * size
        class_id = int(truth.class_ids[row])
        masks, _, _ = predictor.predict(box=box, multimask_output=False)
        found["box"].append((class_id, mask_iou(masks[0] > 0, truth.masks[row])))
        point = np.array([deepest_point(truth.masks[row])])
        masks, ious, _ = predictor.predict(point, np.array([1]), multimask_output=True)
        best = masks[int(ious.argmax())] > 0
        found["click"].append((class_id, mask_iou(best, truth.masks[row])))
    return found


def detected_masks(
    predictor: SAM2ImagePredictor, truth: SceneTruth, detected: Detected, min_score: float
) -> list[Row]:
    """IoU of each counted object with the mask of the detection that it got; 0 for a miss."""
    keep = detected.scores >= min_score
    boxes = mask_boxes(truth.masks)
    overlaps = box_ious(boxes[truth.counted], detected.boxes[keep])
    same = truth.class_ids[truth.counted][:, None] == detected.class_ids[keep][None]
    pairs = matched(overlaps * same, least=0.3)
    rows = []
    for place, row in enumerate(np.flatnonzero(truth.counted)):
        iou = 0.0
        if place in pairs:
            box = detected.boxes[keep][pairs[place]]
            masks, _, _ = predictor.predict(box=box, multimask_output=False)
            iou = mask_iou(masks[0] > 0, truth.masks[row])
        rows.append((int(truth.class_ids[row]), iou))
    return rows


def by_class(rows: list[Row]) -> dict[str, float]:
    """Mean over all rows and over each class's."""
    groups: dict[str, list[float]] = defaultdict(list)
    for class_id, value in rows:
        groups["all"].append(value)
        groups[CLASS_NAMES[class_id]].append(value)
    return {name: round(float(np.mean(values)), 4) for name, values in sorted(groups.items())}


def evaluate(sam2: Path | None, yolo: Path | None, seeds: range, track: int) -> dict[str, Any]:
    """All figures that the given weights allow."""
    predictor = image_predictor(sam2) if sam2 else None
    detector = end_to_end(yolo) if yolo else None
    rng = np.random.default_rng(0)
    prompts: dict[str, list[Row]] = {"box": [], "click": []}
    frames: list[tuple[SceneTruth, Detected]] = []
    ends: list[tuple[float, list[Row]]] = []
    for seed in seeds:
        scene = PhantomScene(seed, size_hw=FRAME_HW)
        for index in FRAMES:
            picture, truth = scene.render(index), scene.truth(index)
            detected = detect(detector, picture) if detector else None
            if detected:
                frames.append((truth, detected))
            if predictor:
                predictor.set_image(np.repeat(picture[:, :, None], 3, 2))
                for kind, rows in prompted(predictor, truth, rng).items():
                    prompts[kind] += rows
                if detected:
                    ends += [(s, detected_masks(predictor, truth, detected, s))
                             for s in (0.25, 0.35)]  # fmt: skip
    report: dict[str, Any] = {}
    if predictor:
        report |= {kind: by_class(rows) for kind, rows in prompts.items()}
        report["objects"] = len(prompts["box"])
    if frames:
        report["detector"] = detector_scores(frames)
    for score in sorted({score for score, _ in ends}):
        rows = [row for at, some in ends if at == score for row in some]
        report[f"end_to_end@{score}"] = by_class(rows)
    if sam2 and track:
        report["tracking"] = by_class(tracking_ious(sam2, seeds, track))
    return report


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sam2", type=Path, default=SAM2_YAML.with_suffix(".safetensors"))
    parser.add_argument("--yolo", type=Path, default=YOLO_YAML.with_suffix(".safetensors"))
    parser.add_argument("--only", choices=("sam2", "yolo"))
    parser.add_argument("--track", type=int, default=60, help="frames of each tracked clip")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--quick", action="store_true", help="two seeds, no tracking")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    seeds = SEEDS[: 2 if arguments.quick else arguments.seeds]
    report = evaluate(
        None if arguments.only == "yolo" else arguments.sam2,
        None if arguments.only == "sam2" else arguments.yolo,
        seeds,
        0 if arguments.quick else arguments.track,
    )
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
