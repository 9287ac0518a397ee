"""Pictures and boxes of callers, from wherever they are to the device of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from stages.exits import named_exit
from stages.segmenters.prompts import box_touches

Array = NDArray[Any]
Image = Tensor | Array
"""(H, W), (H, W, 3) or (3, H, W), perhaps with a leading 1."""


def device_of(sam_model: object, image: Image | None = None) -> torch.device:
    """Where a model works: its `device`, else its first parameter's, else the image's."""
    told: str | torch.device | None = getattr(sam_model, "device", None)
    if told is None:
        parameters = getattr(sam_model, "parameters", None)
        first = next(iter(parameters()), None) if callable(parameters) else None
        told = getattr(image if first is None else first, "device", "cpu")
    device = torch.device(told)
    if device == torch.device("cuda"):
        return torch.device("cuda", torch.cuda.current_device())
    return device


def to_device(values: Tensor | ArrayLike, device: torch.device) -> Tensor:
    """`values` as a tensor on `device`; what lies there already is not copied."""
    if isinstance(values, Tensor) and values.device == device:
        return values
    with named_exit("prompt"):
        if not isinstance(values, Tensor):
            # torch takes neither negative strides nor memory that it may not write to.
            values = torch.from_numpy(np.require(values, requirements=["C", "W"]))
        return values.to(device)


def image_size(image: Image | None) -> tuple[int, int] | None:
    """(height, width) in pixels; None for no image, an empty one, and one of another shape."""
    shape = tuple(getattr(image, "shape", ()))
    if len(shape) == 4 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) == 3:
        shape = shape[1:] if planes_first(shape) else shape[:2]
    return (int(shape[0]), int(shape[1])) if len(shape) == 2 and min(shape) > 0 else None


def box_on(
    device: torch.device, bbox_xyxy: Tensor | ArrayLike | None, size_hw: tuple[int, int]
) -> Tensor | None:
    """The box as float32 (4,) on `device`; the whole frame for None; None if it cannot be used."""
    if bbox_xyxy is None:
        height, width = size_hw
        box = torch.zeros(4, device=device)
        box[2].fill_(width)
        box[3].fill_(height)
        return box
    if isinstance(bbox_xyxy, Tensor):
        if bbox_xyxy.numel() != 4:
            return None
        return to_device(bbox_xyxy, device).reshape(4).float()
    host = np.asarray(bbox_xyxy, dtype=np.float32).reshape(-1)
    if host.size != 4 or not np.isfinite(host).all():
        return None
    x1, y1, x2, y2 = host.tolist()
    if x1 >= x2 or y1 >= y2 or not box_touches((x1, y1, x2, y2), size_hw):
        return None
    return to_device(host, device)


def planes_first(shape: Sequence[int]) -> bool:
    """Whether a picture of three dimensions is (1 or 3, H, W) and not (H, W, 1 or 3)."""
    return shape[0] in (1, 3) and (shape[2] not in (1, 3) or shape[1] > 3)


def as_rgb(image: Tensor) -> Tensor:
    """uint8 (3, H, W), a view, of a picture in any of the forms of `Image`; raises `ValueError`."""
    if image.dtype != torch.uint8:
        raise ValueError(f"image: got {image.dtype}, expected uint8")
    picture = image[0] if image.ndim == 4 else image
    if picture.ndim == 2:
        picture = picture[None]
    elif not planes_first(picture.shape):
        picture = picture.permute(2, 0, 1)
    if picture.shape[0] not in (1, 3):
        raise ValueError(f"image: got shape {tuple(image.shape)}, expected 1 or 3 channels")
    return picture.expand(3, -1, -1)
