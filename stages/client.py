"""Subscriber: the receiving end, for any program with numpy and pyzmq."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import zmq

from stages.closing import Closing
from stages.connecting import connect
from stages.curve_keys import ClientKeys
from stages.errors import ConfigError, MaskstreamError
from stages.losses import Losses
from stages.wire import (
    MAX_MESSAGE_BYTES,
    Message,
    ResultMessage,
    StateMessage,
    decode,
    topic,
)
from stages.wire_envelope import Kind

SILENT_AFTER_S: Final = 2.0
"""A publisher says its state every second; see docs/wire.md."""


class StaleError(MaskstreamError):
    """What is known of the stream is too old to act on; the next call may go on."""

    def __init__(self, reason: str, message: ResultMessage | None = None) -> None:
        super().__init__(reason)
        self.message = message
        """The result that came too late; None where none came."""


class Subscriber(Losses, Closing):
    """A subscription that counts what it missed. Use it from one thread.

    It may be made before the publisher is there, and finds it again after a loss of connection.

    `received`, `gaps`, `lost` and `restarts` count, see `Losses`. With `latest_only` what a newer
    result replaced counts as lost, too.
    """

    def __init__(
        self,
        endpoint: str,
        source_id: str | None = None,
        *,
        topics: Sequence[Kind] = ("result", "state"),
        high_water_mark: int = 4,
        latest_only: bool = False,
        stale_after_s: float | None = None,
        reconnect_ms: tuple[int, int] = (100, 5000),
        keys: ClientKeys | None = None,
    ) -> None:
        """`source_id` None takes every source of the endpoint.

        `high_water_mark`: messages kept here while nobody receives. `latest_only` keeps one result,
        the newest (CONFLATE); since a conflating socket takes a single topic, the state comes by a
        second one. `stale_after_s`: see `receive`. `reconnect_ms`: the first and the longest pause
        between attempts. `keys`: for a publisher with CURVE.

        Raises `ConfigError` for an endpoint that is none.
        """
        super().__init__()
        self.states: dict[str, StateMessage] = {}
        """The last state of each source."""
        self._heard_s: dict[str, float] = {}
        self._stale_after_s = stale_after_s
        self._lively = time.monotonic()
        self._one_socket = not latest_only
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        self._sockets: list[zmq.Socket[bytes]] = []
        try:
            for kinds in [(kind,) for kind in topics] if latest_only else [tuple(topics)]:
                socket = self._subscribed(kinds, source_id)
                conflate = latest_only and kinds in (("result",), ("frame",))
                connect(socket, endpoint, _options(high_water_mark, conflate, reconnect_ms), keys)
                self._poller.register(socket, zmq.POLLIN)
        except ConfigError:
            self.close()
            raise

    def _subscribed(self, kinds: Sequence[Kind], source_id: str | None) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.SUB)
        self._sockets.append(socket)
        for kind in kinds:
            every = f"{kind}/".encode()
            socket.subscribe(every if source_id is None else topic(kind, source_id))
        return socket

    def receive(self, timeout_s: float | None = None) -> ResultMessage | None:
        """The next result, or None when none came in time; None as the time means for ever.

        States that come meanwhile go to `states`; other kinds are passed over. Raises `WireError`
        for a message that cannot be read; the next call goes on with the one after it.

        With `stale_after_s`, raises `StaleError` instead of returning a result that is older than
        that (by the publisher's Unix clock against this host's), that itself says that it is
        stale, or whose epoch is over by what the state says; and where for so long no live result
        came.
        """
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while True:
            until = deadline
            if self._stale_after_s is not None:
                until = min(deadline, self._lively + self._stale_after_s)
            left_s = until - time.monotonic()
            message = self.next_message(None if math.isinf(left_s) else max(0.0, left_s))
            if isinstance(message, ResultMessage):
                return self._live(message)
            if message is None and until < deadline:
                raise self._silence()
            if message is None:
                return None

    def next_message(self, timeout_s: float | None = None) -> Message | None:
        """The next message of any kind, however old; raises `WireError` as `receive` does."""
        wait_ms = None if timeout_s is None else math.ceil(timeout_s * 1000)
        ready = dict(self._poller.poll(wait_ms))
        for socket in reversed(self._sockets):  # the state, where it has its own, before results
            if socket in ready:
                return self._counted(decode(socket.recv(zmq.NOBLOCK)))
        return None

    @property
    def told(self) -> str:
        """What each source said last of its state; or that it is silent, where nothing came of it
        for 2 s and it has not ended. Empty where nothing ever came."""
        return ", ".join(f"{each} is {self._condition(each)}" for each in sorted(self._heard_s))

    def _condition(self, source_id: str) -> str:
        state = self.states.get(source_id)
        silent_s = time.monotonic() - self._heard_s[source_id]
        is_over = state is not None and state.state in ("ended", "failed")
        if silent_s > SILENT_AFTER_S and not is_over:
            return f"silent (nothing came for {silent_s:.0f} s)"
        return "of unknown state" if state is None else state.state

    def _counted(self, message: Message) -> Message:
        self._heard_s[message.source_id] = time.monotonic()
        if isinstance(message, ResultMessage):
            self._begins(message)
            self._count_result(message)
        elif isinstance(message, StateMessage):
            if self._one_socket:
                self._begins(message)
            self.states[message.source_id] = message
            if self._one_socket:
                self._count_state(message)
        return message

    def _live(self, message: ResultMessage) -> ResultMessage:
        if self._stale_after_s is None:
            return message
        age_s = message.age_ns(time.time_ns()) / 1e9
        state = self.states.get(message.source_id)
        is_over = state is not None and state.run == message.run and message.epoch < state.epoch
        if message.stale or is_over or age_s > self._stale_after_s:
            why = ", and says so" if message.stale else ""
            why += f", of epoch {message.epoch}, which is over" if is_over else ""
            why = ", and a replay" if message.replay else why
            raise StaleError(
                f"the result of frame {message.frame_id} is {age_s:.3f} s old{why} "
                f"(expected at most {self._stale_after_s:g} s)",
                message,
            )
        self._lively = time.monotonic()
        return message

    def _silence(self) -> StaleError:
        self._lively = time.monotonic()
        told = self.told or "no publisher answered"
        return StaleError(f"no live result for {self._stale_after_s:g} s: {told}")

    def close(self) -> None:
        for socket in self._sockets:
            socket.close(linger=0)
        self._context.term()

    def __iter__(self) -> Iterator[ResultMessage]:
        """Results, waiting for each for ever."""
        while (message := self.receive()) is not None:
            yield message


def _options(
    high_water_mark: int, conflate: bool, reconnect_ms: tuple[int, int]
) -> Mapping[zmq.SocketOption, int]:
    return {
        zmq.RCVHWM: high_water_mark,
        zmq.CONFLATE: int(conflate),
        zmq.LINGER: 0,
        zmq.MAXMSGSIZE: MAX_MESSAGE_BYTES,
        zmq.RECONNECT_IVL: reconnect_ms[0],
        zmq.RECONNECT_IVL_MAX: reconnect_ms[1],
        # No heartbeats: where a connecting socket's queue is full they end in an assertion of
        # libzmq 4.3.5 (its issue 3937). The system's own find a dead peer in about 10 s.
        zmq.TCP_KEEPALIVE: 1,
        zmq.TCP_KEEPALIVE_IDLE: 4,
        zmq.TCP_KEEPALIVE_INTVL: 2,
        zmq.TCP_KEEPALIVE_CNT: 3,
        zmq.HANDSHAKE_IVL: 5000,
    }
