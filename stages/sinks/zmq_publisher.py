"""ZmqPublisher: results and state for anyone on this host who subscribes."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import zmq
from pydantic import Field

from kpi.emit import emit
from kpi.events import SourceState, SubscriberState
from stages.curve import Reach
from stages.errors import ConfigError, MaskstreamError
from stages.local_sockets import BindError, bound, endpoint_of
from stages.packets import HostPacket
from stages.wire import WireError, decode, encode_result, encode_state, topic
from stages.wire_envelope import Kind

STATE_EVERY_S = 1.0
LAST_STATE_AGAIN_S = (0.01, 0.02, 0.04, 0.08, 0.16)
MAX_INBOUND_BYTES = 1024
"""Subscribers send nothing but subscriptions."""
MAX_READS_A_POLL = 256
"""So that a flood of subscriptions cannot hold up the results."""


class PublishError(MaskstreamError):
    """The results cannot be offered."""


class ZmqPublisherConfig(Reach):
    """`results:` of the configuration."""

    endpoint: str = "tcp://127.0.0.1:5556"
    """tcp://ADDRESS:PORT on loopback, port 0 or * takes a free one; or ipc://PATH in a folder of
    mode 0700. Beyond this host with `curve` alone."""
    hwm: int = Field(default=4, ge=1, le=1000)
    """Messages kept for a slow subscriber; what comes after is lost to that one alone."""
    masks: Literal["bits", "none"] = "bits"
    linger_ms: int = Field(default=500, ge=0, le=10_000)
    """How long `close` may go on delivering."""
    expect_subscribers: int = Field(default=0, ge=0, le=1000)
    """That should be there; exported so that an alert can tell when they are not."""


@dataclass(frozen=True, slots=True)
class _State:
    state: SourceState
    epoch: int


class ZmqPublisher:
    """A `Sink`. It is made in one thread and then belongs to the egress thread alone: libzmq lets
    a socket move to another thread across a full memory fence, which starting a thread is.
    `announce` may be called, and `wants_masks` and `subscribers` read, from anywhere.

    Sending never blocks. libzmq drops a message for a subscriber whose queue is full and does not
    say so; the subscriber sees the gap in `seq`.
    """

    def __init__(
        self, config: ZmqPublisherConfig, source_id: str, class_names: Sequence[str]
    ) -> None:
        """Bind. Raises `ConfigError` for an endpoint beyond this host and for names that cannot
        be sent, `PublishError` where the endpoint cannot be bound."""
        self._config = config
        self._source_id = source_id
        self._class_names = tuple(class_names)
        self._announcing = threading.Lock()
        self._now = _State("connecting", 0)
        self._sent: _State | None = None
        self._state_due = 0.0
        self._seq = 0
        self._counts: dict[Kind, int] = {"result": 0, "state": 0}
        self.wants_masks = False
        self.packets_sent = 0
        """Result packets made and handed to libzmq, whether or not anyone received them."""
        self.bytes_sent = 0
        """Their bytes."""
        try:
            decode(self._encode_state())
        except WireError as error:
            raise ConfigError(
                f"results: source id or class names cannot be sent: {error}"
            ) from None
        self._context = zmq.Context()
        try:
            self._socket = _bind(self._context, config)
        except BaseException:
            self._context.term()
            raise
        self.endpoint = endpoint_of(self._socket)
        """What was bound, with the port in numbers."""

    @property
    def subscribers(self) -> int:
        """Subscriptions, as of the last `poll`, that this source's results match."""
        return self._counts["result"]

    def announce(self, state: SourceState, epoch: int) -> None:
        """Set the state that the next `poll` publishes; none follows `ended` or `failed`. `write`
        itself announces `streaming` where the state is `connecting`, and its packet's epoch."""
        with self._announcing:
            if self._now.state not in ("ended", "failed"):
                self._now = _State(state, epoch)

    def write(self, packet: HostPacket) -> None:
        """Publish one packet, with its masks where it carries them and the configuration does not
        say `none`. Raises `WireError` where its header outgrows what a reader accepts."""
        with self._announcing:
            state = self._now.state
            self._now = _State("streaming" if state == "connecting" else state, packet.info.epoch)
        encoding = self._config.masks if packet.masks is not None else "none"
        message = encode_result(packet, self._seq, self._class_names, encoding)
        self._seq += 1
        self._socket.send(message, zmq.NOBLOCK)
        self.packets_sent += 1
        self.bytes_sent += len(message)

    def poll(self) -> None:
        """Take in who came and went; send the state when it changed, to a late joiner, and every
        second."""
        joined = self._read_subscriptions()
        if joined or self._now != self._sent or time.monotonic() >= self._state_due:
            self._send_state()

    def close(self) -> None:
        """Say that the stream ended, deliver for `linger_ms` at most, release the endpoint.

        Takes 0.3 s longer while someone subscribes to the state: a queue that is full of the last
        results swallows the last state, so that one is said again as the queue drains.
        """
        if self._socket.closed:
            return
        self.announce("ended", self._now.epoch)
        self._send_state()
        for pause_s in LAST_STATE_AGAIN_S if self._counts["state"] else ():
            time.sleep(pause_s)
            self._send_state()
        self._socket.close()
        self._context.term()

    def _read_subscriptions(self) -> bool:
        """Whether someone subscribed to the state."""
        joined = False
        before = dict(self._counts)
        for _ in range(MAX_READS_A_POLL):
            try:
                message = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            change = {b"\x01": 1, b"\x00": -1}.get(message[:1], 0)
            for kind, count in self._counts.items():
                if topic(kind, self._source_id).startswith(message[1:]):
                    self._counts[kind] = max(0, count + change)
                    joined |= kind == "state" and change > 0
        self.wants_masks = self.subscribers > 0 and self._config.masks != "none"
        for kind, count in self._counts.items():
            if count != before[kind]:
                emit(SubscriberState(f"{kind}/{self._source_id}", count))
        return joined

    def _send_state(self) -> None:
        self._sent = self._now
        self._state_due = time.monotonic() + STATE_EVERY_S
        self._socket.send(self._encode_state(), zmq.NOBLOCK)

    def _encode_state(self) -> bytes:
        last_seq = self._seq - 1 if self._seq else None
        state, epoch = self._now.state, self._now.epoch
        return encode_state(self._source_id, epoch, state, last_seq, self._class_names)


def _bind(context: zmq.Context[zmq.Socket[bytes]], config: ZmqPublisherConfig) -> zmq.Socket[bytes]:
    options = {
        zmq.XPUB_VERBOSER: 1,  # every single coming and going, so that they can be counted
        zmq.SNDHWM: config.hwm,
        zmq.LINGER: config.linger_ms,
        zmq.MAXMSGSIZE: MAX_INBOUND_BYTES,
    }
    try:
        return bound(context, zmq.XPUB, "results", config.endpoint, options, config)
    except BindError as error:
        raise PublishError(str(error)) from error
