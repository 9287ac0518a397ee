"""A live detector on the key frames of a recording: `AsRecorded`."""

from __future__ import annotations

import torch

from stages.base import Detector
from stages.detectors.none import NoDetector, NoDetectorConfig
from stages.recorder.recorded_run import RecordedRun
from stages.records import Detections, Frame


class AsRecorded:
    """A live detector that looks where the recorded one did."""

    def __init__(self, live: Detector, run: RecordedRun, device: torch.device) -> None:
        """``live`` must look at every frame that it is given."""
        self._live, self._run = live, run
        self.class_names = live.class_names
        rows = len(run.rows(0).valid)
        self._nothing = NoDetector(NoDetectorConfig(max_detections=rows), device)

    def detect(self, frame: Frame) -> Detections:
        """What it finds now, on the key frames of then."""
        if frame.epoch >= 0 and not self._run.rows(frame.frame_id).computed:
            return self._nothing.detect(frame)
        return self._live.detect(frame)
