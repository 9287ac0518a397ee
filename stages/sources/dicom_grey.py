"""From stored values to what a screen shows: one table a cine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


@dataclass(frozen=True, slots=True, eq=False)
class DisplayTable:
    """Stored value `lowest` + i shows as `shown[i]`."""

    lowest: int
    shown: NDArray[np.uint8]
    """uint8 (n,) grey or (n, 3) RGB."""

    def write(self, stored: NDArray[Any], pixels: NDArray[np.uint8]) -> None:
        """``stored`` integers (H, W) to ``pixels`` uint8 (H, W) or (H, W, 3); values beyond the
        table show as its ends."""
        index = stored if self.lowest == 0 else stored.astype(np.int32) - self.lowest
        np.take(self.shown, index, axis=0, out=pixels, mode="clip")


def grey_table(header: Dataset, first: NDArray[Any]) -> DisplayTable:
    """The table of a MONOCHROME1 or MONOCHROME2 cine of at most 16 bits.

    Rescale Slope and Intercept, then the file's first window (PS3.3 C.11.2.1.2). Without a
    window 8-bit values show as they are, and others are stretched between the least and the
    greatest of the first frame, the same for the whole cine so that it does not flicker.
    Modality and VOI lookup tables are not applied.
    """
    bits, signed = int(header.BitsStored), bool(header.PixelRepresentation)
    lowest = -(1 << (bits - 1)) if signed else 0
    slope, intercept = _or(header, "RescaleSlope", 1.0), _or(header, "RescaleIntercept", 0.0)
    values = np.arange(lowest, lowest + (1 << bits), dtype=np.float64) * slope + intercept
    centre, width = _or(header, "WindowCenter", math.nan), _or(header, "WindowWidth", 0.0)
    if math.isfinite(centre) and width > 0:
        shown = _window(values, centre, width, str(header.get("VOILUTFunction") or "LINEAR"))
    elif bits == 8 and not signed:
        shown = np.linspace(0.0, 1.0, 256)
    else:
        low, high = sorted((first.min() * slope + intercept, first.max() * slope + intercept))
        shown = (values - low) / max(high - low, 1e-9)
    shown = np.clip(shown, 0.0, 1.0)
    if header.PhotometricInterpretation == "MONOCHROME1":
        shown = 1.0 - shown
    return DisplayTable(lowest, np.rint(shown * 255).astype(np.uint8))


def palette_table(header: Dataset) -> DisplayTable:
    """The table of a PALETTE COLOR cine."""
    from pydicom.pixels.processing import apply_color_lut

    bits = int(header.BitsStored)
    stored = np.arange(1 << bits, dtype=np.uint8 if bits <= 8 else np.uint16)
    colours = apply_color_lut(stored, header)
    if colours.dtype != np.uint8:
        colours = colours >> 8
    return DisplayTable(0, np.ascontiguousarray(colours[:, :3], dtype=np.uint8))


def _window(
    values: NDArray[np.float64], centre: float, width: float, function: str
) -> NDArray[np.float64]:
    """Values to 0..1 (beyond it, where outside of the window); PS3.3 C.11.2.1.2 and .3."""
    if function == "SIGMOID":
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - centre) / width, -700.0, 700.0)))
    if function == "LINEAR_EXACT":
        return (values - centre) / width + 0.5
    return (values - (centre - 0.5)) / max(width - 1.0, 1e-9) + 0.5


def _or(header: Dataset, keyword: str, default: float) -> float:
    """The first number of an element; ``default`` where it is absent or no finite number."""
    value = header.get(keyword)
    if value is None or value == "":
        return default
    number = float(value if not hasattr(value, "__iter__") else next(iter(value), default))
    return number if math.isfinite(number) else default
