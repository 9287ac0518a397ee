"""The ring of masks in host memory, a file that processes share: what CUDA IPC is stood in for by.

As a command it is a reader in a process of its own:

    python tests/host_ring.py RESULTS RING COUNT [cuda]

It writes a line of JSON for each result: seq, and the areas of its masks.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from stages.ipc_client import IpcSubscriber
from stages.ring_block import Copied, RingBlock
from stages.ring_place import RingLayout


class HostMemory:
    """See `stages.mask_ring.RingMemory`."""

    def __init__(self, folder: Path, layout: RingLayout) -> None:
        self.ring = secrets.token_hex(8)
        self.layout = layout
        self._path = folder / self.ring
        self.memory = _mapped(self._path, layout)
        self._block = RingBlock(self.memory, layout)

    def word(self, slot: int) -> int:
        """The generation that the slot shows."""
        at = self.layout.word_at(slot)
        return int(self.memory[at : at + 8].view(torch.int64).item())

    def write(self, slot: int, generation: int, data: Tensor) -> None:
        self._block.write(slot, generation, data)

    def tell(self) -> dict[str, object]:
        layout = {"slots": self.layout.slots, "slot_bytes": self.layout.slot_bytes}
        return {"kind": "host", "ring": self.ring, "path": str(self._path), **layout}

    def close(self) -> None:
        self._path.unlink(missing_ok=True)


class HostView:
    """See `stages.ipc_client.RingView`."""

    def __init__(self, told: Mapping[str, object]) -> None:
        layout = RingLayout(int(str(told["slots"])), int(str(told["slot_bytes"])))
        self._block = RingBlock(_mapped(Path(str(told["path"])), layout), layout)

    def copy(self, slot: int, nbytes: int) -> Copied:
        return self._block.read(slot, nbytes)


def _mapped(path: Path, layout: RingLayout) -> Tensor:
    return torch.from_file(str(path), shared=True, size=layout.nbytes, dtype=torch.uint8)


OPENERS = {"host": HostView}


def main() -> None:
    results, ring, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    openers = None if sys.argv[4:] == ["cuda"] else OPENERS
    with IpcSubscriber(results, ring, openers=openers) as subscriber:
        for _ in range(count):
            result = subscriber.receive(30.0)
            if result is None:
                sys.exit("nothing came")
            areas = result.masks().sum((1, 2)).tolist()
            told = [each.area_px for each in result.message.objects]
            line = {"seq": result.message.seq, "areas": areas, "told": told}
            print(json.dumps(line), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
