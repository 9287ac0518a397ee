"""What people call objects: `Names`."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace
from typing import Literal

from stages.packets import HostPacket
from stages.requests import Requests

Unnamed = Literal["past_epoch", "unknown_object"]


class Names:
    """Labels by object id, of the newest epoch; forgotten with their objects.

    `ask` may be called from any thread; `named` belongs to egress, before any sink sees a packet.
    """

    def __init__(self) -> None:
        self._asked: Requests[tuple[int, int, str], int | Unnamed] = Requests()
        self._names: dict[int, str] = {}
        self._epoch = -1

    def ask(self, epoch: int, object_id: int, name: str) -> Future[int | Unnamed]:
        """Name an object from the next packet on, whose frame id is the result; or why it
        could not be."""
        return self._asked.put((epoch, object_id, name))

    def named(self, packet: HostPacket) -> HostPacket:
        """The packet with its objects' names."""
        if not self._asked and not self._names:
            return packet
        info, there = packet.info, set(packet.object_ids.tolist())
        if info.epoch != self._epoch:
            self._epoch, self._names = info.epoch, {}
        # Taken once: who hears of this packet renames in the next one.
        for (epoch, object_id, name), told in self._asked.take():
            if epoch != info.epoch:
                told.set_result("past_epoch")
            elif object_id not in there:
                told.set_result("unknown_object")
            else:
                self._names[object_id] = name
                told.set_result(info.frame_id)
        self._names = {key: name for key, name in self._names.items() if key in there}
        return replace(packet, names=dict(self._names))
