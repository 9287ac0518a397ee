"""The baseline: the two libraries the way their own documentation calls them."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stages.detectors.yolo import DEMO_INPUT_HW, DEMO_WEIGHTS
from stages.detectors.yolo_checkpoint import read_yolo_weights
from stages.detectors.yolo_network import import_ultralytics
from stages.segmenters.sam2_checkpoint import build_sam2

MIN_SCORE = 0.25
FEATURE_STRIDES = (4, 8, 16)


class PublicCalls:
    """`YOLO.predict` (its end-to-end head) and `SAM2ImagePredictor`, with the demo weights."""

    def __init__(self, device: torch.device) -> None:
        from sam2.sam2_image_predictor import SAM2ImagePredictor

        self._device = device
        self._yolo = self._build_yolo()
        model: Any = build_sam2("demo", None, None, device)
        self._sam = SAM2ImagePredictor(model)
        # The predictor assumes pictures of 1024 px; smaller models need their own sizes.
        side = model.image_size
        self._sam._bb_feat_sizes = [(side // s, side // s) for s in FEATURE_STRIDES]

    def _build_yolo(self) -> Any:  # noqa: ANN401 (an untyped library)
        weights = read_yolo_weights(DEMO_WEIGHTS)
        yolo = import_ultralytics().YOLO(DEMO_WEIGHTS.with_suffix(".yaml"), task="detect")
        yolo.model.load_state_dict(weights.tensors)
        yolo.model.names = dict(enumerate(weights.class_names))
        return yolo

    def step(self, gray: NDArray[np.uint8]) -> float:
        """One frame to masks in numpy; seconds of the SAM part."""
        picture = np.repeat(gray[:, :, None], 3, axis=2)
        found = self._yolo.predict(
            picture,
            imgsz=list(DEMO_INPUT_HW),
            conf=MIN_SCORE,
            nms=False,
            verbose=False,
            device=str(self._device),
        )[0]
        boxes = found.boxes.xyxy.cpu().numpy()
        begin = time.perf_counter()
        self.masks(picture, boxes)
        return time.perf_counter() - begin

    def masks(self, picture: NDArray[np.uint8], boxes: NDArray[np.float32]) -> NDArray[Any]:
        """Masks float32 (n, 1, H, W) of `boxes` (n, 4); empty without boxes."""
        self._sam.set_image(picture)
        if not len(boxes):
            return np.zeros((0, 1, *picture.shape[:2]), dtype=np.float32)
        found: NDArray[Any] = self._sam.predict(box=boxes, multimask_output=False)[0]
        return found
