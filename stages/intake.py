"""Where the pictures that a source reads come in: `Intake`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stages.base import Picture
from stages.upload import Slot, UploadRing
from stages.ycbcr import DevicePlanes

_POLL_S: Final = 0.0005


class Intake:
    """Lends a source the memory of ``ring``, and queues what it put there for the device.

    While no slot is free, ``make_room`` is asked to give one up (it says whether it could), else
    the reader waits, until ``stopping``. Belongs to the thread that reads.
    """

    def __init__(
        self, ring: UploadRing, make_room: Callable[[], bool], stopping: threading.Event
    ) -> None:
        self.ring = ring
        self._make_room = make_room
        self._stopping = stopping
        self._lent: Slot | None = None

    def lend(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """The `Buffer` of `Source.read`."""
        if self._lent is not None:  # asked for twice in one read, or by one that gave nothing
            self.ring.give_back(self._lent)
        self._lent = self._free_slot(shape)
        if self._lent is None:
            return np.empty(shape, np.uint8)  # its picture will be thrown away
        return self._lent.pixels

    def bring(self, picture: Picture) -> Slot | None:
        """Queue ``picture`` for the device; None where it came too late, for all is stopping.

        Raises TypeError for one that does not lie where it should.
        """
        pixels, ycbcr = picture.pixels, picture.ycbcr
        if isinstance(pixels, DevicePlanes):
            self.lend(pixels.shape)
        slot, self._lent = self._lent, None
        if isinstance(pixels, DevicePlanes):
            if slot is not None:
                self.ring.gather(slot, (pixels.y, pixels.cbcr), ycbcr)
            return slot
        if slot is None or not np.may_share_memory(pixels, slot.array):
            raise TypeError("the picture does not lie in the array that Buffer gave")
        self.ring.upload(slot, ycbcr)
        return slot

    def _free_slot(self, shape: tuple[int, ...]) -> Slot | None:
        while not self._stopping.is_set():
            slot = self.ring.acquire(shape)
            if slot is not None:
                return slot
            if not self._make_room():
                self._stopping.wait(_POLL_S)
        return None
