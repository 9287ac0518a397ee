"""Who is connected to a bound socket, and who sends without end: `Peers`."""

from __future__ import annotations

import os
import socket as sockets
import struct
import time
from collections import Counter
from contextlib import suppress
from typing import Final

import zmq
from zmq.utils.monitor import recv_monitor_message

from kpi.edge_events import ConnectionOutcome

_TOLD: Final[dict[int, ConnectionOutcome]] = {
    zmq.EVENT_ACCEPTED: "connected",
    zmq.EVENT_HANDSHAKE_SUCCEEDED: "let_in",
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "uninvited",
}
_EVENTS: Final = sum(_TOLD) | zmq.EVENT_DISCONNECTED
MAX_READS_A_POLL: Final = 256
_LOOK_EVERY_S: Final = 0.1
_IDLE_BYTES_S: Final = 1024
"""What heartbeats take, amply: they are bytes without a message."""
_RECEIVED: Final = struct.Struct("128xQ")
"""`tcpi_bytes_received` of Linux's `struct tcp_info`."""


class Peers:
    """Connections of a socket, also those that have not yet said, or never say, who they are
    (these end after its HANDSHAKE_IVL). A connection is named by its file descriptor, which the
    next one may have, too. Belongs to the thread that owns the socket.

    A message of many parts is kept by libzmq until its last one is there, and no option of it sets
    a limit to that. So who has sent more than ``room`` bytes since its last whole message is cut
    off; over TCP, for only there the system counts them. (Over ipc nobody but this user sends.)
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], socket: zmq.Socket[bytes], room: int
    ) -> None:
        """``socket`` is bound, and belongs to ``context``. ``room``: bytes; more than what may lie
        in the queues of libzmq and of the system while nobody reads."""
        self._socket, self._room = socket, room
        endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
        is_tcp, port = endpoint.startswith("tcp://"), endpoint.rpartition(":")[2]
        self._port = int(port) if is_tcp else None
        self._name = self._port if is_tcp else endpoint.removeprefix("ipc://")
        self._connected: set[int] = set()
        self._marks: dict[int, tuple[int, float]] = {}
        """Bytes received of each by its last whole message, and when that was seen."""
        self._look_at = 0.0
        self.counts: Counter[ConnectionOutcome] = Counter()
        """What became of connections, since the start."""
        address = f"inproc://peers-{id(self)}"
        socket.monitor(address, _EVENTS)
        self.monitor = context.socket(zmq.PAIR)
        """Readable when somebody came or went."""
        # At a limit libzmq's own thread would wait for ours, and all sending with it.
        self.monitor.setsockopt(zmq.RCVHWM, 0)
        self.monitor.connect(address)
        self.is_behind = False
        """Whether more happened than the last `read` took in."""

    @property
    def connected(self) -> int:
        """As of the last `read`; callable from any thread."""
        return len(self._connected)

    def __contains__(self, descriptor: object) -> bool:
        return descriptor in self._connected

    def read(self) -> frozenset[int]:
        """Take in who came and went, the descriptors of both; cut off who sends without end."""
        changed: set[int] = set()
        for _ in range(MAX_READS_A_POLL):
            self.is_behind = bool(self.monitor.poll(0))
            if not self.is_behind:
                break
            told = recv_monitor_message(self.monitor)
            event, descriptor = int(told["event"]), int(told["value"])
            if event in _TOLD:
                self.counts[_TOLD[event]] += 1
            if event == zmq.EVENT_ACCEPTED:
                self._connected.add(descriptor)
                changed.add(descriptor)
            elif event == zmq.EVENT_DISCONNECTED:
                self._connected.discard(descriptor)
                changed.add(descriptor)
        for descriptor in changed:
            self._marks.pop(descriptor, None)
        if self._port is not None and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + _LOOK_EVERY_S
            self._cut_the_endless()
        return frozenset(changed)

    def heard(self, frame: zmq.Frame) -> int | None:
        """A whole message came, of which this is a part; the descriptor that it came by, None for
        what libzmq said itself."""
        try:
            descriptor = int(frame.get(zmq.SRCFD))
        except zmq.ZMQError:
            return None
        self._marks.pop(descriptor, None)
        return descriptor

    def cut_off(self, descriptor: int) -> None:
        """End a connection; its end is told by the next `read`, or a later one."""
        with suppress(OSError), self._connection(descriptor) as connection:
            if self._is_ours(connection):
                connection.shutdown(sockets.SHUT_RDWR)

    def close(self) -> None:
        """Before the socket is closed; nothing, after."""
        if self._socket.closed:
            return
        self._socket.monitor(None, 0)
        self.monitor.close(linger=0)

    @staticmethod
    def _connection(descriptor: int) -> sockets.socket:
        return sockets.socket(fileno=os.dup(descriptor))

    def _is_ours(self, connection: sockets.socket) -> bool:
        """It may have ended since, and its descriptor be something else's by now."""
        name = connection.getsockname()
        return bool((name[1] if isinstance(name, tuple) else name) == self._name)

    def _cut_the_endless(self) -> None:
        now = time.monotonic()
        for descriptor in self._connected:
            with suppress(OSError), self._connection(descriptor) as connection:
                if not self._is_ours(connection):
                    continue
                info = connection.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, _RECEIVED.size)
                received = _RECEIVED.unpack(info)[0] if len(info) == _RECEIVED.size else 0
                mark, since = self._marks.setdefault(descriptor, (received, now))
                if received - mark > self._room + _IDLE_BYTES_S * (now - since):
                    self._marks.pop(descriptor)
                    self.counts["endless"] += 1
                    connection.shutdown(sockets.SHUT_RDWR)
