"""Pictures to an MP4 file that a browser plays: `FilmEncoder`."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Final, Literal

import av
import numpy as np
from numpy.typing import NDArray

_CODECS: Final[dict[Literal["libx264", "mpeg4"], dict[str, str]]] = {
    "libx264": {"crf": "20", "preset": "veryfast"},
    "mpeg4": {"qmin": "2", "qmax": "5"},
}
"""The first that there is, at a constant quality."""


class FilmEncoder:
    """An MP4 file of even height and width (what is beyond is cut), in 4:2:0.

    A context manager. Raises OSError where the disk does not take it.
    """

    def __init__(self, path: Path, size_hw: tuple[int, int], rate: Fraction) -> None:
        """`size_hw`: of the film, in pixels; `rate`: pictures a second."""
        height, width = (length // 2 * 2 for length in size_hw)
        self._container = av.open(str(path), "w", format="mp4")
        codec = next(name for name in _CODECS if name in av.codecs_available)
        self._stream = self._container.add_stream(codec, rate=rate, options=_CODECS[codec])
        self._stream.height, self._stream.width = height, width
        self._stream.pix_fmt = "yuv420p"

    def add(self, picture: NDArray[np.uint8]) -> None:
        """Append uint8 (H, W, 3), at least as large as the film."""
        shown = picture[: self._stream.height, : self._stream.width]
        made = av.VideoFrame.from_ndarray(np.ascontiguousarray(shown), format="rgb24")
        self._container.mux(self._stream.encode(made))

    def __enter__(self) -> FilmEncoder:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()
