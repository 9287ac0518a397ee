"""The logits at video resolution that recorded low-resolution ones stand for. Needs torch."""

from __future__ import annotations

import numpy as np
import torch

from stages.errors import RecordingError
from stages.mask_upsampling import upsample
from stages.recording.entries import Logits, VideoLogits
from stages.recording.log_reader import LogRecording
from stages.recording.manifest import Interpolation
from stages.recording.npy_reader import NpyRecording
from stages.recording.quantise import NO_OBJECT

_LOSER = -10.0
"""Most a logit may be where another object wins, as in sam2's non-overlapping constraint."""


def video_logits_at(
    recording: LogRecording | NpyRecording, frame_id: int, epoch: int | None = None
) -> VideoLogits:
    """The logits of one frame, float32 (n, 1, H, W) of the full picture; of the `npy` layout as
    they lie there. Raises `RecordingError`."""
    if isinstance(recording, NpyRecording):
        return recording.video_logits_at(frame_id, epoch)
    return video_logits(recording.logits_at(frame_id, epoch), recording.manifest.interpolation)


def video_logits(low: Logits, interpolation: Interpolation) -> VideoLogits:
    """As the pipeline defines them: bilinear between pixel centres on the CPU, then, where so set,
    each pixel left to one object; outside the window -1024, which is no object."""
    if interpolation != Interpolation(non_overlapping=interpolation.non_overlapping):
        raise RecordingError(f"interpolation: got {interpolation}, expected plain bilinear")
    n = len(low.object_ids)
    values = torch.from_numpy(low.values.copy())
    height, width = low.window.size_hw
    # `interpolate` refuses an empty batch.
    inside = upsample(values, (height, width)) if n else torch.empty(0, height, width)
    if interpolation.non_overlapping and n > 1:
        winner = inside.argmax(dim=0, keepdim=True) == torch.arange(n)[:, None, None]
        inside = torch.where(winner, inside, inside.clamp(max=_LOSER))
    if low.window.is_whole:
        return VideoLogits(low.stamp, low.object_ids, inside[:, None].numpy())
    full = np.full((n, 1, *low.window.full_hw), NO_OBJECT, np.float32)
    for plane, values_inside in zip(full, inside.numpy(), strict=True):
        low.window.cut(plane[0])[...] = values_inside
    return VideoLogits(low.stamp, low.object_ids, full)
