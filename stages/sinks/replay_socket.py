"""The socket of a replay: `ReplaySocket`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import zmq

from stages.curve import Reach
from stages.local_sockets import bound, endpoint_of
from stages.peers import Peers
from stages.sinks.announced import StateClock
from stages.sinks.subscriptions import Subscriptions
from stages.wire import encode_state
from stages.wire_replay import STATE, Replayed

_POLL_MS: Final = 50
_LAST_STATE_AGAIN_S: Final = (0.0, 0.02, 0.08, 0.2)
_LINGER_MS: Final = 500
_AGAIN_S: Final = 0.001
_MAX_INBOUND_BYTES: Final = 1024
_ROOM_BYTES: Final = 16 << 20
"""See `Peers`."""


class ReplaySocket:
    """Sends recorded results, and a state that says that they are a replay. One thread's."""

    def __init__(
        self,
        endpoint: str,
        reach: Reach,
        source_id: str,
        class_names: Sequence[str],
        *,
        run: int,
        hwm: int,
        patience_s: float,
    ) -> None:
        """Bind. ``run``: of the recorded publisher. ``hwm``: messages kept for a slow subscriber.
        ``patience_s``: how long a message waits for the slowest of them before it is lost to that
        one; 0: not at all. Raises `ConfigError` or `BindError`."""
        self._source_id, self._class_names = source_id, tuple(class_names)
        self._patience_s = patience_s
        self._epoch, self._last_seq, self._run = 0, -1, run
        self._clock = StateClock()
        self._context = zmq.Context()
        options = {
            zmq.XPUB_VERBOSER: 1,
            # For states, too: what drops for one pipe takes it from those that are looked at for
            # room, and the next result would be lost to it unseen.
            zmq.XPUB_NODROP: int(patience_s > 0),
            zmq.SNDHWM: hwm,
            zmq.LINGER: _LINGER_MS,
            zmq.MAXMSGSIZE: _MAX_INBOUND_BYTES,
        }
        try:
            self._socket = bound(self._context, zmq.XPUB, "--endpoint", endpoint, options, reach)
        except BaseException:
            self._context.term()
            raise
        self._peers = Peers(self._context, self._socket, _ROOM_BYTES)
        self._subscriptions = Subscriptions(self._socket, self._peers, source_id)
        self.endpoint = endpoint_of(self._socket)
        """What was bound, with the port in numbers."""

    @property
    def subscribers(self) -> int:
        """Subscriptions, as of the last `wait`, that the source's results match."""
        return self._subscriptions.count("result")

    def wait(self, until: float) -> None:
        """Look after subscribers, once at least and until a moment of the monotonic clock."""
        while True:
            left_ms = max(0, round((until - time.monotonic()) * 1000))
            self._socket.poll(min(left_ms, _POLL_MS))
            joined = self._subscriptions.read()
            if self._clock.is_due("state" in joined):
                self._say(STATE)
            if time.monotonic() >= until:
                return

    def send(self, item: Replayed, class_names: tuple[str, ...]) -> None:
        """Send one result; before it, what class ids mean where that has changed."""
        if class_names != self._class_names:
            self._class_names = class_names
            self._send_patiently(self._state(STATE))
        self._epoch, self._last_seq, self._run = item.epoch, item.seq, item.run
        self._send_patiently(item.message)

    def close(self) -> None:
        """Say that it ended, and release the endpoint; may be called again."""
        if self._socket.closed:
            return
        for pause_s in _LAST_STATE_AGAIN_S:  # a queue that is full swallows it
            time.sleep(pause_s)
            self._say("ended")
        self._peers.close()
        self._socket.close()
        self._context.term()

    def _send_patiently(self, message: bytes) -> None:
        deadline = time.monotonic() + self._patience_s
        while time.monotonic() < deadline:
            try:
                self._socket.send(message, zmq.NOBLOCK)
            except zmq.Again:
                self.wait(time.monotonic() + _AGAIN_S)
            else:
                return
        self._socket.setsockopt(zmq.XPUB_NODROP, 0)
        self._socket.send(message, zmq.NOBLOCK)
        self._socket.setsockopt(zmq.XPUB_NODROP, int(self._patience_s > 0))

    def _say(self, state: str) -> None:
        """Once, if there is room."""
        self._clock.said()
        with suppress(zmq.Again):
            self._socket.send(self._state(state), zmq.NOBLOCK)

    def _state(self, state: str) -> bytes:
        last_seq = self._last_seq if self._last_seq >= 0 else None
        return encode_state(
            self._source_id, self._epoch, state, last_seq, self._class_names, run=self._run
        )
