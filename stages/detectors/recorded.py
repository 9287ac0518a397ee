"""What a detector found when it was recorded: `RecordedDetector`."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from stages.base import Section
from stages.detectors.none import NoDetector, NoDetectorConfig
from stages.exits import named_exit
from stages.recorder.recorded_run import RecordedRun
from stages.records import Detections, Frame


class RecordedDetectorConfig(Section):
    """The detections that a run recorded; for the source `recorded`, of the same recording."""

    kind: Literal["recorded"] = "recorded"
    path: str = Field(min_length=1)
    """The folder of a recording, or of the run that made it."""


class RecordedDetector:
    """Answers the n-th frame of the source with the rows of the n-th recorded one."""

    def __init__(self, config: RecordedDetectorConfig, device: torch.device) -> None:
        """Raises `RecordingError` for what is no recording with detections."""
        self._run = RecordedRun(config.path)
        self._run.need("detections")
        self._device = device
        self.class_names = self._run.provenance().detector_classes
        rows = len(self._run.rows(0).valid)
        self._nothing = NoDetector(NoDetectorConfig(max_detections=rows), device)

    def detect(self, frame: Frame) -> Detections:
        """K rows as recorded; padding for a frame of no stream, and beyond the recording."""
        if frame.epoch < 0 or frame.frame_id >= len(self._run.frames):
            return self._nothing.detect(frame)
        rows = self._run.rows(frame.frame_id)
        with named_exit("recorded"):
            return Detections(
                frame,
                self._on_device(rows.boxes_xyxy),
                self._on_device(rows.scores),
                self._on_device(rows.class_ids),
                self._on_device(rows.valid),
                computed=rows.computed,
                classes=None if rows.classes is None else self._on_device(rows.classes),
            )

    def _on_device(
        self, values: NDArray[np.float32] | NDArray[np.int32] | NDArray[np.bool_]
    ) -> Tensor:
        return torch.from_numpy(values.copy()).to(self._device)
