"""An end-to-end YOLO as a stage: one module call on the device, no predictor, no NMS.

An end-to-end head names most objects once, not all: `max_overlap` drops what it names again.
"""

from __future__ import annotations

from os.path import expanduser
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, BeforeValidator, Field
from torch import Tensor

from stages.base import Section
from stages.boxes import repeated
from stages.detectors.none import NoDetector, NoDetectorConfig
from stages.detectors.yolo_checkpoint import STRIDE, YoloWeights, read_yolo_weights
from stages.detectors.yolo_network import build_network
from stages.errors import ConfigError
from stages.key_frames import KeyFrames, Switch
from stages.letterbox import Letterbox
from stages.records import Detections, Frame
from stages.weights_digest import digest

DEMO_WEIGHTS = Path(__file__).parent / "weights" / "yolo_demo.safetensors"
DEMO_INPUT_HW = (192, 256)


def _square(value: object) -> object:
    return (value, value) if isinstance(value, int) else value


def _whole_strides(size: tuple[int, int]) -> tuple[int, int]:
    if any(side % STRIDE or not STRIDE <= side <= 8192 for side in size):
        raise ValueError(f"expected multiples of {STRIDE} from {STRIDE} to 8192")
    return size


InputSize = Annotated[tuple[int, int], BeforeValidator(_square), AfterValidator(_whole_strides)]


class YoloConfig(Section):
    """An end-to-end YOLO (YOLO26, YOLOv10, or the demo model)."""

    kind: Literal["yolo"] = "yolo"
    weights: str = Field("demo", min_length=1)
    """`demo`, or a path to `.safetensors` or to an ultralytics `.pt`."""
    sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")
    """Of the weights file; another file is refused."""
    input_size: InputSize | None = None
    """[height, width] or one number for a square, multiples of 32; default: the weights' own."""
    max_detections: int = Field(16, ge=1, le=300)
    min_score: float = Field(0.25, ge=0, le=1)
    max_overlap: float = Field(1.0, gt=0, le=1)
    """Box IoU above which the weaker of two detections of a class is not `valid`; 1: the head is
    taken at its word."""
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
        self._min_score, self._max_overlap = config.min_score, config.max_overlap
        self._wanted = _wanted(config.classes, weights).to(device)
        self._network = build_network(weights, config.max_detections).to(device)
        self._letterbox: Letterbox | None = None
        self._key_frames = KeyFrames(config.every)
        self.switch = Switch()
        self._nothing = NoDetector(NoDetectorConfig(max_detections=config.max_detections), device)
        self._try_network(weights.path, config.max_detections)

    def detect(self, frame: Frame) -> Detections:
        """K rows, best score first; between key frames, and while off, not `computed`.

        Scores below `min_score`, classes not wanted, boxes without area inside the frame and
        repetitions (`max_overlap`) are not `valid`.
        """
        if not self.switch.is_on(frame.frame_id):
            self._key_frames.restart()  # looked for again as soon as it is on
            return self._nothing.detect(frame)
        if not self._key_frames.has_next((frame.epoch, frame.size_hw)):
            return self._nothing.detect(frame)
        letterbox = self._letterbox
        if letterbox is None or letterbox.frame_hw != frame.size_hw:
            letterbox = self._fitted(frame.size_hw)
        with torch.inference_mode():
            rows: Tensor = self._network(letterbox.fit(frame.rgb))[0][0]
            boxes = letterbox.to_frame(rows[:, :4])
            scores, class_ids = rows[:, 4], rows[:, 5].int()
            # The network predicts distances to the sides, which may be negative: keep x1 <= x2.
            low, high = boxes[:, :2], torch.maximum(boxes[:, :2], boxes[:, 2:])
            area = (high - low).prod(dim=1)
            wanted = self._wanted.index_select(0, class_ids)
            valid = (scores >= self._min_score) & (area > 0) & wanted
            boxes = torch.cat((low, high), dim=1)
            if self._max_overlap < 1:
                valid &= ~repeated(boxes, class_ids, valid, self._max_overlap)
        return Detections(frame, boxes, scores, class_ids, valid, computed=True)

    def weights_sha256(self) -> str:
        """See `stages.base.Weighted`; of the fused network."""
        return digest(self._network)

    def warm_up(self, size_hw: tuple[int, int]) -> None:
        """Make the constants for frames of `size_hw` (height, width) and run once on it.

        A change of size makes them inside `detect`, on the device.
        """
        rgb = torch.zeros(3, *size_hw, dtype=torch.uint8, device=self._device)
        self.detect(Frame(rgb, "warm-up", -1, 0, 0, 0))
        self._key_frames.restart()

    def _fitted(self, size_hw: tuple[int, int]) -> Letterbox:
        self._letterbox = Letterbox(size_hw, self.input_hw, self._device)
        return self._letterbox

    def _try_network(self, path: Path, rows: int) -> None:
        """Also makes the anchors, outside inference mode so that they stay plain tensors."""
        blank = torch.zeros(1, 3, *self.input_hw, device=self._device)
        with torch.no_grad():
            output = self._network(blank)[0]
        shape = tuple(output.shape)
        if len(shape) != 3 or shape[-1] != 6 or shape[1] > rows:
            raise ConfigError(
                f"{path}: has no end-to-end head (expected a YOLO26/v10-style model with output "
                f"(1, {rows}, 6), got {shape})"
            )
        if shape[1] < rows:
            raise ConfigError(
                f"max_detections is {rows}, but an input of {self.input_hw} gives only {shape[1]} "
                "candidates; expected fewer detections or a larger input_size"
            )


def _input_hw(
    config: YoloConfig, weights: YoloWeights, default: tuple[int, int] | None
) -> tuple[int, int]:
    size = config.input_size or weights.input_hw or default
    if size is None:
        raise ConfigError(f"{weights.path}: names no input_size, expected one in the configuration")
    return size


def _wanted(classes: tuple[str, ...] | None, weights: YoloWeights) -> Tensor:
    """bool (number of classes,)."""
    names = weights.class_names
    unknown = [name for name in classes or () if name not in names]
    if unknown:
        raise ConfigError(
            f"classes: {unknown[0]!r} is not a class of {weights.path.name}, expected some of "
            f"{', '.join(names)}"
        )
    return torch.tensor([classes is None or name in classes for name in names])
