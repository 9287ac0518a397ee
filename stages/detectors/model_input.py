"""A frame as a transformers model wants it, made on the frame's device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from stages.errors import ConfigError

_BILINEAR: Final = 2
"""PIL's number."""
_MAX_SIDE: Final = 4096


@dataclass(frozen=True, slots=True)
class InputForm:
    """What `preprocessor_config.json` says of a model's input."""

    input_hw: tuple[int, int]
    """Every picture is stretched to it: these models were trained without a letterbox."""
    scale: float
    """What a pixel's value, 0..255, is multiplied by."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def read(cls, raw: Mapping[str, Any], path: Path) -> InputForm:
        """From the file's content; what is left out is as in transformers' RTDetrImageProcessor.
        Raises `ConfigError`."""
        size = raw.get("size", {"height": 640, "width": 640})
        sides = [size.get("height"), size.get("width")] if isinstance(size, dict) else []
        if not all(type(side) is int and 32 <= side <= _MAX_SIDE for side in sides) or not sides:
            raise ConfigError(
                f"{path}: size is {size!r:.60}, expected height and width, 32 to {_MAX_SIDE}"
            )
        if raw.get("do_resize", True) is not True:
            raise ConfigError(f"{path}: do_resize is {raw['do_resize']!r:.20}, expected true")
        if raw.get("resample", _BILINEAR) != _BILINEAR:
            raise ConfigError(f"{path}: resample is {raw['resample']!r:.20}, expected 2 (bilinear)")
        scale = raw.get("rescale_factor", 1 / 255) if raw.get("do_rescale", True) else 1.0
        mean = raw.get("image_mean", (0.485, 0.456, 0.406)) if raw.get("do_normalize") else (0,) * 3
        std = raw.get("image_std", (0.229, 0.224, 0.225)) if raw.get("do_normalize") else (1,) * 3
        given = [scale, *(mean if isinstance(mean, list | tuple) else ()),
                 *(std if isinstance(std, list | tuple) else ())]  # fmt: skip
        numbers = [float(value) for value in given if type(value) in (int, float)]
        above_0 = [*numbers[:1], *numbers[4:]]
        if len(numbers) != 7 or len(given) != 7 or not all(0 < each < 1e6 for each in above_0):
            raise ConfigError(
                f"{path}: rescale_factor, image_mean or image_std are not one, three and three "
                "numbers, the first and the last ones above 0"
            )
        height, width = sides
        mean3, std3 = tuple(numbers[1:4]), tuple(numbers[4:])
        return cls((height, width), numbers[0], mean3, std3)  # type: ignore[arg-type]


class ModelInput:
    """The processor's arithmetic: torchvision's bilinear resize with antialiasing, which keeps
    whole grey levels, then normalisation, whose constants lie on the device."""

    def __init__(self, form: InputForm, device: torch.device) -> None:
        self.form = form
        levels = 1 / form.scale
        self._mean = torch.tensor(form.mean, device=device)[:, None, None] * levels
        self._std = torch.tensor(form.std, device=device)[:, None, None] * levels

    def fit(self, rgb: Tensor) -> Tensor:
        """uint8 (3, H, W) to float32 (1, 3, h, w). A grey frame expanded to three channels is
        resized once."""
        given = (rgb[:1] if rgb.stride(0) == 0 else rgb)[None]
        picture: Tensor = resize(given, list(self.form.input_hw), antialias=True)
        return (picture - self._mean) / self._std
