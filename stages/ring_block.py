"""The slots of a ring of masks in one tensor, on whichever device: `RingBlock`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stages.ring_place import RingError, RingLayout


@dataclass(frozen=True, slots=True, eq=False)
class Copied:
    """What lay in a slot, in memory of the reader's own."""

    data: Tensor
    """uint8 (bytes,)."""
    before: int
    """The slot's generation before it was copied."""
    after: int
    """And afterwards."""


class RingBlock:
    """Writes and reads slots in the order on which it all depends: a writer marks the slot before
    it touches the data, a reader looks at the mark again after it has copied them."""

    def __init__(self, block: Tensor, layout: RingLayout) -> None:
        """``block``: uint8 (layout.nbytes,) or longer. Raises `RingError` where it is shorter."""
        if block.dtype != torch.uint8 or block.ndim != 1 or len(block) < layout.nbytes:
            raise RingError(
                f"a ring of {block.dtype} {tuple(block.shape)}, expected {layout.nbytes} bytes"
            )
        self._block = block
        self._layout = layout
        words = [layout.word_at(slot) for slot in range(layout.slots)]
        self._words = [block[at : at + 8].view(torch.int64) for at in words]

    def write(self, slot: int, generation: int, data: Tensor) -> None:
        """Queue it; ``data`` is uint8 on the block's device. The host waits for nothing."""
        at = self._layout.data_at(slot)
        self._words[slot].fill_(-generation)
        self._block[at : at + data.numel()].copy_(data.reshape(-1))
        self._words[slot].fill_(generation)

    def read(self, slot: int, nbytes: int) -> Copied:
        """Copy, and wait until that is done; `RingError` for what does not lie in the ring."""
        if slot >= self._layout.slots or nbytes > self._layout.slot_bytes:
            raise RingError(f"slot {slot} with {nbytes} bytes is not in {self._layout}")
        at, word = self._layout.data_at(slot), self._words[slot]
        before = word.clone()
        data = self._block[at : at + nbytes].clone()
        seen: list[int] = torch.cat((before, word)).tolist()
        return Copied(data, seen[0], seen[1])
