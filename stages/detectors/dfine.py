"""D-FINE and RT-DETR as a stage: transformers' network, own post-processing, nothing read back."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from stages.base import Section
from stages.detectors.dfine_folder import DfineFolder, find_dfine, read_folder
from stages.detectors.dfine_network import build_network
from stages.detectors.looking import Choice, Looking, wanted_classes
from stages.detectors.model_input import ModelInput
from stages.errors import ConfigError
from stages.records import Detections, Frame
from stages.weights_digest import digest

DEMO_FOLDER = Path(__file__).parent / "weights" / "dfine_demo"


class DfineConfig(Section):
    """A D-FINE, RT-DETR or RT-DETRv2 of transformers, or the demo model."""

    kind: Literal["dfine"] = "dfine"
    weights: str = Field("demo", min_length=1)
    """`demo`; a folder with `config.json`, `preprocessor_config.json` and `model.safetensors`; or
    a model id in the local Hugging Face cache, with `revision`."""
    revision: str | None = Field(None, pattern="^[0-9a-f]{40}$")
    """The commit of a model id."""
    sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")
    """Of the weights file; another file is refused."""
    max_detections: int = Field(16, ge=1, le=300)
    min_score: float = Field(0.5, ge=0, le=1)
    max_overlap: float = Field(1.0, gt=0, le=1)
    """Box IoU above which the weaker of two detections of a class is not `valid`; 1: the model,
    which is trained to name each object once, is taken at its word."""
    classes: tuple[str, ...] | None = Field(None, min_length=1)
    """Names of the classes to keep; default: all."""
    every: int = Field(1, ge=1, le=1000)
    """Every so many frames is a key frame; nothing is looked for on the others."""


class DfineDetector:
    """Frame to the K = `max_detections` best boxes."""

    def __init__(self, config: DfineConfig, device: torch.device) -> None:
        """Load and try the network; raises `ConfigError`."""
        demo = config.weights == "demo"
        path = DEMO_FOLDER if demo else find_dfine(config.weights, config.revision)
        folder = read_folder(path, config.sha256)
        self.class_names = folder.class_names
        wanted = wanted_classes(config.classes, self.class_names, path.name).to(device)
        self._choice = Choice(wanted, config.min_score, config.max_overlap)
        self._keep, self._device = config.max_detections, device
        self._input = ModelInput(folder.form, device)
        self._network = build_network(folder).to(device)
        self._looking = Looking(config.every, config.max_detections, device)
        self.switch = self._looking.switch
        self._try_network(folder)

    def detect(self, frame: Frame) -> Detections:
        """K rows, best score first; between key frames, and while off, not `computed`.

        A query may stand for several classes, a row each, as in transformers' post-processing.
        Scores below `min_score`, classes not wanted, boxes without area inside the frame and
        repetitions (`max_overlap`) are not `valid`.
        """
        if not self._looking.looks_at(frame):
            return self._looking.nothing(frame)
        with torch.inference_mode():
            found = self._network(pixel_values=self._input.fit(frame.rgb))
            boxes, scores, class_ids = best_rows(found.logits[0], found.pred_boxes[0], self._keep)
            height, width = frame.size_hw
            x1, y1, x2, y2 = boxes.unbind(dim=1)
            boxes = torch.stack(
                (
                    (x1 * width).clamp(0, width),
                    (y1 * height).clamp(0, height),
                    (x2 * width).clamp(0, width),
                    (y2 * height).clamp(0, height),
                ),
                dim=1,
            )
            return self._choice.detections(frame, boxes, scores, class_ids)

    def weights_sha256(self) -> str:
        """See `stages.base.Weighted`."""
        return digest(self._network)

    def warm_up(self, size_hw: tuple[int, int]) -> None:
        """Run once on a frame of `size_hw` (height, width); the network has one size of its own."""
        rgb = torch.zeros(3, *size_hw, dtype=torch.uint8, device=self._device)
        self.detect(Frame(rgb, "warm-up", -1, 0, 0, 0))
        self._looking.restart()

    def _try_network(self, folder: DfineFolder) -> None:
        """Also makes anchors and position codes, outside inference mode so that they stay plain
        tensors."""
        blank = torch.zeros(1, 3, *folder.form.input_hw, device=self._device)
        with torch.no_grad():
            try:
                shape = tuple(self._network(pixel_values=blank).logits.shape)
            except (RuntimeError, ValueError) as error:
                raise ConfigError(
                    f"{folder.path}: its network does not take an input of "
                    f"{folder.form.input_hw} ({str(error).splitlines()[0][:160]})"
                ) from error
        if shape[-1] != len(self.class_names):
            raise ConfigError(
                f"{folder.path}: its network tells {shape[-1]} classes apart, "
                f"expected the {len(self.class_names)} of id2label"
            )
        if shape[1] * shape[2] < self._keep:
            raise ConfigError(
                f"max_detections is {self._keep}, but {folder.path.name} gives only "
                f"{shape[1]} queries of {shape[2]} classes; expected fewer detections"
            )


def best_rows(logits: Tensor, boxes_cxcywh: Tensor, keep: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes float32 (K, 4) x1 y1 x2 y2, scores float32 (K,) and class ids int32 (K,), best first.

    From logits (queries, classes) and boxes (queries, 4), shares of the picture. All pairs of query
    and class compete, as in `RTDetrImageProcessor.post_process_object_detection`.
    """
    scores, pairs = logits.sigmoid().flatten().topk(keep)
    classes = logits.shape[1]
    centre, half = boxes_cxcywh[:, :2], boxes_cxcywh[:, 2:] / 2
    corners = torch.cat((centre - half, centre + half), dim=1)
    queries = pairs.div(classes, rounding_mode="floor")
    return corners.index_select(0, queries), scores, (pairs - queries * classes).int()
