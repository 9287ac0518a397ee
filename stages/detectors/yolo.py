"""A YOLO as a stage: one module call on the device, no predictor, nothing read back.

An end-to-end head (YOLO26, YOLOv10) names most objects once, not all: `max_overlap` drops what it
names again. Any other head (YOLOv8, YOLO11) names each many times: see `stages/detectors/nms.py`.
"""

from __future__ import annotations

from os.path import expanduser
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, BeforeValidator, Field
from torch import Tensor

from stages.base import Section
from stages.detectors.looking import Choice, Looking, wanted_classes
from stages.detectors.nms import OneToManyRows
from stages.detectors.yolo_checkpoint import STRIDE, YoloWeights, read_yolo_weights
from stages.detectors.yolo_network import build_network
from stages.errors import ConfigError
from stages.letterbox import Letterbox
from stages.records import Detections, Frame
from stages.weights_digest import digest

DEMO_WEIGHTS = Path(__file__).parent / "weights" / "yolo_demo.safetensors"
DEMO_INPUT_HW = (192, 256)
ULTRALYTICS_IOU = 0.7
"""Default of its `iou`."""


def _square(value: object) -> object:
    return (value, value) if isinstance(value, int) else value


def _whole_strides(size: tuple[int, int]) -> tuple[int, int]:
    if any(side % STRIDE or not STRIDE <= side <= 8192 for side in size):
        raise ValueError(f"expected multiples of {STRIDE} from {STRIDE} to 8192")
    return size


InputSize = Annotated[tuple[int, int], BeforeValidator(_square), AfterValidator(_whole_strides)]


class YoloConfig(Section):
    """An object detector of ultralytics' kind (YOLOv8 to YOLO26), or the demo model."""

    kind: Literal["yolo"] = "yolo"
    weights: str = Field("demo", min_length=1)
    """`demo`, or a path to `.safetensors` or to an ultralytics `.pt`."""
    sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")
    """Of the weights file; another file is refused."""
    input_size: InputSize | None = None
    """[height, width] or one number for a square, multiples of 32; default: the weights' own."""
    max_detections: int = Field(16, ge=1, le=300)
    min_score: float = Field(0.25, ge=0, le=1)
    max_overlap: float | None = Field(None, gt=0, le=1)
    """Box IoU above which the weaker of two detections of a class goes (`iou` in ultralytics).
    Default: 0.7 where the head needs NMS, and 1 where it is end-to-end and taken at its word."""
    classes: tuple[str, ...] | None = Field(None, min_length=1)
    """Names of the classes to keep; default: all."""
    every: int = Field(1, ge=1, le=1000)
    """Every so many frames is a key frame; nothing is looked for on the others."""


class YoloDetector:
    """Frame to the K = `max_detections` best boxes."""

    def __init__(self, config: YoloConfig, device: torch.device) -> None:
        """Load, fuse and try the network; raises `ConfigError`."""
        demo = config.weights == "demo"
        path = DEMO_WEIGHTS if demo else Path(expanduser(config.weights))
        weights = read_yolo_weights(path, config.sha256)
        self.class_names = weights.class_names
        self.input_hw = _input_hw(config, weights, DEMO_INPUT_HW if demo else None)
        self._device = device
        wanted = wanted_classes(config.classes, self.class_names, weights.path.name).to(device)
        self._network = build_network(weights, config.max_detections).to(device)
        self._letterbox: Letterbox | None = None
        self._looking = Looking(config.every, config.max_detections, device)
        self.switch = self._looking.switch
        end_to_end = self._try_network(weights, config.max_detections)
        overlap = config.max_overlap
        if not end_to_end:
            overlap = ULTRALYTICS_IOU if overlap is None else overlap
            self._network = OneToManyRows(
                self._network, config.max_detections, config.min_score, overlap
            )
            overlap = None  # what repeats is gone
        self._choice = Choice(wanted, config.min_score, 1.0 if overlap is None else overlap)

    def detect(self, frame: Frame) -> Detections:
        """K rows, best score first; between key frames, and while off, not `computed`.

        Scores below `min_score`, classes not wanted, boxes without area inside the frame and
        repetitions (`max_overlap`) are not `valid`.
        """
        if not self._looking.looks_at(frame):
            return self._looking.nothing(frame)
        letterbox = self._letterbox
        if letterbox is None or letterbox.frame_hw != frame.size_hw:
            letterbox = self._fitted(frame.size_hw)
        with torch.inference_mode():
            rows: Tensor = self._network(letterbox.fit(frame.rgb))[0][0]
            boxes = letterbox.to_frame(rows[:, :4])
            return self._choice.detections(frame, boxes, rows[:, 4], rows[:, 5].int())

    def weights_sha256(self) -> str:
        """See `stages.base.Weighted`; of the fused network."""
        return digest(self._network)

    def warm_up(self, size_hw: tuple[int, int]) -> None:
        """Make the constants for frames of `size_hw` (height, width) and run once on it.

        A change of size makes them inside `detect`, on the device.
        """
        rgb = torch.zeros(3, *size_hw, dtype=torch.uint8, device=self._device)
        self.detect(Frame(rgb, "warm-up", -1, 0, 0, 0))
        self._looking.restart()

    def _fitted(self, size_hw: tuple[int, int]) -> Letterbox:
        self._letterbox = Letterbox(size_hw, self.input_hw, self._device)
        return self._letterbox

    def _try_network(self, weights: YoloWeights, rows: int) -> bool:
        """Whether its head is end-to-end; raises `ConfigError` for a head that is neither.

        Also makes the anchors, outside inference mode so that they stay plain tensors.
        """
        blank = torch.zeros(1, 3, *self.input_hw, device=self._device)
        with torch.no_grad():
            shape = tuple(self._network(blank)[0].shape)
        end_to_end = len(shape) == 3 and shape[-1] == 6 and shape[1] <= rows
        if not end_to_end and (len(shape) != 3 or shape[1] != 4 + len(self.class_names)):
            raise ConfigError(
                f"{weights.path}: its head gives {shape}, expected (1, {rows}, 6) of an end-to-end "
                f"one or (1, {4 + len(self.class_names)}, candidates)"
            )
        candidates = shape[1] if end_to_end else shape[2]
        if candidates < rows:
            raise ConfigError(
                f"max_detections is {rows}, but an input of {self.input_hw} gives only "
                f"{candidates} candidates; expected fewer detections or a larger input_size"
            )
        return end_to_end


def _input_hw(
    config: YoloConfig, weights: YoloWeights, default: tuple[int, int] | None
) -> tuple[int, int]:
    size = config.input_size or weights.input_hw or default
    if size is None:
        raise ConfigError(f"{weights.path}: names no input_size, expected one in the configuration")
    return size
