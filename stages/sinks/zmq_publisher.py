"""ZmqPublisher: results and state for anyone on this host who subscribes."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence

import zmq
from pydantic import Field

from kpi.edge_events import SubscriberOutcome
from kpi.events import SourceState
from stages.curve import Reach
from stages.errors import ConfigError, MaskstreamError
from stages.local_sockets import BindError, bound, endpoint_of
from stages.packets import HostPacket
from stages.patience import patient_threads
from stages.peers import Peers
from stages.sinks.announced import Announced, State, StateClock
from stages.sinks.outbox import Outbox, Sent
from stages.sinks.subscriptions import KINDS, Subscriptions
from stages.wire import Encoding, WireError, decode, encode_result, encode_state
from stages.wire_envelope import Kind

LAST_STATE_AGAIN_S = (0.01, 0.02, 0.04, 0.08, 0.16)
MAX_INBOUND_BYTES = 1024
"""Subscribers send nothing but subscriptions."""
LATE_AFTER_S = 1.5
"""Without a result; within the two seconds that docs/wire.md promises."""
ROOM_BYTES = 16 << 20
"""See `Peers`."""


class PublishError(MaskstreamError):
    """The results cannot be offered."""


class ZmqPublisherConfig(Reach):
    """`results:` of the configuration."""

    endpoint: str = "tcp://127.0.0.1:5556"
    """tcp://ADDRESS:PORT on loopback, port 0 or * takes a free one; or ipc://PATH in a folder of
    mode 0700. Beyond this host with `curve` alone."""
    hwm: int = Field(default=4, ge=1, le=1000)
    """Messages kept for a slow subscriber; what comes after is lost to that one alone."""
    masks: Encoding = "bits"
    """How masks are sent: `bits` (1 a pixel, cut to the object), `rle` (run lengths, COCO's),
    `logits` (low-resolution float32 instead of masks), or `none`."""
    stale_after_s: float = Field(default=1.0, gt=0, le=60)
    """A result that is older when it is published says that it is stale; and where none comes for
    so long, 1.5 s at least, while pictures do, the state says so."""
    linger_ms: int = Field(default=500, ge=0, le=10_000)
    """How long `close` may go on delivering."""
    expect_subscribers: int = Field(default=0, ge=0, le=1000)
    """That should be there; exported so that an alert can tell when they are not."""


class ZmqPublisher:
    """A `Sink`. It is made in one thread and then belongs to the egress thread alone: libzmq lets
    a socket move to another thread across a full memory fence, which starting a thread is.
    `announce` may be called, and `wants_masks` and `subscribers` read, from anywhere.

    Sending never blocks. libzmq drops a message for a subscriber whose queue is full and does not
    say so; the subscriber sees the gap in `seq`.
    """

    def __init__(
        self,
        config: ZmqPublisherConfig,
        source_id: str,
        class_names: Sequence[str],
        *,
        mask_threshold: float = 0.0,
    ) -> None:
        """Bind. `mask_threshold`: the logit above which a pixel is foreground. Raises `ConfigError`
        for an endpoint beyond this host and for names that cannot be sent, `PublishError` where
        the endpoint cannot be bound."""
        self._config = config
        self._source_id = source_id
        self._class_names = class_names
        self._mask_threshold = mask_threshold
        stale_after_s = config.stale_after_s
        self._announced = Announced(stale_after_s, max(LATE_AFTER_S, stale_after_s))
        self._sent: State | None = None
        self._told_names: tuple[str, ...] = ()
        self._clock = StateClock()
        self._seq = 0
        self._run = secrets.randbits(52)
        self._outbox = Outbox()
        self.wants_masks = False
        self.wants_logits = False
        self.sent: dict[Kind, Sent] = {kind: Sent() for kind in KINDS}
        """What went out, by kind; read by any thread."""
        self.copied_to: Callable[[Kind, bytes], None] | None = None
        """Given every message as it goes out."""
        try:
            decode(self._encode_state(self._announced.now))
        except WireError as error:
            raise ConfigError(
                f"results: source id or class names cannot be sent: {error}"
            ) from None
        self._context = zmq.Context()
        try:
            with patient_threads():
                self._socket = _bind(self._context, config)
        except BaseException:
            self._context.term()
            raise
        self._peers = Peers(self._context, self._socket, ROOM_BYTES)
        self._subscriptions = Subscriptions(self._socket, self._peers, source_id)
        self.endpoint = endpoint_of(self._socket)
        """What was bound, with the port in numbers."""

    @property
    def subscribers(self) -> int:
        """Connections, as of the last `poll`, that subscribe to this source's results."""
        return self._subscriptions.count("result")

    @property
    def peers(self) -> int:
        """Connections, as of the last `poll`."""
        return self._peers.connected

    @property
    def heard(self) -> Counter[SubscriberOutcome]:
        """Connections and messages by how they ended, since the start; for the thread that calls
        `poll`."""
        found = self._subscriptions.counts.copy()
        for became, connections in self._peers.counts.items():
            found[became] = connections
        return found

    def wants(self, kind: Kind) -> bool:
        """Whether, as of the last `poll`, somebody subscribes to this kind of topic."""
        return self._subscriptions.count(kind) > 0

    def offer(self, kind: Kind, message: bytes) -> None:
        """Have the next `poll` send a message of kind `kpi` or `frame`; from any thread. Where too
        many wait, the oldest is let go."""
        self._outbox.put(kind, message)

    def announce(self, state: SourceState, epoch: int) -> None:
        """Set the state that the next `poll` publishes; none follows `ended` or `failed`. `write`
        itself announces `streaming` where the state is `connecting`, and its packet's epoch."""
        self._announced.set(state, epoch)

    def write(self, packet: HostPacket) -> None:
        """Publish one packet, with its masks where it carries them and the configuration does not
        say `none`. It says that it is stale where it is too old, or of an epoch before the one last
        announced. Raises `WireError` where its header outgrows what a reader accepts."""
        message = encode_result(
            packet,
            self._seq,
            self._class_names,
            self._encoding(packet),
            threshold=self._mask_threshold,
            run=self._run,
            stale=self._announced.result(packet.info),
        )
        self._seq += 1
        self._send("result", message)

    def poll(self) -> None:
        """Take in who came and went; send the state when it, or what class ids mean, changed, every
        second, and to late joiners, four times a second at most."""
        joined = self._subscriptions.read()
        listened, masks = self.wants("result"), self._config.masks
        self.wants_masks = listened and masks in ("bits", "rle")
        self.wants_logits = listened and masks == "logits"
        new = self._state() != self._sent or tuple(self._class_names) != self._told_names
        if self._clock.is_due("state" in joined) or new:
            self._send_state()
        for kind, message in self._outbox.take():
            self._send(kind, message)

    def close(self) -> None:
        """Say that the stream ended, deliver for `linger_ms` at most, release the endpoint.

        Takes 0.3 s longer while someone subscribes to the state: a queue that is full of the last
        results swallows the last state, so that one is said again as the queue drains.
        """
        if self._socket.closed:
            return
        self.announce("ended", self._announced.now.epoch)
        self._send_state()
        for pause_s in LAST_STATE_AGAIN_S if self.wants("state") else ():
            time.sleep(pause_s)
            self._send_state()
        self._peers.close()
        self._socket.close()
        self._context.term()

    def _encoding(self, packet: HostPacket) -> Encoding:
        """What is configured, where the packet carries what it takes."""
        masks = self._config.masks
        there = packet.logits if masks == "logits" else packet.masks
        return masks if there is not None else "none"

    def _send(self, kind: Kind, message: bytes) -> None:
        self._socket.send(message, zmq.NOBLOCK)
        self.sent[kind].add(len(message))
        if self.copied_to is not None:
            self.copied_to(kind, message)

    def _send_state(self) -> None:
        self._sent, self._told_names = self._state(), tuple(self._class_names)
        self._clock.said()
        self._send("state", self._encode_state(self._sent))

    def _state(self) -> State:
        """As it is sent: a stream whose frames are stuck in the run is stale, too."""
        now = self._announced.now
        return State("stale", now.epoch) if self._announced.stuck else now

    def _encode_state(self, now: State) -> bytes:
        last_seq = self._seq - 1 if self._seq else None
        return encode_state(
            self._source_id,
            now.epoch,
            now.state,
            last_seq,
            tuple(self._class_names),
            run=self._run,
        )


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
