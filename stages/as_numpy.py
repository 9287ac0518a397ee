"""AsNumpy: the legacy exit. Masks leave the device right after Segment.

It is here for old callers and as the control of every residency test: the audit must fail on it,
so its copies are counted but are no named exit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kpi.emit import emit
from kpi.events import SamMaskOutput
from stages.copies import CopyCount
from stages.mask_upsampling import upsample
from stages.records import HostTracks, Tracks


class AsNumpy:
    """Tracks to HostTracks; every call waits for the device."""

    def __init__(self, threshold: float) -> None:
        """`threshold`: the logit above which a pixel is foreground."""
        self._threshold = threshold
        self.copies = CopyCount("d2h", "as_numpy")

    @torch.inference_mode()
    def exit(self, tracks: Tracks) -> HostTracks:
        """The valid slots, each mask a bool (H, W) array."""
        frame = tracks.detections.frame
        masks = self._copy(upsample(tracks.logits, frame.size_hw) > self._threshold)
        kept = np.flatnonzero(self._copy(tracks.valid))
        emit(SamMaskOutput(as_numpy=1, device=str(tracks.logits.device), objects=len(masks)))
        return HostTracks(
            frame=frame,
            masks=tuple(masks[kept]),
            object_ids=self._copy(tracks.object_ids)[kept],
            class_ids=self._copy(tracks.class_ids)[kept],
            scores=self._copy(tracks.scores)[kept],
            presence=self._copy(tracks.presence)[kept],
            quality=self._copy(tracks.quality)[kept],
            age_frames=self._copy(tracks.age_frames)[kept],
            feedback=None if tracks.feedback is None else self._copy(tracks.feedback),
        )

    def _copy(self, values: Tensor) -> NDArray[Any]:
        array: NDArray[Any] = values.cpu().numpy()
        self.copies.add(array.nbytes)
        return array
