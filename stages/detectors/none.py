"""No detector: prompts come from people, or the whole frame is the prompt."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from stages.base import Section
from stages.records import Detections, Frame


class NoDetectorConfig(Section):
    """Look for nothing."""

    kind: Literal["none"] = "none"
    max_detections: int = Field(16, ge=1, le=300)
    """Rows of the (empty) result."""


class NoDetector:
    """Answers every frame with `max_detections` rows of padding, `computed` False."""

    def __init__(self, config: NoDetectorConfig, device: torch.device) -> None:
        rows = config.max_detections
        self.class_names: tuple[str, ...] = ()
        self._boxes = torch.zeros(rows, 4, device=device)
        self._scores = torch.zeros(rows, device=device)
        self._class_ids = torch.zeros(rows, dtype=torch.int32, device=device)
        self._valid = torch.zeros(rows, dtype=torch.bool, device=device)

    def detect(self, frame: Frame) -> Detections:
        """The same constants for every frame; they must not be written to."""
        return Detections(
            frame, self._boxes, self._scores, self._class_ids, self._valid, computed=False
        )
