"""One picture, one box, one mask: the calls that old code makes, without their detour by the host.

`run_segmentation` works with any SAM-like model, `SamPredictor` is one around a SAM2 network. Both
leave the mask on the model's device unless `as_numpy` asks for the old host array, and tell the
KPI which of the two they did.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from kpi.emit import emit
from kpi.events import SamMaskOutput
from stages.mask_upsampling import upsample
from stages.sam_inputs import Array, Image, as_rgb, box_on, device_of, image_size, to_device
from stages.segmenters.prompts import BOX_CORNERS
from stages.segmenters.sam2_network import Sam2Network

Mask = Tensor | NDArray[np.bool_]
Predict = Callable[[Tensor, Tensor], Tensor | Array | None]


class SamModel(Protocol):
    """What `run_segmentation` asks of a model; a plain callable of the same form will do.

    Its device is its `device`, else its first parameter's.
    """

    def predict(self, image: Tensor, bbox_xyxy: Tensor) -> Tensor | Array | None:
        """The mask of what lies in the box, both on the model's device; None where it fails."""


def run_segmentation(
    sam_model: SamModel | Predict,
    image: Image | None,
    bbox_xyxy: Tensor | ArrayLike | None = None,
    as_numpy: bool = False,
) -> Mask | None:
    """Segment what lies in a box, or, without one, in the whole frame.

    `image` and `bbox_xyxy` (4 numbers, frame pixels) go to the model's device, where they stay
    if they are tensors there. Returns the model's mask, detached, on its device, in the shape and
    dtype the model gave it; of a model that answers in numpy, `mask > 0.5` on its device. With
    `as_numpy` a bool (H, W) array: `mask > 0.5`, of several masks the first.

    None means a failure that needs no look at the device: no image or an empty one, a box that
    has not four numbers, a host box that is not finite, has no area or lies outside the frame,
    or a model that answered None. A box that is a tensor is not looked at.
    """
    device = device_of(sam_model, image)
    size_hw = image_size(image)
    if image is None or size_hw is None:
        return None
    box = box_on(device, bbox_xyxy, size_hw)
    if box is None:
        return None
    mask = _predict_of(sam_model)(to_device(image, device), box)
    return None if mask is None else _hand_over(mask, device, as_numpy)


class SamPredictor:
    """A SAM2 network behind the vocabulary of old predictors."""

    def __init__(self, model: nn.Module, mask_threshold: float = 0.0) -> None:
        """`model`: a sam2 `SAM2Base` in eval mode on its final device (it is not changed);
        `mask_threshold`: the logit above which a pixel is foreground.
        """
        self._network = Sam2Network(model)
        self._threshold = mask_threshold
        self.device = self._network.device
        self._corners = torch.tensor([BOX_CORNERS], dtype=torch.int32, device=self.device)

    def predict(
        self,
        image: Image | None,
        bbox_xyxy: Tensor | ArrayLike | None = None,
        points_xy: Tensor | ArrayLike | None = None,
        point_labels: Tensor | ArrayLike | None = None,
        as_numpy: bool = False,
    ) -> Mask | None:
        """The mask of a box, of points (P, 2) with labels (P,) 1 or 0, or of both together.

        `image` is uint8. Returns a bool (H, W) tensor on the device, or, with `as_numpy`, array;
        None as `run_segmentation` does. Raises `ValueError` for an image that is not uint8 and
        for labels that do not match the points.
        """
        if points_xy is None:
            return run_segmentation(self, image, bbox_xyxy, as_numpy)
        size_hw = image_size(image)
        if image is None or size_hw is None:
            return None
        coords = to_device(points_xy, self.device).float().reshape(1, -1, 2)
        labels = to_device(() if point_labels is None else point_labels, self.device)
        labels = labels.int().reshape(1, -1)
        if labels.shape[1] != coords.shape[1]:
            raise ValueError(
                f"point_labels: got {labels.shape[1]}, expected one for each of "
                f"{coords.shape[1]} points"
            )
        if bbox_xyxy is not None:
            box = box_on(self.device, bbox_xyxy, size_hw)
            if box is None:
                return None
            coords = torch.cat((box.view(1, 2, 2), coords), dim=1)
            labels = torch.cat((self._corners, labels), dim=1)
        mask = self._mask(to_device(image, self.device), coords, labels)
        return _hand_over(mask, self.device, as_numpy)

    def mask_in_box(self, image: Tensor, bbox_xyxy: Tensor) -> Tensor:
        """bool (H, W) of what lies in a box (4,), all on the device; emits nothing."""
        return self._mask(image, bbox_xyxy.view(1, 2, 2), self._corners)

    @torch.no_grad()
    def _mask(self, image: Tensor, coords: Tensor, labels: Tensor) -> Tensor:
        rgb = as_rgb(image)
        size_hw = (rgb.shape[1], rgb.shape[2])
        tokens = self._network.embed(coords, labels, size_hw)
        lone_click = coords.shape[1] == 1
        decoded = self._network.decode(self._network.encode(rgb), tokens, multimask=lone_click)
        return upsample(decoded.logits, size_hw)[0] > self._threshold


def _predict_of(sam_model: SamModel | Predict) -> Predict:
    if isinstance(sam_model, SamPredictor):
        return sam_model.mask_in_box  # its `predict` would tell the KPI a second time
    return cast(Predict, getattr(sam_model, "predict", sam_model))


def _hand_over(mask: Tensor | Array, device: torch.device, as_numpy: bool) -> Mask:
    """The mask as the caller wants it; the one place that emits."""
    if mask.ndim < 2:
        raise ValueError(f"mask: the model gave shape {tuple(mask.shape)}, expected (H, W)")
    emit(SamMaskOutput(as_numpy=1 if as_numpy else 0, device=str(device)))
    if as_numpy:
        chosen = mask.reshape(-1, *mask.shape[-2:])[0] > 0.5
        host: NDArray[np.bool_] = chosen.cpu().numpy() if isinstance(chosen, Tensor) else chosen
        return host
    if isinstance(mask, Tensor):
        return mask.detach()
    return to_device(mask, device) > 0.5
