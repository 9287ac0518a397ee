"""Shapes that a file claims: `shaped`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from numpy.typing import NDArray

from stages.errors import RecordingError


def shaped(
    values: NDArray[Any], shape: Sequence[int], where: str, order: Literal["C", "F"] = "C"
) -> NDArray[Any]:
    """A view of ``values``, (n,), as an array of ``shape``, whose product is n.

    Raises `RecordingError` for what numpy has no array of: too many dimensions, lengths beyond what
    it can count (beside a 0 no product shows them), True for 1.
    """
    try:
        return values.reshape(shape, order=order)
    except (ValueError, TypeError, OverflowError) as error:
        raise RecordingError(f"{where}: got an array of shape {shape!s:.80}: {error}") from None
