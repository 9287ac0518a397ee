"""Who is connected to a bound socket: `Peers`."""

from __future__ import annotations

from collections import Counter
from typing import Final

import zmq
from zmq.utils.monitor import recv_monitor_message

from kpi.events import SubscriberOutcome

_TOLD: Final[dict[int, SubscriberOutcome]] = {
    zmq.EVENT_ACCEPTED: "connected",
    zmq.EVENT_HANDSHAKE_SUCCEEDED: "let_in",
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "uninvited",
}
_EVENTS: Final = sum(_TOLD) | zmq.EVENT_DISCONNECTED
MAX_READS_A_POLL: Final = 256


class Peers:
    """Connections of a socket, also those that have not yet said, or never say, who they are
    (these end after its HANDSHAKE_IVL). A connection is named by its file descriptor, which the
    next one may have, too. Belongs to the thread that owns the socket."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], socket: zmq.Socket[bytes]) -> None:
        """``socket`` belongs to ``context``."""
        self._socket = socket
        self._connected: set[int] = set()
        self.counts: Counter[SubscriberOutcome] = Counter()
        """What became of connections, since the start."""
        address = f"inproc://peers-{id(self)}"
        socket.monitor(address, _EVENTS)
        self._monitor = context.socket(zmq.PAIR)
        # At a limit libzmq's own thread would wait for ours, and all sending with it.
        self._monitor.setsockopt(zmq.RCVHWM, 0)
        self._monitor.connect(address)
        self.is_behind = False
        """Whether more happened than the last `read` took in."""

    @property
    def connected(self) -> int:
        """As of the last `read`; callable from any thread."""
        return len(self._connected)

    def __contains__(self, descriptor: object) -> bool:
        return descriptor in self._connected

    def read(self) -> frozenset[int]:
        """Take in who came and went: the descriptors of both."""
        changed: set[int] = set()
        for _ in range(MAX_READS_A_POLL):
            self.is_behind = bool(self._monitor.poll(0))
            if not self.is_behind:
                break
            told = recv_monitor_message(self._monitor)
            event, descriptor = int(told["event"]), int(told["value"])
            if event in _TOLD:
                self.counts[_TOLD[event]] += 1
            if event == zmq.EVENT_ACCEPTED:
                self._connected.add(descriptor)
                changed.add(descriptor)
            elif event == zmq.EVENT_DISCONNECTED:
                self._connected.discard(descriptor)
                changed.add(descriptor)
        return frozenset(changed)

    def close(self) -> None:
        """Before the socket is closed."""
        self._socket.monitor(None, 0)
        self._monitor.close(linger=0)
