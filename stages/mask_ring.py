"""Masks for other processes on the same device, without a way through the host: `MaskRing`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from torch import Tensor

from stages.records import ResultPacket
from stages.ring_place import RingLayout, RingPlace


class RingMemory(Protocol):
    """A block of memory that other processes can open, see `RingLayout`."""

    ring: str
    """Its name; no two are the same."""
    layout: RingLayout

    def write(self, slot: int, generation: int, data: Tensor) -> None:
        """Mark the slot as being written, copy uint8 ``data`` into it, mark it with its
        generation, in that order and behind what was queued so far; waits for nobody."""

    def tell(self) -> dict[str, object]:
        """What one other process needs in order to open it, JSON-ready."""

    def close(self) -> None:
        """Release it; who has it open keeps what he has."""


class MaskRing:
    """Puts the masks of every result into the next slot, round and round, from when a reader first
    asked for the ring until the run ends. Readers are waited for by nobody: one that is too slow
    finds another generation in the slot, and throws away what it has copied.

    `prepare` and `put` belong to the frame loop's thread; `wanted` and `memory` may be read, and
    `wanted` set, by any.
    """

    def __init__(self, make: Callable[[RingLayout], RingMemory], slots: int) -> None:
        """``make`` is called once, when the size of the masks is known. ``slots``: 2 or more."""
        if slots < 2:
            raise ValueError(f"slots: got {slots}, expected at least 2")
        self._make = make
        self._slots = slots
        self.memory: RingMemory | None = None
        """None before the first `prepare`."""
        self.wanted = False
        """Whether anyone ever asked for it; nothing is copied before."""
        self.generation = 0
        """Of the newest result in it."""
        self.left_out = 0
        """Results that were larger than a slot: the pictures have become larger."""

    def prepare(self, packet: ResultPacket) -> None:
        """Allocate slots for masks as large as these, unless that has been done."""
        if self.memory is None:
            self.memory = self._make(RingLayout(self._slots, packet.masks.numel()))

    def put(self, packet: ResultPacket) -> ResultPacket:
        """The packet, with its place where its masks were put into the ring."""
        if not self.wanted:
            return packet
        self.prepare(packet)
        memory = self.memory
        if memory is None or packet.masks.numel() > memory.layout.slot_bytes:
            self.left_out += 1
            return packet
        self.generation += 1
        slot = self.generation % self._slots
        memory.write(slot, self.generation, packet.masks)
        n, height, columns = packet.masks.shape
        window = packet.info.window
        place = RingPlace(
            ring=memory.ring,
            slot=slot,
            generation=self.generation,
            offset=memory.layout.data_at(slot),
            shape=(n, height, columns),
            width=window.size_hw[1],
            origin_yx=window.origin_yx,
        )
        return replace(packet, ring=place)

    def close(self) -> None:
        if self.memory is not None:
            self.memory.close()
