"""Masks for GPU programs on the same host: `CudaIpc`, `cuda_ipc:` of the configuration.

Experimental, off by default: the ring of `stages/cuda_ring.py` has not run on a GPU yet.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import zmq
from pydantic import Field

from stages.base import Section
from stages.local_sockets import bound, endpoint_of
from stages.packets import HostPacket
from stages.ring_place import ASK, RingLayout

if TYPE_CHECKING:  # checking a configuration can do without torch
    import torch

    from stages.cuda_ring import CudaMemory
    from stages.mask_ring import MaskRing

_MAX_INBOUND_BYTES: Final = 1024
_MAX_READS_A_POLL: Final = 16


class CudaIpcConfig(Section):
    """`cuda_ipc:` of the configuration."""

    slots: int = Field(default=16, ge=2, le=1024)
    """Results that are kept for readers: as many as come in the time that the slowest needs."""


class CudaIpc:
    """A `Sink` that tells readers where the ring is; the frame loop fills the ring (`ring`).

    The handles are given out over an ipc:// socket in a folder of its own that nobody else may
    enter: who has them can read, and write, the memory. Egress owns it, see `Sink`.
    """

    wants_masks = False

    def __init__(self, ring: MaskRing) -> None:
        """Bind; raises `BindError` where that cannot be done."""
        self.ring = ring
        self._folder = Path(tempfile.mkdtemp(prefix="maskstream-", dir=_private_root()))
        self._context = zmq.Context()
        options = {zmq.LINGER: 0, zmq.MAXMSGSIZE: _MAX_INBOUND_BYTES, zmq.SNDHWM: 16}
        try:
            where = f"ipc://{self._folder / 'ring'}"
            self._socket = bound(self._context, zmq.ROUTER, "cuda_ipc", where, options)
        except BaseException:
            self._context.term()
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self.endpoint = endpoint_of(self._socket)
        """What was bound."""

    def write(self, packet: HostPacket) -> None:
        """Nothing to do: the masks are in the ring already."""

    def poll(self) -> None:
        """Answer whoever asks where the ring is; from the first one on it is filled."""
        for _ in range(_MAX_READS_A_POLL):
            try:
                sender, *parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if parts == [ASK]:
                self.ring.wanted = True
                memory = self.ring.memory
                told = {"ring": None} if memory is None else memory.tell()
                self._answer(sender, json.dumps(told).encode("ascii"))

    def close(self) -> None:
        if self._socket.closed:
            return
        self._socket.close()
        self._context.term()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answer(self, sender: bytes, data: bytes) -> None:
        try:
            self._socket.send_multipart((sender, data), zmq.NOBLOCK)
        except zmq.ZMQError:  # it did not wait, or is gone: it asks again
            return


def make_cuda_ipc(config: CudaIpcConfig, device: torch.device) -> CudaIpc:
    """The ring of a run on ``device``. Raises `ConfigError` where its memory cannot be shared."""
    from stages.cuda_ring import CudaMemory, check_cuda_ipc
    from stages.mask_ring import MaskRing

    check_cuda_ipc(device)

    def make(layout: RingLayout) -> CudaMemory:
        return CudaMemory(device, layout)

    return CudaIpc(MaskRing(make, config.slots))


def _private_root() -> str | None:
    """Where folders of this user's processes lie; None: the system's place for such."""
    root = os.environ.get("XDG_RUNTIME_DIR", "")
    return root if root and os.access(root, os.W_OK) else None
