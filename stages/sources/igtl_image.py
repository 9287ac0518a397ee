"""The IMAGE message of OpenIGTLink: how its pixels lie, and where in the world."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stages.sources.igtl_header import MessageError
from stages.sources.limits import MAX_PICTURE_PIXELS

IMAGE: Final = struct.Struct(">H4B3H12f6H")
"""Version, components, scalar type, byte order, coordinates, size i j k, vectors i j k and the
position of the centre, sub-volume's offset and size."""

_BYTES: Final = {3: 1, 5: 2}  # scalar types uint8 and uint16
_BIG, _LITTLE = 1, 2
_RAS, _LPS = 1, 2
_MAX_MM: Final = 100.0  # a pixel


@dataclass(frozen=True, slots=True, eq=False)
class ImageLayout:
    """What the first 72 bytes of an IMAGE tell."""

    size_hw: tuple[int, int]
    components: int
    """1 (grey) or 3 (RGB, interleaved)."""
    value_bytes: int
    """1 or 2."""
    big_endian: bool
    lps: bool
    """Whether the sender's world is LPS; else it is RAS."""
    spacing_mm: tuple[float, float] | None
    """(y, x) millimetres per pixel: how long the vectors j and i are."""
    pose: NDArray[np.float64] | None
    """float64 (4, 4), see `image_to_ras`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W) or (H, W, 3)."""
        return self.size_hw if self.components == 1 else (*self.size_hw, self.components)

    @property
    def description(self) -> str:
        """In a few words."""
        colour = "grey" if self.components == 1 else "RGB"
        return f"{8 * self.value_bytes} bit {colour}, {'LPS' if self.lps else 'RAS'}"

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.value_bytes


def parse_image(data: bytes | bytearray, pixel_bytes: int) -> ImageLayout:
    """The layout of ``pixel_bytes`` bytes of pixels.

    One slice of uint8 or uint16, grey or RGB, is taken in; a picture sent in parts (a sub-volume)
    is not. Raises `MessageError` for anything else, and for a layout that does not fill the bytes.
    """
    _, components, scalar, order, world, *numbers = IMAGE.unpack(data)
    size, matrix, part = numbers[:3], numbers[3:15], numbers[15:]
    width, height, slices = size
    _expect("slices", slices, (1,))
    if not 1 <= width * height <= MAX_PICTURE_PIXELS:
        raise MessageError(
            f"an IMAGE of {width}x{height} pixels, expected 1 to {MAX_PICTURE_PIXELS} in all"
        )
    _expect("components", components, (1, 3))
    _expect("scalar type", scalar, tuple(_BYTES))
    _expect("byte order", order, (_BIG, _LITTLE))
    _expect("coordinate system", world, (_RAS, _LPS))
    if part != [0, 0, 0, *size]:
        raise MessageError("an IMAGE with a part of the picture, expected the whole")
    if not all(map(math.isfinite, matrix)):
        raise MessageError("an IMAGE whose position is not finite")
    lps = world == _LPS
    spacing, pose = _calibration(matrix, (height, width), lps=lps)
    layout = ImageLayout(
        (height, width), components, _BYTES[scalar], order == _BIG, lps, spacing, pose
    )
    if layout.nbytes != pixel_bytes:
        raise MessageError(
            f"an IMAGE of {width}x{height} pixels with {pixel_bytes} bytes, "
            f"expected {layout.nbytes}"
        )
    return layout


def image_to_ras(
    vectors: NDArray[np.float64],
    centre: NDArray[np.float64],
    size_hw: tuple[int, int],
    *,
    lps: bool,
) -> NDArray[np.float64]:
    """float64 (4, 4): from millimetres in the picture to millimetres in the world.

    In the picture x runs right and y down, from the centre of its first (top left) pixel; the
    world is RAS, so x and y of an LPS sender change their signs. The protocol tells where the
    centre of the picture is, which is half of (width - 1, height - 1) pixels from the first
    one's, as 3D Slicer and PyIGTL count it, too. ``vectors`` (3, 3) has the vectors i, j, k in
    its columns, each as long as a pixel; where k is missing it stands upright on the others.
    """
    height, width = size_hw
    i, j, k = vectors.T
    first = centre - i * (width - 1) / 2 - j * (height - 1) / 2
    if not k.any():
        k = np.cross(i, j)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([axis / np.linalg.norm(axis) for axis in (i, j, k)], axis=1)
    pose[:3, 3] = first
    if lps:
        pose[:2] *= -1.0
    return pose


def _calibration(
    matrix: list[float], size_hw: tuple[int, int], *, lps: bool
) -> tuple[tuple[float, float] | None, NDArray[np.float64] | None]:
    """Spacing and pose; neither where a pixel has no believable size."""
    numbers = np.array(matrix, np.float64).reshape(4, 3)
    vectors, centre = numbers[:3].T, numbers[3]
    x, y = (float(np.linalg.norm(axis)) for axis in numbers[:2])
    if not (0 < x <= _MAX_MM and 0 < y <= _MAX_MM):
        return None, None
    return (y, x), image_to_ras(vectors, centre, size_hw, lps=lps)


def _expect(what: str, value: int, allowed: tuple[int, ...]) -> None:
    if value not in allowed:
        known = " or ".join(map(str, allowed))
        raise MessageError(f"an IMAGE whose {what} is {value}, expected {known}")
