"""The ring of masks in the memory of a GPU, opened by other processes through CUDA IPC.

It has not run on a GPU yet: what can be tested without one is tested with a ring in host memory
(`tests/host_ring.py`). What is known of CUDA IPC and was heeded:

- An exported block is the whole allocation of the driver's, so a reader needs the offset of the
  tensor in it: torch's handle carries it. A reader can write to the block, too: readers are
  trusted, and the handles are given out over a socket that nobody else may reach.
- A block is exported once and opened once; what is exported returns to no allocator before the
  process ends.
- `expandable_segments` turns handles into file descriptors that other processes may not take:
  refused.
- Opening it as another device would make a context on that one: readers look for the GPU by its
  UUID.
- Writing is ordered by the producer's stream alone. Readers wait, on their stream, for the slot's
  event (interprocess), copy, and look at the generation again.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from stages.errors import ConfigError
from stages.ring_block import Copied, RingBlock
from stages.ring_place import RingError, RingLayout

KIND: Final = "cuda"

_HANDLE: Final = 8  # what torch's `_share_cuda_` gives; its first is the device's number


def check_cuda_ipc(device: torch.device) -> None:
    """Raise `ConfigError` where memory of ``device`` cannot be shared. One line."""
    if device.type != "cuda":
        raise ConfigError(
            f"cuda_ipc: the run's device is {device.type} (expected cuda: the ring of masks lies "
            "in the memory of a GPU; null switches it off)"
        )
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        if "expandable_segments:true" in os.environ.get(name, "").lower().replace(" ", ""):
            raise ConfigError(
                f"cuda_ipc: {name} has expandable_segments:True (expected it to be off: such "
                "memory cannot be shared by handle)"
            )


class CudaMemory:
    """See `stages.mask_ring.RingMemory`; `write` queues on the current stream of the device."""

    def __init__(self, device: torch.device, layout: RingLayout) -> None:
        """Raises `ConfigError` where the memory cannot be shared."""
        check_cuda_ipc(device)
        self.ring = secrets.token_hex(8)
        self.layout = layout
        self._memory = torch.zeros(layout.nbytes, dtype=torch.uint8, device=device)
        self._block = RingBlock(self._memory, layout)
        self._done: list[torch.cuda.Event] = []
        self._done_handles: list[str] = []
        with torch.cuda.device(device):
            for _ in range(layout.slots):
                event = torch.cuda.Event(interprocess=True)
                self._done.append(event)
                self._done_handles.append(bytes(event.ipc_handle()).hex())
        self._uuid = str(torch.cuda.get_device_properties(device).uuid)

    def write(self, slot: int, generation: int, data: Tensor) -> None:
        self._block.write(slot, generation, data)
        self._done[slot].record()

    def tell(self) -> dict[str, object]:
        """Every reader gets a handle of its own: torch counts who has returned his."""
        handle = self._memory.untyped_storage()._share_cuda_()
        return {
            "kind": KIND,
            "ring": self.ring,
            "slots": self.layout.slots,
            "slot_bytes": self.layout.slot_bytes,
            "uuid": self._uuid,
            "handle": [each.hex() if isinstance(each, bytes) else each for each in handle[1:]],
            "events": self._done_handles,
        }

    def close(self) -> None:
        """The block stays until the process ends."""


class CudaView:
    """A ring of another process, see `stages.ipc_client.RingView`."""

    def __init__(self, told: Mapping[str, object]) -> None:
        """Raises `RingError` where the GPU is not among this process's, or the handle cannot be
        opened."""
        device = _device_of(str(told["uuid"]))
        layout = RingLayout(int(str(told["slots"])), int(str(told["slot_bytes"])))
        handle, events = told["handle"], told["events"]
        if not isinstance(handle, list) or not isinstance(events, list):
            raise RingError("the ring's owner told no handle")
        if len(handle) != _HANDLE - 1 or len(events) != layout.slots:
            raise RingError("the ring's owner told a handle of another version of torch")
        given = [bytes.fromhex(each) if isinstance(each, str) else each for each in handle]
        try:
            storage = torch.UntypedStorage._new_shared_cuda(device.index, *given)
            memory = torch.empty(0, dtype=torch.uint8, device=device).set_(storage)
            self._done = [
                torch.cuda.Event.from_ipc_handle(device, bytes.fromhex(each)) for each in events
            ]
        except RuntimeError as error:
            raise RingError(f"the ring cannot be opened: {str(error).splitlines()[0]}") from error
        self._block = RingBlock(memory, layout)
        self._device = device

    def copy(self, slot: int, nbytes: int) -> Copied:
        """See `stages.ipc_client.RingView`; waits until the copy is there."""
        with torch.cuda.device(self._device):
            if slot < len(self._done):
                torch.cuda.current_stream().wait_event(self._done[slot])
            return self._block.read(slot, nbytes)


def _device_of(uuid: str) -> torch.device:
    """This process's number for a GPU; each numbers those that it sees."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(count):
        if str(torch.cuda.get_device_properties(index).uuid) == uuid:
            return torch.device("cuda", index)
    raise RingError(
        f"the ring lies on GPU {uuid}, which is none of the {count} that this process sees"
    )
