"""How copies are queued for a device: a `Lane`, and the `Fence` that tells when one is done.

See Note [Upload ring and streams] in `stages/upload.py`. `CudaLane` has not run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import torch
from torch import Tensor


class Fence(Protocol):
    """A point in the work that was queued for a device."""

    def passed(self) -> bool:
        """Whether the device has got there; never waits."""

    def wait(self) -> None:
        """Make the caller's current stream, not the caller, wait for it."""


class Lane(Protocol):
    """How a device takes copies, and how it is known that they are done."""

    def pinned(self, nbytes: int) -> Tensor:
        """uint8 (nbytes,) of host memory that the device can read by itself."""

    def memory(self, nbytes: int) -> Tensor:
        """uint8 (nbytes,) of device memory."""

    def upload(self, host: Tensor, device: Tensor) -> Fence:
        """Queue a copy; the fence is behind it."""

    def gather(self, planes: Sequence[Tensor], memory: Tensor) -> Fence:
        """Queue copies of what a decoder left on the device, one after another into uint8 (bytes,)
        of its memory, on the stream that decoders write on; the fence is behind them."""

    def mark(self) -> Fence:
        """A fence behind everything that the caller's current stream was given so far."""


class _Passed:
    """The fence of work that is done."""

    def passed(self) -> bool:
        return True

    def wait(self) -> None:
        pass


DONE: Final[Fence] = _Passed()


def lane_for(device: torch.device) -> Lane:
    """The lane of ``device``."""
    return CudaLane(device) if device.type == "cuda" else CpuLane()


class CpuLane:
    """Copies that are finished when they return."""

    def pinned(self, nbytes: int) -> Tensor:
        return torch.empty(nbytes, dtype=torch.uint8)

    def memory(self, nbytes: int) -> Tensor:
        return torch.empty(nbytes, dtype=torch.uint8)

    def upload(self, host: Tensor, device: Tensor) -> Fence:
        device.copy_(host)
        return DONE

    def gather(self, planes: Sequence[Tensor], memory: Tensor) -> Fence:
        _pack(planes, memory)
        return DONE

    def mark(self) -> Fence:
        return DONE


class CudaLane:
    """Copies on a stream of their own, CUDA events as fences."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def pinned(self, nbytes: int) -> Tensor:
        with torch.cuda.device(self._device):  # else a context is made on the first GPU too
            return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def memory(self, nbytes: int) -> Tensor:
        with torch.cuda.stream(self._stream):
            return torch.empty(nbytes, dtype=torch.uint8, device=self._device)

    def upload(self, host: Tensor, device: Tensor) -> Fence:
        with torch.cuda.stream(self._stream):
            device.copy_(host, non_blocking=True)
        return _CudaFence(self._device, self._stream)

    def gather(self, planes: Sequence[Tensor], memory: Tensor) -> Fence:
        # FFmpeg's decoder writes on the default stream, and will write there again once it has its
        # planes back: in that order, the copy needs nobody to wait for it.
        stream = torch.cuda.default_stream(self._device)
        with torch.cuda.stream(stream):
            _pack(planes, memory)
        return _CudaFence(self._device, stream)

    def mark(self) -> Fence:
        return _CudaFence(self._device, torch.cuda.current_stream(self._device))


def _pack(planes: Sequence[Tensor], memory: Tensor) -> None:
    sizes = [plane.numel() for plane in planes]
    for plane, place in zip(planes, memory.split(sizes), strict=True):
        place.view(plane.shape).copy_(plane)


class _CudaFence:
    def __init__(self, device: torch.device, stream: torch.cuda.Stream) -> None:
        self._device = device
        self._event = torch.cuda.Event()
        self._event.record(stream)

    def passed(self) -> bool:
        return bool(self._event.query())

    def wait(self) -> None:
        torch.cuda.current_stream(self._device).wait_event(self._event)
