"""When a detector looks for objects, and which of its rows count."""

from __future__ import annotations

import torch
from torch import Tensor

from stages.boxes import repeated
from stages.detectors.none import NoDetector, NoDetectorConfig
from stages.errors import ConfigError
from stages.key_frames import KeyFrames, Switch
from stages.records import Detections, Frame


class Looking:
    """On key frames, while switched on; what is answered otherwise."""

    def __init__(self, every: int, max_detections: int, device: torch.device) -> None:
        self.switch = Switch()
        self._key_frames = KeyFrames(every)
        self._nothing = NoDetector(NoDetectorConfig(max_detections=max_detections), device)

    def looks_at(self, frame: Frame) -> bool:
        """Whether to look at this frame; asked once a frame."""
        if not self.switch.is_on(frame.frame_id):
            self.restart()  # looked for again as soon as it is on
            return False
        return self._key_frames.has_next((frame.epoch, frame.size_hw))

    def restart(self) -> None:
        """The next frame is looked at."""
        self._key_frames.restart()

    def nothing(self, frame: Frame) -> Detections:
        """Rows of padding, not `computed`."""
        return self._nothing.detect(frame)


class Choice:
    """Which rows are `valid`: a score and a class that are wanted, an area, no repetition."""

    def __init__(self, wanted: Tensor, min_score: float, max_overlap: float) -> None:
        """``wanted``: bool (classes,), on the device. ``max_overlap``: see `stages.boxes.repeated`;
        1 keeps repetitions."""
        self._wanted, self._min_score, self._max_overlap = wanted, min_score, max_overlap

    def detections(
        self, frame: Frame, boxes_xyxy: Tensor, scores: Tensor, class_ids: Tensor
    ) -> Detections:
        """The record of rows that are sorted, best first. Networks predict distances to the
        sides, which may be negative: x1 <= x2 is made true, and such a box is not `valid`."""
        low, high = boxes_xyxy[:, :2], torch.maximum(boxes_xyxy[:, :2], boxes_xyxy[:, 2:])
        boxes = torch.cat((low, high), dim=1)
        valid = (scores >= self._min_score) & ((high - low).prod(dim=1) > 0)
        valid &= self._wanted.index_select(0, class_ids)
        if self._max_overlap < 1:
            valid &= ~repeated(boxes, class_ids, valid, self._max_overlap)
        return Detections(frame, boxes, scores, class_ids, valid, computed=True)


def wanted_classes(classes: tuple[str, ...] | None, names: tuple[str, ...], weights: str) -> Tensor:
    """bool (number of names,): those in ``classes``, all where it is None.

    ``weights`` names their file. Raises `ConfigError` for a class that is none.
    """
    unknown = [name for name in classes or () if name not in names]
    if unknown:
        raise ConfigError(
            f"classes: {unknown[0]!r} is not a class of {weights}, expected some of "
            f"{', '.join(names)}"
        )
    return torch.tensor([classes is None or name in classes for name in names])
