"""The socket of the control channel: `Door`. What comes in, bounded; what goes out, unwaited."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import zmq

from kpi.edge_events import ConnectionOutcome
from pipeline.control.answers import Answer
from pipeline.control.commands import MAX_COMMAND_BYTES
from pipeline.control.config import ControlConfig
from pipeline.control.memory import Route
from stages.errors import ControlError
from stages.local_sockets import BindError, bound, endpoint_of
from stages.peers import Peers

_OPTIONS: Final = {
    zmq.MAXMSGSIZE: MAX_COMMAND_BYTES,  # who sends more is cut off
    zmq.RCVHWM: 16,
    zmq.SNDHWM: 64,  # what a controller that never reads does not take is dropped
    zmq.LINGER: 200,
}
ROOM_BYTES: Final = 16 << 20
"""See `Peers`."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One message of a controller."""

    peer: bytes
    """Its connection."""
    user: str
    """The name of its key; empty without CURVE."""
    route: Route
    body: bytes | None
    """None: it had not one part."""

    @property
    def asker(self) -> str:
        """Whose it is: a key's, without CURVE a connection's."""
        return self.user or self.peer.hex()


class Door:
    """A bound ROUTER socket. Made in one thread, it then belongs to another."""

    def __init__(self, config: ControlConfig) -> None:
        """Bind. Raises `ConfigError` for an endpoint beyond this host and for keys that are none,
        `ControlError` for one that cannot be bound."""
        self._context = zmq.Context()
        try:
            self.socket = bound(
                self._context, zmq.ROUTER, "control", config.endpoint, _OPTIONS, config
            )
        except BindError as error:
            self._context.term()
            raise ControlError(str(error)) from error
        except BaseException:
            self._context.term()
            raise
        self.endpoint = endpoint_of(self.socket)
        """What was bound, with the port in numbers."""
        self._knows_users = config.curve is not None
        self._peers = Peers(self._context, self.socket, ROOM_BYTES)
        self.monitor = self._peers.monitor

    def receive(self) -> Letter | None:
        """The next message; None where none waits."""
        try:
            frames = self.socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        peer, rest = frames[0].bytes, frames[1:]
        route: Route = (peer,)
        if len(rest) == 2 and len(rest[0]) == 0:  # a REQ socket's delimiter
            route, rest = (peer, b""), rest[1:]
        body = rest[0].bytes if len(rest) == 1 else None
        self._peers.heard(frames[-1])
        return Letter(peer, self._user(frames[-1]), route, body)

    def _user(self, frame: zmq.Frame) -> str:
        if not self._knows_users:  # without CURVE it says what the peer likes
            return ""
        try:
            return str(frame.get("User-Id"))
        except zmq.ZMQError:
            return ""

    def send(self, route: Route, answer: Answer) -> None:
        """Never waits: an answer for who is gone, or does not read, is dropped."""
        body = answer.model_dump_json(exclude_none=True).encode()
        with suppress(zmq.Again):
            self.socket.send_multipart([*route, body], zmq.NOBLOCK)

    def connections(self) -> Counter[ConnectionOutcome]:
        """Take in what became of connections; since the start."""
        self._peers.read()
        return self._peers.counts

    def close(self) -> None:
        self._peers.close()
        self.socket.close()
        self._context.term()
