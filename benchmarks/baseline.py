"""The baseline that a demo must beat: a threshold and connected components."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_SMOOTHING_PX = 3.0
_SPREAD = 1.0
"""Standard deviations from the mean; the best of 0.8 to 1.8 in steps of 0.2 on seeds 100 to 111."""
_MIN_AREA_PX = 400


def threshold_components(gray: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Masks bool (n, H, W) of what is much darker or brighter than the rest of the field of view.

    `gray` is uint8 (H, W). Smoothed by a Gaussian, thresholded at mean ± 1 standard deviations
    of the field of view, opened, split into components of at least 400 px.
    """
    smooth = ndimage.gaussian_filter(gray.astype(np.float32), _SMOOTHING_PX)
    inside = ndimage.binary_erosion(ndimage.binary_closing(gray > 0, iterations=8), iterations=12)
    if not inside.any():
        return np.zeros((0, *gray.shape), dtype=np.bool_)
    mean, spread = smooth[inside].mean(), smooth[inside].std()
    masks: list[NDArray[np.bool_]] = []
    for region in (smooth < mean - _SPREAD * spread, smooth > mean + _SPREAD * spread):
        labels, count = ndimage.label(ndimage.binary_opening(region & inside, iterations=3))
        areas = ndimage.sum_labels(np.ones_like(labels), labels, np.arange(1, count + 1))
        masks += [labels == i + 1 for i in np.flatnonzero(np.asarray(areas) >= _MIN_AREA_PX)]
    return np.stack(masks) if masks else np.zeros((0, *gray.shape), dtype=np.bool_)
