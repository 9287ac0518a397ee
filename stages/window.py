"""The part of a source's picture that is taken in, and where it lies: `Window`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of a picture; the whole of it, where no region was asked for.

    On the device, and in every host copy of a mask, a picture is as large as its window. What
    leaves the process is in the coordinates of the full picture. Raises ValueError where the
    window does not lie in the picture.
    """

    size_hw: tuple[int, int]
    origin_yx: tuple[int, int]
    """Where it begins in the full picture."""
    full_hw: tuple[int, int]

    def __post_init__(self) -> None:
        for start, length, whole in zip(self.origin_yx, self.size_hw, self.full_hw, strict=True):
            if not (start >= 0 and length >= 1 and start + length <= whole):
                raise ValueError(f"{self} does not lie in the picture")

    @property
    def is_whole(self) -> bool:
        return self.size_hw == self.full_hw

    def cut(self, picture: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """The view of a full picture (H, W, ...) that lies in the window."""
        (y, x), (height, width) = self.origin_yx, self.size_hw
        return picture[y : y + height, x : x + width]

    def place(self, inside: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """A full picture (H, W, ...) with ``inside`` in the window, zeros around it."""
        if self.is_whole:
            return inside
        full: NDArray[Any] = np.zeros((*self.full_hw, *inside.shape[2:]), inside.dtype)
        self.cut(full)[...] = inside
        return full


def whole(size_hw: tuple[int, int]) -> Window:
    """The window that is all of a picture of ``size_hw`` (height, width)."""
    return Window(size_hw, (0, 0), size_hw)
