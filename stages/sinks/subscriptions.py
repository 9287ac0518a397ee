"""Who subscribes to what, as an XPUB socket tells it: `Subscriptions`."""

from __future__ import annotations

from typing import Final

import zmq

from kpi.emit import emit
from kpi.events import SubscriberState
from stages.wire import topic
from stages.wire_envelope import Kind

KINDS: Final[tuple[Kind, ...]] = ("result", "state", "kpi", "frame")
MAX_READS_A_POLL: Final = 256
"""So that a flood of subscriptions cannot hold up the results."""


class Subscriptions:
    """Counts, of each kind of topic of one source, the subscriptions that match it.

    Read by the thread that owns the socket; `count` by any. libzmq does not say who unsubscribes,
    nor whether that peer had subscribed: one that lies can make a count too low, and others then
    get results without masks until somebody subscribes anew. So who may connect must be trusted
    that far.
    """

    def __init__(self, socket: zmq.Socket[bytes], source_id: str) -> None:
        """``socket``: XPUB, with XPUB_VERBOSER, so that it tells of every coming and going."""
        self._socket = socket
        self._source_id = source_id
        self._topics = {kind: topic(kind, source_id) for kind in KINDS}
        self._counts: dict[Kind, int] = dict.fromkeys(KINDS, 0)

    def count(self, kind: Kind) -> int:
        """Subscriptions that match this kind's topic, as of the last `read`."""
        return self._counts[kind]

    def read(self) -> frozenset[Kind]:
        """Take in what came; the kinds that somebody newly subscribed to."""
        joined: set[Kind] = set()
        before = dict(self._counts)
        for _ in range(MAX_READS_A_POLL):
            try:
                message = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            joined |= self._change(message)
        self._tell(before)
        return frozenset(joined)

    def forget(self) -> None:
        """Nobody is connected, so nobody subscribes: what a peer counted twice ends here."""
        before = dict(self._counts)
        self._counts = dict.fromkeys(KINDS, 0)
        self._tell(before)

    def _change(self, message: bytes) -> set[Kind]:
        change = {b"\x01": 1, b"\x00": -1}.get(message[:1], 0)
        matching = {kind for kind in KINDS if self._topics[kind].startswith(message[1:])}
        if not change:
            return set()
        for kind in matching:
            self._counts[kind] = max(0, self._counts[kind] + change)
        return matching if change > 0 else set()

    def _tell(self, before: dict[Kind, int]) -> None:
        for kind, count in self._counts.items():
            if count != before[kind]:
                emit(SubscriberState(f"{kind}/{self._source_id}", count))
