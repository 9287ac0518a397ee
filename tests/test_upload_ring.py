"""The upload ring: no slot is written while a copy or the device still reads it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.lanes import CpuLane, Fence
from stages.upload import UploadRing

CPU = torch.device("cpu")


class Work:
    """A fence of our own: passed when told so, or, if it lies, from the start."""

    def __init__(self, run: Callable[[], None], *, lies: bool = False) -> None:
        self._run = run
        self._lies = lies
        self.done = False

    def passed(self) -> bool:
        return self.done or self._lies

    def wait(self) -> None:
        self.finish()

    def finish(self) -> None:
        if not self.done:
            self._run()
            self.done = True  # only now, for another thread may be asking


class LateLane(CpuLane):
    """A device that does nothing until it is told to, as a GPU that lags behind."""

    def __init__(self, *, lies: bool = False) -> None:
        self._lies = lies
        self.arrived: list[int] = []
        """The first byte that each copy carried, as it ran."""
        self.uploads: list[Work] = []
        self.marks: list[Work] = []

    def upload(self, host: Tensor, device: Tensor) -> Fence:
        def copy() -> None:
            device.copy_(host)
            self.arrived.append(int(host[0]))

        self.uploads.append(Work(copy, lies=self._lies))
        return self.uploads[-1]

    def mark(self) -> Fence:
        self.marks.append(Work(lambda: None, lies=self._lies))
        return self.marks[-1]


def send(ring: UploadRing, value: int, shape: tuple[int, ...] = (2, 3)) -> bool:
    """Write a picture of `value`, upload it and let it go unread; False while no slot is free."""
    slot = ring.acquire(shape)
    if slot is None:
        return False
    slot.pixels[...] = value
    ring.upload(slot)
    ring.give_back(slot)
    return True


def test_a_fence_is_not_passed_while_its_work_runs() -> None:
    seen: list[bool] = []
    work = Work(lambda: seen.append(work.passed()))
    work.finish()
    work.finish()
    assert seen == [False]
    assert work.passed()


def test_a_slot_is_not_written_before_its_copy_is_done() -> None:
    lane = LateLane()
    ring = UploadRing(CPU, 1, lane)
    assert send(ring, 1)
    assert not send(ring, 2)
    lane.uploads[0].finish()
    assert send(ring, 2)
    lane.uploads[1].finish()
    assert lane.arrived == [1, 2]


def test_a_fence_that_lies_would_be_seen() -> None:
    lane = LateLane(lies=True)
    ring = UploadRing(CPU, 1, lane)
    assert send(ring, 1)
    assert send(ring, 2)
    for work in lane.uploads:
        work.finish()
    assert lane.arrived == [2, 2]  # the first picture was overwritten on its way


def test_a_slot_is_not_free_before_the_device_has_read_it() -> None:
    lane = LateLane()
    ring = UploadRing(CPU, 1, lane)
    slot = ring.acquire((2, 3))
    assert slot is not None
    slot.pixels[...] = 9
    ring.upload(slot)
    picture = ring.take(slot)
    assert lane.uploads[0].done  # taking waits, on the device, for the upload
    assert (picture == 9).all()
    assert ring.acquire((2, 3)) is None
    lane.marks[0].finish()
    assert ring.acquire((2, 3)) is slot


def test_a_later_slot_that_is_free_is_found() -> None:
    lane = LateLane()
    ring = UploadRing(CPU, 2, lane)
    assert send(ring, 1)
    assert send(ring, 2)
    assert ring.acquire((2, 3)) is None
    lane.uploads[1].finish()
    assert ring.acquire((2, 3)) is not None
    assert ring.acquire((2, 3)) is None


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_a_picture_arrives_planar_and_in_memory_of_its_own(shape: tuple[int, ...]) -> None:
    ring = UploadRing(CPU, 1)
    sent = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    taken = []
    for picture in sent:
        slot = ring.acquire(shape)
        assert slot is not None
        assert slot.pixels.flags.c_contiguous
        slot.pixels[...] = picture
        ring.upload(slot)
        taken.append(ring.take(slot))
    for tensor, picture in zip(taken, sent, strict=True):
        assert (tensor.dtype, tensor.shape) == (torch.uint8, (3, 5, 7))
        planes = picture[..., None].repeat(3, -1) if picture.ndim == 2 else picture
        np.testing.assert_array_equal(tensor.numpy(), planes.transpose(2, 0, 1))
    if len(shape) == 3:
        assert taken[0].is_contiguous()


def test_memory_is_kept_and_grows_only_for_a_larger_picture() -> None:
    ring = UploadRing(CPU, 1)
    places = []
    for shape in [(8, 8), (4, 4, 3), (8, 8), (9, 8), (8, 8)]:
        slot = ring.acquire(shape)
        assert slot is not None
        places.append(slot.array.ctypes.data)
        assert slot.pixels.shape == shape
        ring.upload(slot)
        ring.take(slot)
    assert places[0] == places[1] == places[2]
    assert places[3] == places[4]


def test_uploads_are_counted() -> None:
    ring = UploadRing(CPU, 2)
    for shape in [(4, 4), (4, 4, 3)]:
        assert send(ring, 0, shape)
    copies = ring.copies
    assert (copies.direction, copies.where) == ("h2d", "upload")
    assert (copies.copies, copies.copied_bytes) == (2, 16 + 48)


def test_a_ring_without_slots_is_refused() -> None:
    with pytest.raises(ValueError, match="slots is 0"):
        UploadRing(CPU, 0)
