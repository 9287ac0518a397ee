"""Logits in fewer bits.

The worst error of a finite logit x, of one object's plane with largest finite magnitude m (leaving
-1024 aside):

    float32  0
    float16  max(|x| / 2048, 2**-25), for |x| <= 65504; larger ones become +-65504 (half precision,
             IEEE 754: 11 significant bits, rounded to nearest)
    int8     m / 254, and a rounding of float32 (x becomes s * round(x / s), s = m / 127)

-1024, by which SAM2 says that an object is absent, comes back exactly, whatever the dtype (int8
keeps -128 for it). Of what is not finite, int8 makes -1024 of NaN, which is background like it,
and -m or m of infinities. Upsampling weighs neighbours by numbers that add up to one, so the bounds
hold for the logits at video resolution too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from stages.errors import RecordingError

LogitsDtype = Literal["float32", "float16", "int8"]
NO_OBJECT: Final = -1024.0
"""`sam2.modeling.sam2_base.NO_OBJ_SCORE`."""
_SENTINEL: Final = -128
_STEPS: Final = 127
_HALF_MAX: Final = 65504.0


def quantised(logits: NDArray[np.float32], dtype: LogitsDtype) -> dict[str, NDArray[Any]]:
    """The arrays that stand for float32 (n, h, w)."""
    values = np.asarray(logits, np.float32)
    match dtype:
        case "float32":
            return {"logits": values}
        case "float16":
            return {"logits": np.clip(values, -_HALF_MAX, _HALF_MAX).astype(np.float16)}
        case "int8":
            return _steps(values)


def dequantised(array: Callable[[str], NDArray[Any]]) -> NDArray[np.float32]:
    """float32 (n, h, w) of the arrays by name; the very array where it was kept as float32."""
    kept = array("logits")
    if kept.ndim != 3 or kept.dtype not in (np.float32, np.float16, np.int8):
        raise RecordingError(
            f"logits: got {kept.dtype} {kept.shape}, expected float32, float16 or int8 (n, h, w)"
        )
    if kept.dtype != np.int8:
        return kept.astype(np.float32, copy=False)
    scale = array("scale")
    if scale.shape != kept.shape[:1] or scale.dtype != np.float32:
        raise RecordingError(f"scale: got {scale.dtype} {scale.shape}, expected float32 (n,)")
    values: NDArray[np.float32] = kept * scale[:, None, None]
    values[kept == _SENTINEL] = NO_OBJECT
    return values


def _steps(values: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    absent = np.isnan(values) | (values == NO_OBJECT)
    counted = np.where(absent | np.isinf(values), 0, values)
    largest = np.abs(counted).max(axis=(1, 2), initial=0).astype(np.float32)
    scale = np.where(largest > 0, largest / np.float32(_STEPS), 1).astype(np.float32)
    scale = np.maximum(scale, np.finfo(np.float32).tiny)
    steps = np.rint(np.where(absent, 0, values) / scale[:, None, None]).clip(-_STEPS, _STEPS)
    return {"logits": np.where(absent, _SENTINEL, steps).astype(np.int8), "scale": scale}
