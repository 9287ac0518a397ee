"""Reading .npy files that may lie about themselves."""

from __future__ import annotations

import math
import mmap
import os
from pathlib import Path
from tokenize import TokenError
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stages.errors import RecordingError
from stages.recording.shaped import shaped

_MAX_HEADER: Final = 10_000
"""Characters of a header, as many as numpy itself takes."""
_HEADER_ERRORS: Final = (
    *(ValueError, OSError, SyntaxError, TokenError, MemoryError, RecursionError),
)
"""What numpy's reading of a header lets out."""
_KINDS: Final = frozenset({"f2", "f4", "f8", "i4", "i8", "u1", "i1", "b1"})


def read_npy(path: Path) -> NDArray[Any]:
    """The array of a .npy file, memory-mapped, read-only.

    Its header is checked against the size of the file before anything is allocated. Raises
    `RecordingError` for a file that is missing, lies about its size, or holds objects.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read: {error.strerror}") from error
    with os.fdopen(fd, "rb") as file:
        size = os.fstat(fd).st_size
        try:
            shape, fortran, dtype = _header(file)
        except _HEADER_ERRORS as error:
            reason = " ".join(str(error).split())
            raise RecordingError(f"{path}: no .npy header: {reason:.120}") from None
        start, count = file.tell(), math.prod(shape)
        if dtype.str[1:] not in _KINDS or min(shape, default=0) < 0:
            raise RecordingError(f"{path}: got {dtype} {shape}, expected numbers")
        if start + count * dtype.itemsize != size:
            raise RecordingError(
                f"{path}: its header says {dtype} {shape}, {count * dtype.itemsize} bytes, but "
                f"{size - start} follow it"
            )
        data: Any = mmap.mmap(fd, size, access=mmap.ACCESS_READ) if count else b""
    values: NDArray[Any] = np.frombuffer(data, dtype, count, start if count else 0)
    return shaped(values, shape, str(path), "F" if fortran else "C")


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:  # noqa: ANN401 (numpy's)
    version = np.lib.format.read_magic(file)
    match version:
        case (1, 0):
            return np.lib.format.read_array_header_1_0(file, max_header_size=_MAX_HEADER)
        case (2, 0):
            return np.lib.format.read_array_header_2_0(file, max_header_size=_MAX_HEADER)
        case _:
            raise ValueError(f"version {version}, expected 1.0 or 2.0")
