"""Offline: objects tracked through a whole clip, from prompts on any of its frames.

    with open_clip("clip.mp4") as clip:
        clip.add_new_points_or_box(0, 1, points=[[320, 200]], labels=[1])
        for frame_idx, obj_ids, masks in clip.propagate_in_video():
            ...  # masks: float32 (N, 1, H, W) on the device, above 0 where the object is

See `stages.clip.session.Clip`.
"""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.build import build_tracker_core
from pipeline.device import resolve_device
from stages.clip.opening import open_frames
from stages.clip.outputs import Keep
from stages.clip.records import ClipFrame
from stages.clip.session import Clip

__all__ = ["Clip", "ClipFrame", "open_clip"]


def open_clip(
    path: str | Path,
    model: str | torch.nn.Module = "demo",
    *,
    checkpoint: Path | None = None,
    sha256: str | None = None,
    device: str = "auto",
    bf16: bool | None = None,
    keep: Keep = "near",
    add_all_frames_to_correct_as_cond: bool = True,
    allow_burned_in: bool = False,
) -> Clip:
    """Open a clip for tracking; a context manager that closes it.

    `path`: a video file, a DICOM cine, or a folder of pictures. `model`, `checkpoint` and
    `sha256`: as in the configuration of `sam2_stream`, or a `SAM2Base` in eval mode on its final
    device, which may serve many clips. `device`: `auto`, `cpu` or `cuda:N`. `bf16`: bfloat16
    autocast; None: on CUDA. For the others see `Clip` and `open_frames`.

    Raises `ConfigError` for the model and the device, `SourceError` for the clip.
    """
    frames = open_frames(path, allow_burned_in=allow_burned_in)
    try:
        where = resolve_device(device)
        core = build_tracker_core(model, checkpoint, sha256, where, frames.count, bf16)
        return Clip(
            frames,
            core,
            keep=keep,
            add_all_frames_to_correct_as_cond=add_all_frames_to_correct_as_cond,
        )
    except BaseException:
        frames.close()
        raise
