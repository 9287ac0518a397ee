"""One connection to a live transport, as whoever keeps it alive sees it: `Feed`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from stages.base import Buffer

if TYPE_CHECKING:
    from stages.ycbcr import DevicePlanes, YCbCr


class FeedError(Exception):
    """The connection is gone, or useless: close it and try again. One line, no credentials."""


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """A picture that a feed delivered, or the region of it that was asked for."""

    pixels: NDArray[np.uint8] | DevicePlanes
    """As in `stages.base.Picture`."""
    captured_ns: int
    """Monotonic clock, nanoseconds; when it arrived, where the feed does not tell better."""
    captured_unix_ns: int | None = None
    """Unix time in nanoseconds, from the sender where it tells."""
    spacing_mm: tuple[float, float] | None = None
    """(y, x) millimetres per pixel, as the sender tells."""
    pose: NDArray[np.float64] | None = None
    """(4, 4) image-to-world: from millimetres right of and below the centre of the first pixel of
    the sender's picture to millimetres in its world."""
    origin_yx: tuple[int, int] = (0, 0)
    """Where `pixels` begins in the sender's picture."""
    full_hw: tuple[int, int] | None = None
    """Size of the sender's picture; None: that of `pixels`."""
    boxes: NDArray[np.float32] | None = None
    """(n, 6), what the sender found in it, see `stages.found_boxes`; None: it did not look."""
    sender_ns: int | None = None
    """Nanoseconds on the sender's own clock, whatever its zero; only whether it runs backwards,
    which means that the sender began anew, is looked at."""
    ycbcr: YCbCr | None = None
    """As in `stages.base.Picture`."""


class Feed(Protocol):
    """One attempt at a connection: made without waiting for anything, used by one thread.

    Connecting is part of reading, so that whoever reads can stop between two short waits.
    """

    def read(self, buffer: Buffer, timeout_s: float) -> Arrival | None:
        """The next picture, waiting at most about ``timeout_s``; None where none came yet.

        Raises `FeedError` where another attempt may help, `SourceError` where none will, and
        `EOFError` where the sender has properly come to an end.
        """

    def close(self) -> None:
        """Release everything within 0.3 s; no `read` follows. May be called more than once."""


@runtime_checkable
class CalledFeed(Feed, Protocol):
    """A feed that others call: nobody is silent while nobody is there."""

    @property
    def is_called(self) -> bool:
        """Whether a sender is there, and has said something."""


Dial = Callable[[], Feed]
"""Makes the next attempt."""
