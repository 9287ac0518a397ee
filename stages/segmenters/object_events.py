"""What came, went and found no slot, told as events: only what changed since the last header."""

from __future__ import annotations

from kpi.emit import emit
from kpi.events import ObjectAdded, ObjectDropped, ObjectRefused
from stages.packets import HostPacket


class ObjectEvents:
    """What was last told of the objects."""

    def __init__(self) -> None:
        self.source_id, self.frame_id = "", -1
        """Of the last header."""
        self._epoch = -1
        self._objects: dict[int, int] = {}
        self._refused = 0

    def tell(self, packet: HostPacket, refused: int) -> None:
        """Emit what this header changes; `refused` new objects found no slot in its epoch."""
        info = packet.info
        where = (info.source_id, info.epoch, info.frame_id)
        self.source_id, self.frame_id = info.source_id, info.frame_id
        if info.epoch != self._epoch:
            self._epoch, self._objects, self._refused = info.epoch, {}, 0
        ids = packet.object_ids.tolist()
        now = dict(zip(ids, packet.class_ids.tolist(), strict=True))
        for object_id in now.keys() - self._objects.keys():
            emit(ObjectAdded(*where, object_id, now[object_id]))
        for object_id in self._objects.keys() - now.keys():
            emit(ObjectDropped(*where, object_id, self._objects[object_id]))
        for _ in range(refused - self._refused):
            emit(ObjectRefused(*where, "no_slot"))
        self._objects, self._refused = now, refused
