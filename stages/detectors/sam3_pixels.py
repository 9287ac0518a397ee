"""Pictures as SAM3 takes them, made on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize


@dataclass(frozen=True, slots=True)
class PixelSettings:
    """What the model's processor does to a picture."""

    side: int
    """Pixels; the picture is squeezed into a square."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Of RGB in 0..1."""


class Sam3Pixels:
    """The processor's arithmetic: torchvision's bilinear resize with antialiasing, which keeps
    whole grey levels, then normalisation, here without its copies of constants."""

    def __init__(self, settings: PixelSettings) -> None:
        self._settings = settings

    def __call__(self, rgb: Tensor) -> Tensor:
        """uint8 (3, H, W) to float32 (1, 3, side, side). A grey picture is resized once."""
        settings = self._settings
        grey = rgb.stride(0) == 0
        size = [settings.side, settings.side]
        planes = resize((rgb[:1] if grey else rgb)[None], size, antialias=True).float()
        normal = zip(settings.mean, settings.std, strict=True)
        return torch.stack(
            [
                (planes[:, 0 if grey else channel] - 255 * mean) / (255 * std)
                for channel, (mean, std) in enumerate(normal)
            ],
            dim=1,
        )
