"""Masks in a payload: how they are packed and how they are read (docs/wire.md).

Numpy and the standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stages.errors import MaskstreamError
from stages.packets import HostPacket
from stages.rle import Cut, paint, run_lengths

Encoding = Literal["bits", "rle", "logits", "none"]
Box = tuple[int, int, int, int]
"""x1, y1, x2, y2 in frame pixels, half-open: columns x1..x2-1, rows y1..y2-1."""
Entry = tuple[dict[str, object], list[bytes | memoryview]]
"""An array's entry in the header, and its bytes, not yet copied where they lie one after
another."""


class WireError(MaskstreamError):
    """A message cannot be read, or cannot be made."""


@dataclass(frozen=True, slots=True)
class MaskRow:
    """Where one object's mask lies in the payload; pixels outside `box` are background."""

    box: Box
    offset: int
    """Bytes from the start of the payload."""
    size: int
    """Bytes; of `bits`, (y2 - y1) rows of ceil((x2 - x1) / 8)."""
    encoding: Literal["bits", "rle"] = "bits"


@dataclass(frozen=True, slots=True)
class LogitsArray:
    """Where low-resolution logits lie in the payload, and what their masks are."""

    shape: tuple[int, int, int]
    """(n, h, w), float32, little-endian."""
    offset: int
    """Bytes from the start of the payload."""
    window: Box
    """What of the picture they cover; outside is background."""
    threshold: float
    """An upsampled logit above it is foreground."""

    def read(self, payload: memoryview) -> NDArray[np.float32]:
        """float32 (n, h, w), a view of ``payload``."""
        n, h, w = self.shape
        values = np.frombuffer(payload, np.dtype("<f4"), n * h * w, self.offset)
        return values.reshape(self.shape)


def mask_arrays(packet: HostPacket, encoding: Encoding, threshold: float) -> Entry | None:
    """The array that carries the packet's masks; None for `none`. Raises `ValueError` where the
    packet lacks what the encoding needs."""
    match encoding:
        case "none":
            return None
        case "logits":
            return _logits(packet, threshold)
        case "bits" | "rle":
            return _masks(packet, encoding)


def _masks(packet: HostPacket, encoding: Literal["bits", "rle"]) -> Entry:
    """Each mask cut to the whole byte columns around its box, whose place is told in the full
    picture.

    Cutting at byte columns copies packed bytes as they are, with no shifting of bits.
    """
    if packet.masks is None:
        raise ValueError("this packet carries no masks to send")
    size_hw = packet.info.size_hw
    (top, left), inner = packet.info.window.origin_yx, packet.info.window.size_hw[1]
    cuts: list[Cut] = []
    boxes: list[Box] = []
    for mask, (x1, y1, x2, y2) in zip(packet.masks, packet.mask_boxes_xyxy.tolist(), strict=True):
        if x1 == x2:  # empty: its box is that of no place, also in a region
            x1 = x2 = left
            y1 = y2 = top
        first, last = (x1 - left) // 8, -((left - x2) // 8)
        begin, end = left + 8 * first, left + min(8 * last, inner)
        cuts.append(Cut(mask[y1 - top : y2 - top, first:last], end - begin, y1, begin))
        boxes.append((begin, y1, end, y2))
    payload: list[bytes | memoryview] = (
        [np.ascontiguousarray(cut.packed).data for cut in cuts]
        if encoding == "bits"
        else [*run_lengths(cuts, size_hw)]
    )
    ends = [0, *accumulate(memoryview(packed).nbytes for packed in payload)]
    rows = [
        {"box": box, "offset": begin, "bytes": end - begin}
        for box, (begin, end) in zip(boxes, pairwise(ends), strict=True)
    ]
    shape = [len(rows), *size_hw]
    return _entry("masks", "bool", shape, encoding, ends[-1]) | {"rows": rows}, payload


def _logits(packet: HostPacket, threshold: float) -> Entry:
    if packet.logits is None:
        raise ValueError("this packet carries no logits to send")
    packed = np.ascontiguousarray(packet.logits, np.dtype("<f4")).data
    window = packet.info.window
    (y, x), (height, width) = window.origin_yx, window.size_hw
    entry = _entry("logits", "float32", list(packet.logits.shape), "raw", packed.nbytes)
    return entry | {"window": [x, y, x + width, y + height], "threshold": threshold}, [packed]


def _entry(name: str, dtype: str, shape: list[int], encoding: str, size: int) -> dict[str, object]:
    kind = {"name": name, "dtype": dtype, "shape": shape, "encoding": encoding}
    return {**kind, "offset": 0, "bytes": size}


def mask_of_row(row: MaskRow, payload: memoryview, out: NDArray[np.bool_]) -> None:
    """Write one mask into ``out``, bool (H, W) of zeros; raises `WireError` for run lengths that
    are none."""
    if row.size == 0:
        return
    packed = np.frombuffer(payload, np.uint8, row.size, row.offset)
    x1, y1, x2, y2 = row.box
    if row.encoding == "bits":
        inside = np.unpackbits(packed.reshape(y2 - y1, -1), axis=1, count=x2 - x1)
        out[y1:y2, x1:x2] = inside.view(np.bool_)
        return
    try:
        paint(packed, x1, x2, out)
    except ValueError as error:
        raise WireError(f"masks: rle: {error}") from None


def mask_of_logits(logits: NDArray[np.float32], array: LogitsArray, out: NDArray[np.bool_]) -> None:
    """Write where float32 (h, w), bilinear between pixel centres, is above the threshold into
    ``out``, bool (H, W) of zeros. In doubles, rows before columns, so that every reader that
    follows docs/wire.md gets the same bits."""
    x1, y1, x2, y2 = array.window
    (rows, below, wy), (columns, right, wx) = (
        _between(low, high) for low, high in zip(logits.shape, (y2 - y1, x2 - x1), strict=True)
    )
    # Infinities make NaN of their neighbours, and no comparison with that is true.
    with np.errstate(invalid="ignore"):
        values = logits.astype(np.float64)
        tall = values[rows] * (1 - wy)[:, None] + values[below] * wy[:, None]
        wide = tall[:, columns] * (1 - wx) + tall[:, right] * wx
        out[y1:y2, x1:x2] = wide > array.threshold


def _between(
    low: int, high: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """For each of ``high`` pixels the two of ``low`` samples beside it, and the second's weight."""
    place = np.maximum((np.arange(high) + 0.5) * low / high - 0.5, 0.0)
    first = np.floor(place).astype(np.int64)
    return first, np.minimum(first + 1, low - 1), place - first
