"""From host memory to the device: `UploadRing`.

Note [Upload ring and streams]
~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~
A slot is a piece of pinned host memory and one of device memory, side by side. It goes round:

    acquire   grab thread       the source writes its picture into the pinned memory
    upload    grab thread       one copy to the device, queued on the ring's own copy stream
    take      consumer thread   the compute stream waits for that copy, then reads the device
                                memory into a fresh planar tensor
    (free)                      once the fence behind the last reader has passed

Two things read a slot after the host has moved on: the copy reads the pinned memory, and the
compute stream reads the device memory. A slot is therefore free only when the fence behind the
later of the two has passed; the fence is asked, never waited for, so the host never waits for
the device. `take` hands out a copy, so a slot is held only from one end of the ring to the
other, however long the frame lives. A slot that is given back unread is free once its upload
has passed.

Device memory is allocated on the copy stream. A slot that is too small for a picture is
allocated anew when it is free, when nothing reads it any more, so no `record_stream` is needed
and frames of the old size that still wait stay as they are.

On the CPU the same code runs with copies that are finished when they return. The CUDA lane has
not run on a GPU yet. Allocating (the first picture, a larger one) and asking an event are not
allowed in any thread while another one captures a CUDA graph in the `global` mode: capture
before the first picture, or in the `thread_local` mode.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.colour import picture_of
from stages.copies import CopyCount
from stages.exits import named_exit
from stages.lanes import DONE, Fence, Lane, lane_for
from stages.ycbcr import YCbCr


@dataclass(slots=True, eq=False)
class Slot:
    """One place of the ring; see Note [Upload ring and streams]."""

    host: Tensor
    device: Tensor
    array: NDArray[np.uint8]
    """`host`, as numpy sees it."""
    shape: tuple[int, ...]
    busy: Fence
    """Behind the last reader."""
    ycbcr: YCbCr | None = None
    """How the bytes are to be read, where they are neither grey nor RGB."""

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape)

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The picture's place in host memory, C-contiguous, of `shape`."""
        return self.array[: self.nbytes].reshape(self.shape)


class UploadRing:
    """``slots`` places for pictures on their way to ``device``.

    `acquire`, `upload` and `gather` belong to the grab thread, `take` to the consumer's,
    `give_back` to either. `copies` counts every upload.
    """

    def __init__(self, device: torch.device, slots: int, lane: Lane | None = None) -> None:
        if slots < 1:
            raise ValueError(f"slots is {slots}, expected at least 1")
        self.copies = CopyCount("h2d", "upload")
        self._lane = lane if lane is not None else lane_for(device)
        self._free: deque[Slot] = deque()
        self._lock = threading.Lock()
        self._unmade = slots

    def acquire(self, shape: tuple[int, ...]) -> Slot | None:
        """A free slot for a picture whose bytes are of ``shape``; None while there is none.

        Allocates only for the first pictures and for pictures larger than those before.
        """
        nbytes = math.prod(shape)
        if self._unmade:
            self._unmade -= 1
            return self._make(nbytes, shape)
        with self._lock:
            slot = next((slot for slot in self._free if slot.busy.passed()), None)
            if slot is None:
                return None
            self._free.remove(slot)
        if slot.array.nbytes < nbytes:
            return self._make(nbytes, shape)
        slot.shape = shape
        return slot

    def upload(self, slot: Slot, ycbcr: YCbCr | None = None) -> None:
        """Queue the slot's picture for the device: (H, W) grey, (H, W, 3) RGB or ``ycbcr``."""
        slot.ycbcr = ycbcr
        nbytes = slot.nbytes
        with named_exit(self.copies.where):
            slot.busy = self._lane.upload(slot.host[:nbytes], slot.device[:nbytes])
        self.copies.add(nbytes)

    def gather(self, slot: Slot, planes: Sequence[Tensor], ycbcr: YCbCr | None) -> None:
        """Queue copying a picture that a decoder left on the device, plane after plane.

        Raises ValueError where it lies on another device than the ring.
        """
        for plane in planes:
            if plane.device != slot.device.device:
                raise ValueError(
                    f"the picture was decoded on {plane.device}, expected {slot.device.device}"
                )
        slot.ycbcr = ycbcr
        slot.busy = self._lane.gather(planes, slot.device[: slot.nbytes])

    def take(self, slot: Slot) -> Tensor:
        """The picture on the device, uint8 (3, H, W) of its own memory (an expanded view of
        one plane where it is grey), safe on the caller's current stream; frees the slot."""
        slot.busy.wait()
        planar = _planar(slot)
        slot.busy = self._lane.mark()
        self.give_back(slot)
        return planar

    def give_back(self, slot: Slot) -> None:
        """Free the slot, once the fence behind its last reader has passed."""
        with self._lock:
            self._free.append(slot)

    def _make(self, nbytes: int, shape: tuple[int, ...]) -> Slot:
        host = self._lane.pinned(nbytes)
        return Slot(host, self._lane.memory(nbytes), host.numpy(), shape, DONE)


def _planar(slot: Slot) -> Tensor:
    packed = slot.device[: slot.nbytes]
    if slot.ycbcr is not None:
        return picture_of(packed, slot.ycbcr)
    picture = packed.view(slot.shape)
    if len(slot.shape) == 2:
        return picture.clone().expand(3, *slot.shape)
    return picture.permute(2, 0, 1).clone(memory_format=torch.contiguous_format)
