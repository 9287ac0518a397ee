"""From a picture and a detector's box to what a model behind SAM takes in."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import ArrayLike
from torch import Tensor

from stages.inference_sam import Mask, Predict, SamModel, run_segmentation
from stages.sam_inputs import Image, box_on, device_of, image_size, to_device


@dataclass(frozen=True, slots=True, eq=False)
class InferenceInputs:
    """One picture with its mask."""

    image: Tensor | None
    """The picture on SAM's device, in the layout it came in; None where there was none."""
    bbox_xyxy: Tensor | None
    """float32 (4,) on SAM's device, frame pixels; the whole frame where no box was given, None
    where the box could not be used."""
    mask: Mask | None
    """On SAM's device as the model gave it, or, in legacy mode, a bool (H, W) array; None where
    `run_segmentation` gives None."""


def prepare_inference_inputs(
    image: Image | None,
    detector_box: Tensor | ArrayLike | None,
    sam_model: SamModel | Predict,
    sam_as_numpy: bool = False,
) -> InferenceInputs:
    """Bring picture and box to SAM's device once and segment there.

    `detector_box`: 4 numbers in frame pixels, or None for the whole frame. `sam_as_numpy` is the
    legacy toggle: the mask, and only the mask, leaves the device as a bool (H, W) array.
    Emits one `SamMaskOutput` where there is a mask.
    """
    device = device_of(sam_model, image)
    size_hw = image_size(image)
    if image is None or size_hw is None:
        return InferenceInputs(None, None, None)
    picture = to_device(image, device)
    box = box_on(device, detector_box, size_hw)
    if box is None:
        return InferenceInputs(picture, None, None)
    mask = run_segmentation(sam_model, picture, box, as_numpy=sam_as_numpy)
    return InferenceInputs(picture, box, mask)
