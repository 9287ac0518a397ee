"""Frames that another process sends over ZMQ, as a source: `ZmqFrameSource`."""

from __future__ import annotations

import math
import threading
import time
from typing import Final, Literal

import zmq

from stages.base import Buffer
from stages.curve import Reach
from stages.errors import SourceError
from stages.local_sockets import BindError, bound, endpoint_of
from stages.loopback import is_local
from stages.peers import Peers
from stages.sources.feed import Arrival
from stages.sources.lag import LagWatch
from stages.sources.limits import SourceId
from stages.sources.live import LiveSource
from stages.sources.live_section import LiveSection, Seconds
from stages.sources.region import placed, window_in
from stages.sources.troubles import Troubles
from stages.wire_envelope import topic
from stages.wire_frames import MAX_FRAME_BYTES, MAX_SEQ, FrameMessage, decode_frame
from stages.wire_messages import WireError

TAKEOVER_S: Final = 1.0
"""A sender of whom no picture was taken for so long may be followed by another."""
_QUEUED: Final = 4  # messages that libzmq keeps while nobody reads
_ROOM_BYTES: Final = (_QUEUED + 2) * MAX_FRAME_BYTES
"""See `Peers`."""
_CLOSE_WAIT_S: Final = 0.3


class ZmqFramesConfig(LiveSection, Reach):
    """Frames from any process of this host; see `stages/frame_sender.py` and docs/wire.md."""

    kind: Literal["zmq"] = "zmq"
    source_id: SourceId = "zmq"
    endpoint: str = "tcp://127.0.0.1:5558"
    """Where the run listens: tcp://ADDRESS:PORT on loopback, port 0 or * takes a free one; or
    ipc://PATH in a folder of mode 0700. Beyond this host with `curve` alone."""
    reconnect_after_s: Seconds | None = None
    """A sender that pauses has not gone: there is no connection to make anew. With a number, the
    first picture after so long a pause begins an epoch."""
    connect_within_s: Seconds | None = None


class FrameInbox:
    """The bound socket, a `Feed` that lasts: dialling again goes on with it.

    What cannot be read is skipped, counted and told (`troubles`: `refused`). One sender is heard
    at a time: who speaks first, until for `TAKEOVER_S` no picture of it was taken; meanwhile
    others of the same id are skipped (`other sender`). Another sender than before begins a new
    epoch. Of one sender, pictures that are missing are told (`lost`), and one that comes twice, or
    after a later one, is skipped (`out of order`), unless it began anew with the same session,
    which after as long is taken for another sender.

    A monotonic time of capture is believed of this host's processes, so where nobody else may
    connect; else a picture counts as captured when it arrived, less how late that was by its Unix
    time (see `LagWatch`).
    """

    def __init__(self, config: ZmqFramesConfig) -> None:
        """Bind. Raises `ConfigError` for an endpoint beyond this host, `SourceError` for one that
        cannot be bound."""
        self._config = config
        self.troubles = Troubles(config.source_id)
        self._follows = _Following()
        self._reading = threading.Lock()
        self._over = threading.Event()
        self._context = zmq.Context()
        options = {zmq.RCVHWM: _QUEUED, zmq.MAXMSGSIZE: MAX_FRAME_BYTES, zmq.LINGER: 0}
        where = f"source {config.source_id}"
        try:
            self._socket = bound(self._context, zmq.SUB, where, config.endpoint, options, config)
        except BindError as error:
            self._context.term()
            raise SourceError(str(error)) from error
        except BaseException:
            self._context.term()
            raise
        self._peers = Peers(self._context, self._socket, _ROOM_BYTES)
        self._socket.subscribe(topic("frame", config.source_id))
        self.endpoint = endpoint_of(self._socket)
        """What was bound, with the port in numbers."""
        self._is_local = is_local(self.endpoint)

    def dial(self) -> FrameInbox:
        """The same: nobody is called, senders come."""
        return self

    def read(self, buffer: Buffer, timeout_s: float) -> Arrival | None:
        """See `Feed.read`; also None where what came was skipped."""
        with self._reading:
            if self._over.is_set():
                raise EOFError
            self._peers.read()
            if not self._socket.poll(math.ceil(timeout_s * 1000)):
                return None
            message = self._receive()
            frame = None if message is None else self._checked(message)
            return None if frame is None else self._arrival(frame, buffer)

    def close(self) -> None:
        """Nothing, while the source is open: the socket stays bound for the next sender."""
        if self._over.is_set():
            self.release()

    def release(self) -> None:
        """Unbind, at the latest when the `read` of another thread ends and it calls `close`; may
        be called more than once."""
        self._over.set()
        if self._reading.acquire(timeout=_CLOSE_WAIT_S):
            try:
                self._peers.close()
                self._socket.close()
                self._context.term()
            finally:
                self._reading.release()

    def _receive(self) -> memoryview | None:
        """One message; of several parts none is kept."""
        first, extra = self._socket.recv(zmq.NOBLOCK, copy=False), 0
        while self._socket.getsockopt(zmq.RCVMORE):
            self._socket.recv(zmq.NOBLOCK, copy=False)
            extra += 1
        self._peers.heard(first)
        if extra:
            self.troubles.add("refused", f"a message of {extra + 1} parts, expected one")
            return None
        return first.buffer

    def _checked(self, message: memoryview) -> FrameMessage | None:
        try:
            frame = decode_frame(message)
        except WireError as error:
            self.troubles.add("refused", str(error))
            return None
        verdict = self._follows.judge(frame, time.monotonic())
        if verdict == "other sender":
            self.troubles.add(verdict, "another sender uses the id of one that is heard; skipped")
        elif verdict == "out of order":
            self.troubles.add(verdict, f"picture {frame.seq} came twice or too late; skipped")
        elif self._follows.missing:
            missing = self._follows.missing
            self.troubles.add("lost", f"{missing} pictures before {frame.seq} are missing", missing)
        return frame if verdict == "take" else None

    def _arrival(self, frame: FrameMessage, buffer: Buffer) -> Arrival:
        shape, now_ns = frame.pixels.shape, time.monotonic_ns()
        window = window_in(self._config.roi, (shape[0], shape[1]), self._config.source_id)
        pixels = buffer((*window.size_hw, *shape[2:]))
        pixels[...] = window.cut(frame.pixels)
        return Arrival(
            pixels=pixels,
            captured_ns=self._captured_ns(frame, now_ns),
            captured_unix_ns=frame.captured_unix_ns,
            spacing_mm=frame.spacing_mm,
            pose=frame.pose,
            boxes=frame.boxes,
            sender_ns=self._follows.clock,
            **placed(window),
        )

    def _captured_ns(self, frame: FrameMessage, now_ns: int) -> int:
        if self._is_local:
            return now_ns if frame.captured_ns is None else min(frame.captured_ns, now_ns)
        unix_ns = frame.captured_unix_ns
        return now_ns if unix_ns is None else now_ns - self._follows.lag.lag_ns(now_ns, unix_ns)


class _Following:
    """Which sender is heard, how late, and what of its pictures is missing."""

    def __init__(self) -> None:
        self.missing = 0
        """Pictures between the last one taken and the one before it."""
        self.clock = 0
        """Rises with each picture, and falls back when another sender takes over."""
        self.lag = LagWatch()
        """Of the sender's pictures."""
        self._session: int | None = None
        self._expected = 0
        self._taken_s = 0.0
        self._takeovers = -1

    def judge(
        self, frame: FrameMessage, now_s: float
    ) -> Literal["take", "other sender", "out of order"]:
        """Whether a picture that came at ``now_s`` is one to take."""
        another = frame.session != self._session
        if another or frame.seq < self._expected:
            if self._session is not None and now_s - self._taken_s < TAKEOVER_S:
                return "other sender" if another else "out of order"
            self._session, self._expected, self.lag = frame.session, frame.seq, LagWatch()
            self._takeovers += 1
        self._taken_s = now_s
        self.missing = frame.seq - self._expected
        self._expected = frame.seq + 1
        self.clock = frame.seq - 2 * MAX_SEQ * self._takeovers
        return "take"


class ZmqFrameSource(LiveSource):
    """Pictures that a `FrameSender`, or whoever speaks as it does, sends to `endpoint`.

    Raises `ConfigError` for an endpoint beyond this host, `SourceError` for one that cannot be
    bound or a region that the first picture does not have.
    """

    def __init__(self, config: ZmqFramesConfig) -> None:
        self.inbox = FrameInbox(config)
        self.troubles = self.inbox.troubles
        self.endpoint = self.inbox.endpoint
        super().__init__(config, self.inbox.dial)

    def close(self) -> None:
        """See `stages.base.Source.close`."""
        super().close()
        self.inbox.release()
