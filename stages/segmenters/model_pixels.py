"""Between pixels of the frame and those of the model: prompts in, tight boxes out."""

from __future__ import annotations

import torch
from torch import Tensor

from stages.exits import named_exit
from stages.segmenters.live_prompts import Prompt, as_points
from stages.segmenters.mask_head import GivenMasks, Told
from stages.segmenters.tracker_core import TrackerCore


def in_model(points: Tensor, size_hw: tuple[int, int], side: int) -> Tensor:
    """float32 (..., 2) of points x y in pixels of a frame of `size_hw`, in those of the model."""
    height, width = size_hw
    x, y = points[..., 0] / width, points[..., 1] / height
    return torch.stack((x, y), dim=-1) * side


def upload(prompt: Prompt, size_hw: tuple[int, int], core: TrackerCore) -> Told:
    """What a checked prompt on a frame of `size_hw` tells the model; the one copy it needs."""
    device, side = core.device, core.image_size
    if prompt.mask is not None:
        with named_exit("prompt"):
            mask = torch.from_numpy(prompt.mask.astype("uint8")).to(device)
        return given_mask(mask, side)
    coords, labels = as_points(prompt)
    with named_exit("prompt"):
        at = torch.tensor([coords], dtype=torch.float32).to(device)
        signs = torch.tensor([labels], dtype=torch.int32).to(device)
    return core.head.tokens(in_model(at, size_hw, side), signs)


def given_mask(mask: Tensor, side: int) -> GivenMasks:
    """A mask of the frame, uint8 (H, W), 0 or 1, at the model's size; as sam2 shrinks it."""
    shown = torch.nn.functional.interpolate(
        mask[None, None].float(), (side, side), mode="bilinear", antialias=True,
        align_corners=False,
    )  # fmt: skip
    return GivenMasks((shown >= 0.5).float())


class TightBoxes:
    """Finds the boxes around masks of the model's size."""

    def __init__(self, side: int, device: torch.device) -> None:
        self._side = side
        self._pixels = torch.arange(side, device=device)

    def __call__(self, logits: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """float32 (b, 4) around float32 (b, 1, s, s) > 0, in pixels of a frame of `size_hw`;
        x2 <= x1 where a mask is empty."""
        pixels, side = logits[:, 0] > 0, self._side
        height, width = size_hw
        ends = []
        for axis, length in ((1, width), (2, height)):
            hit = pixels.any(dim=axis)
            first = torch.where(hit, self._pixels, side).amin(dim=1)
            last = torch.where(hit, self._pixels + 1, 0).amax(dim=1)
            ends.append((first * (length / side), last * (length / side)))
        (x1, x2), (y1, y2) = ends
        return torch.stack((x1, y1, x2, y2), dim=1)
