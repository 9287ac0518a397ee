"""What `models check` does with the files of Meta's own `sam3` package: `run_clip`."""

from __future__ import annotations

import sys
from collections import deque
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import torch
from PIL import Image
from torch import Tensor

from pipeline.models.measuring import timed
from stages.clip.sam3_clip import open_sam3_clip
from stages.sam3_predictor import Sam3ClipConfig, loaded_sam3

_FRAMES: Final = 2
_WORDS: Final = "object"


def run_clip(config: Sam3ClipConfig, picture: Tensor, device: torch.device) -> None:
    """Load the model, and follow words through two frames of `picture`, uint8 (3, H, W); prints
    versions, time and memory. On the GPU of ``device``, whatever ``config`` says.

    Raises `ConfigError`, `Sam3Error`. CUDA only, and not yet run on a GPU.
    """
    config = config.model_copy(update={"gpus_to_use": (device.index or 0,)})
    with loaded_sam3(config) as opened, TemporaryDirectory() as folder:
        told = ", ".join(f"{name} {version}" for name, version in opened.versions.items())
        sys.stdout.write(f"  {told}, checkpoint sha256 {opened.sha256}\n")
        pixels = picture.permute(1, 2, 0).cpu().numpy()
        for number in range(_FRAMES):
            Image.fromarray(pixels).save(Path(folder, f"{number}.jpg"))
        with open_sam3_clip(config, folder, opened, device) as clip:
            timed("clip, words on its first frame", device, lambda: clip.say(0, _WORDS))
            timed(f"clip, {_FRAMES} frames", device, lambda: deque(clip.propagate(), maxlen=0))
