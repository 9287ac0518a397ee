"""How many are connected to a bound socket: `Peers`."""

from __future__ import annotations

import time
from typing import Final

import zmq
from zmq.utils.monitor import recv_monitor_message

_EVENTS: Final = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED
_MAX_READS_A_POLL: Final = 256


class Peers:
    """Connections of a socket, also those that have not yet said, or never say, who they are
    (these end after its HANDSHAKE_IVL). Belongs to the thread that owns the socket."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], socket: zmq.Socket[bytes]) -> None:
        """``socket`` belongs to ``context``."""
        self._socket = socket
        self._connected: set[int] = set()
        self._alone_since = time.monotonic()
        address = f"inproc://peers-{id(self)}"
        socket.monitor(address, _EVENTS)
        self._monitor = context.socket(zmq.PAIR)
        # At a limit libzmq's own thread would wait for ours, and all sending with it.
        self._monitor.setsockopt(zmq.RCVHWM, 0)
        self._monitor.connect(address)

    @property
    def connected(self) -> int:
        """As of the last `read`; callable from any thread."""
        return len(self._connected)

    def alone_for(self, seconds: float) -> bool:
        """Whether nobody has been connected for so long."""
        return not self._connected and time.monotonic() - self._alone_since > seconds

    def read(self) -> None:
        """Take in who came and went."""
        for _ in range(_MAX_READS_A_POLL):
            if not self._monitor.poll(0):
                break
            told = recv_monitor_message(self._monitor)
            descriptor = int(told["value"])
            if told["event"] == zmq.EVENT_ACCEPTED:
                self._connected.add(descriptor)
            else:
                self._connected.discard(descriptor)
                self._alone_since = time.monotonic()

    def close(self) -> None:
        """Before the socket is closed."""
        self._socket.monitor(None, 0)
        self._monitor.close(linger=0)
