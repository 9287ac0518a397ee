"""Who subscribes to what, as an XPUB socket tells it: `Subscriptions`."""

from __future__ import annotations

from collections import Counter, deque
from typing import Final

import zmq

from kpi.edge_events import SubscriberOutcome, SubscriberState
from kpi.emit import emit
from stages.peers import Peers
from stages.wire import topic
from stages.wire_envelope import Kind

KINDS: Final[tuple[Kind, ...]] = ("result", "state", "kpi", "frame")
MAX_READS_A_POLL: Final = 256
"""So that a flood of subscriptions cannot hold up the results."""


class Subscriptions:
    """Counts, of each kind of topic of one source, the connections that subscribe to it.

    Read by the thread that owns the socket; `count` by any.

    What a connection says counts for itself alone: twice is once, and nobody takes back what
    another holds. libzmq tells with each message which connection (file descriptor) it came by, and
    the socket's monitor when that one began and ended. It tells that a connection began before
    anything that came by it; so with all of the monitor's events taken in, a message is never
    laid to a connection before its own. Where a descriptor was used anew since, it may be
    laid to one after it, which at worst counts one too many until that one ends.
    """

    def __init__(self, socket: zmq.Socket[bytes], peers: Peers, source_id: str) -> None:
        """``socket``: XPUB, with XPUB_VERBOSER, so that it tells of every coming and going, of a
        context with one I/O thread, whose order this relies on."""
        self._socket, self._peers = socket, peers
        self._source_id = source_id
        self._topics = {kind: topic(kind, source_id) for kind in KINDS}
        self._counts: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        self._waiting: deque[zmq.Frame] = deque()
        self._held: dict[int, set[bytes]] = {}
        """Prefixes of our topics by connection."""
        self.counts: Counter[SubscriberOutcome] = Counter()
        """What came in, since the start."""

    def count(self, kind: Kind) -> int:
        """Connections with a subscription that matches this kind's topic, as of the last `read`."""
        return self._counts[kind]

    def read(self) -> frozenset[Kind]:
        """Take in who came, what came and who went; the kinds that somebody newly subscribed
        to."""
        self._receive()
        for descriptor in self._peers.read():
            self._held.pop(descriptor, None)
        joined: set[Kind] = set()
        while self._waiting and not self._peers.is_behind:
            joined |= self._change(self._waiting.popleft())
        self._tell()
        return frozenset(joined)

    def _receive(self) -> None:
        while len(self._waiting) < MAX_READS_A_POLL:
            try:
                self._waiting.append(self._socket.recv(zmq.NOBLOCK, copy=False))
            except zmq.Again:
                break

    def _change(self, frame: zmq.Frame) -> set[Kind]:
        message, descriptor = frame.bytes, self._peers.heard(frame)
        if message[:1] not in (b"\x00", b"\x01") or descriptor is None:
            # libzmq itself takes back, without a descriptor, what an ended connection held
            self.counts["refused"] += not message.startswith(b"\x00")
            return set()
        self.counts["heard"] += 1
        prefix = message[1:]
        matching = {kind for kind in KINDS if self._topics[kind].startswith(prefix)}
        if not matching or descriptor not in self._peers:
            return set()
        held = self._held.setdefault(descriptor, set())
        if message.startswith(b"\x01"):
            held.add(prefix)
            return matching
        held.discard(prefix)
        return set()

    def _tell(self) -> None:
        for kind, name in self._topics.items():
            count = sum(any(map(name.startswith, held)) for held in self._held.values())
            if count != self._counts[kind]:
                self._counts[kind] = count
                emit(SubscriberState(f"{kind}/{self._source_id}", count))
