"""Who subscribes to what, as an XPUB socket tells it: `Subscriptions`."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
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
MOST_PREFIXES: Final = 1000
MOST_BYTES: Final = 1 << 16
"""What one connection may hold. libzmq keeps a node for each byte of a prefix, some 50 bytes."""


@dataclass(slots=True, eq=False)
class _Held:
    """Prefixes that one connection subscribes to, whatever they are of."""

    prefixes: set[bytes] = field(default_factory=set)
    nbytes: int = 0
    ours: set[bytes] = field(default_factory=set)
    """Those of our topics."""
    is_cut: bool = False

    def add(self, prefix: bytes) -> bool:
        """Whether that is still no more than it may hold."""
        if prefix not in self.prefixes:
            self.prefixes.add(prefix)
            self.nbytes += len(prefix)
        return len(self.prefixes) <= MOST_PREFIXES and self.nbytes <= MOST_BYTES

    def discard(self, prefix: bytes) -> None:
        self.ours.discard(prefix)
        if prefix in self.prefixes:
            self.prefixes.discard(prefix)
            self.nbytes -= len(prefix)


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
        self._held: dict[int, _Held] = {}
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
        if descriptor not in self._peers:
            return set()
        held = self._held.setdefault(descriptor, _Held())
        if message.startswith(b"\x01") and not held.is_cut:
            return self._add(descriptor, held, message[1:])
        held.discard(message[1:])
        return set()

    def _add(self, descriptor: int, held: _Held, prefix: bytes) -> set[Kind]:
        if not held.add(prefix):
            held.is_cut = True
            self.counts["greedy"] += 1
            self._peers.cut_off(descriptor)
            return set()
        matching = {kind for kind in KINDS if self._topics[kind].startswith(prefix)}
        if matching:
            held.ours.add(prefix)
        return matching

    def _tell(self) -> None:
        for kind, name in self._topics.items():
            count = sum(any(map(name.startswith, held.ours)) for held in self._held.values())
            if count != self._counts[kind]:
                self._counts[kind] = count
                emit(SubscriberState(f"{kind}/{self._source_id}", count))
