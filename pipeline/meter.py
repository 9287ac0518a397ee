"""A sink that tells, once a second, what the source counted, and what went through the named exits
and to the subscribers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from kpi import emit
from kpi.edge_events import PacketsSent, PeersConnected, SubscriberMessages, SubscriberOutcome
from kpi.events import HostCopies, SourceTroubles
from stages.copies import CopyCount
from stages.packets import HostPacket
from stages.sinks.zmq_publisher import ZmqPublisher

_EVERY_S = 1.0


class Meter:
    """Emits differences, so that a counter can be fed by adding them up."""

    wants_masks = False

    def __init__(
        self,
        copies: Callable[[], tuple[CopyCount, ...]],
        publisher: ZmqPublisher | None,
        source_id: str = "",
        troubles: Callable[[], Counter[str]] = Counter,
    ) -> None:
        self._copies = copies
        self._source_id = source_id
        self._troubles = troubles
        self._troubled: Counter[str] = Counter()
        self._publisher = publisher
        self._told: dict[str, tuple[int, int]] = {}
        self._peers = 0
        self._heard: Counter[SubscriberOutcome] = Counter()
        self._due = time.monotonic() + _EVERY_S

    def write(self, packet: HostPacket) -> None:
        """Nothing to do for a single packet."""

    def poll(self) -> None:
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + _EVERY_S
            self._tell()

    def close(self) -> None:
        """Tell what is left."""
        self._tell()

    def _tell(self) -> None:
        for count in self._copies():
            copies, size = self._new(count.where, count.copies, count.copied_bytes)
            if copies:
                emit(HostCopies(count.direction, count.where, copies, size))
        troubles = self._troubles()
        if troubled := troubles - self._troubled:
            emit(SourceTroubles(self._source_id, dict(troubled)))
        self._troubled = troubles
        if self._publisher is not None:
            publisher = self._publisher
            for kind, sent in publisher.sent.items():
                packets, size = self._new(f"{kind}/", sent.messages, sent.sent_bytes)
                if packets:
                    emit(PacketsSent(packets, size, kind))
            if publisher.peers != self._peers:
                self._peers = publisher.peers
                emit(PeersConnected("results", publisher.peers))
            heard = publisher.heard
            if new := heard - self._heard:
                emit(SubscriberMessages(dict(new)))
            self._heard = heard

    def _new(self, name: str, number: int, size: int) -> tuple[int, int]:
        told_number, told_size = self._told.get(name, (0, 0))
        self._told[name] = (number, size)
        return number - told_number, size - told_size
