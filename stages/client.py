"""Subscriber: the receiving end, for any program with numpy and pyzmq."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from types import TracebackType

import zmq

from stages.curve_keys import ClientKeys
from stages.errors import ConfigError
from stages.wire import (
    MAX_MESSAGE_BYTES,
    Message,
    ResultMessage,
    StateMessage,
    decode,
    topic,
)
from stages.wire_envelope import Kind


class Subscriber:
    """One SUB socket that counts what it missed. Use it from one thread.

    It may be made before the publisher is there, and finds it again after a loss of connection.

    `gaps` and `lost` count holes in `seq` and the packets in them, from the first packet received
    on. A `seq` that falls back is a publisher that started afresh: counted in `restarts`, not as
    a loss.
    """

    def __init__(
        self,
        endpoint: str,
        source_id: str | None = None,
        *,
        topics: Sequence[Kind] = ("result", "state"),
        high_water_mark: int = 4,
        latest_only: bool = False,
        reconnect_ms: tuple[int, int] = (100, 5000),
        keys: ClientKeys | None = None,
    ) -> None:
        """`source_id` None takes every source of the endpoint.

        `high_water_mark`: messages kept here while nobody receives. `latest_only` keeps one, the
        newest (CONFLATE); a conflating socket takes a single topic, so use a second `Subscriber`
        for the state. `reconnect_ms`: the first and the longest pause between attempts. `keys`:
        for a publisher with CURVE.

        Raises `ConfigError` for an endpoint that is none, `ValueError` for `latest_only` with
        several topics.
        """
        if latest_only and len(topics) != 1:
            raise ValueError(f"latest_only takes one topic, got {tuple(topics)}")
        self.gaps = 0
        self.lost = 0
        self.received = 0
        self.restarts = 0
        self.states: dict[str, StateMessage] = {}
        """The last state of each source."""
        self._expected: dict[str, int] = {}
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        try:
            self._set_options(high_water_mark, latest_only, reconnect_ms)
            for kind in topics:
                every = f"{kind}/".encode()
                self._socket.subscribe(every if source_id is None else topic(kind, source_id))
            if keys is not None:
                keys.give(self._socket)
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise ConfigError(
                f"cannot connect to {endpoint!r}: {error.strerror} "
                "(expected tcp://HOST:PORT or ipc://PATH)"
            ) from error

    def receive(self, timeout_s: float | None = None) -> ResultMessage | None:
        """The next result, or None when none came in time; None as the time means for ever.

        States that come meanwhile go to `states`. Raises `WireError` for a message that cannot
        be read; the next call goes on with the one after it.
        """
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = deadline - time.monotonic()
            message = self.next_message(None if math.isinf(left_s) else max(0.0, left_s))
            if message is None or isinstance(message, ResultMessage):
                return message

    def next_message(self, timeout_s: float | None = None) -> Message | None:
        """The next message of any kind; times and errors as in `receive`."""
        wait_ms = None if timeout_s is None else math.ceil(timeout_s * 1000)
        if not self._socket.poll(wait_ms):
            return None
        message = decode(self._socket.recv(zmq.NOBLOCK))
        if isinstance(message, ResultMessage):
            self._count_result(message)
        else:
            self._count_state(message)
        return message

    def close(self) -> None:
        self._socket.close(linger=0)
        self._context.term()

    def __iter__(self) -> Iterator[ResultMessage]:
        """Results, waiting for each for ever."""
        while (message := self.receive()) is not None:
            yield message

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _count_result(self, message: ResultMessage) -> None:
        expected = self._expected.get(message.source_id, message.seq)
        if message.seq < expected:
            self.restarts += 1
        self._count_gap(message.seq - expected)
        self._expected[message.source_id] = message.seq + 1
        self.received += 1

    def _count_state(self, message: StateMessage) -> None:
        """A state follows the results made before it: those not here by now are lost."""
        self.states[message.source_id] = message
        expected = self._expected.get(message.source_id)
        if expected is not None and message.last_seq is not None:
            self._count_gap(message.last_seq + 1 - expected)
            self._expected[message.source_id] = max(expected, message.last_seq + 1)

    def _count_gap(self, missing: int) -> None:
        if missing > 0:
            self.gaps += 1
            self.lost += missing

    def _set_options(
        self, high_water_mark: int, latest_only: bool, reconnect_ms: tuple[int, int]
    ) -> None:
        options = {
            zmq.RCVHWM: high_water_mark,
            zmq.CONFLATE: int(latest_only),
            zmq.LINGER: 0,
            zmq.MAXMSGSIZE: MAX_MESSAGE_BYTES,
            zmq.RECONNECT_IVL: reconnect_ms[0],
            zmq.RECONNECT_IVL_MAX: reconnect_ms[1],
            zmq.HEARTBEAT_IVL: 1000,
            zmq.HEARTBEAT_TIMEOUT: 3000,
            zmq.HEARTBEAT_TTL: 3000,
            zmq.HANDSHAKE_IVL: 5000,
        }
        for option, value in options.items():
            self._socket.setsockopt(option, value)
