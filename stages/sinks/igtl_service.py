"""The threads behind an OpenIGTLink server of results: `Service`."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Final

from kpi.edge_events import SubscriberState
from kpi.emit import emit
from kpi.events import ErrorRaised
from stages.packets import HostPacket
from stages.sinks.announced import Announced
from stages.sinks.igtl_clients import Clients
from stages.sinks.igtl_encode import Envelope, Version
from stages.sinks.igtl_result import ResultMessages
from stages.sinks.igtl_states import Told, told
from stages.sinks.newest import Newest
from stages.sources.troubles import Troubles

STATUS_EVERY_S: Final = 1.0
_LOOK_S: Final = 0.1  # at what may have changed by itself
_TOLD_EVERY_S: Final = 0.25  # how many are connected
_GOODBYE_S: Final = 0.3


class Service:
    """One thread makes messages of packets, one sends them and everything else.

    `packets`, `wake` and `clients` are for any thread, `troubles` is the sending one's.
    """

    def __init__(
        self,
        door: socket.socket,
        room: int,
        source_id: str,
        messages: ResultMessages,
        announced: Announced,
        status: tuple[str, Version],
    ) -> None:
        """``room``: how many are let in. ``status``: device name and version of STATUS."""
        self.packets: Newest[HostPacket] = Newest()
        self.troubles = Troubles(source_id)
        self.messages = messages
        self._topic = f"openigtlink/{source_id}"
        self._status_device, self._version = status
        self._announced = announced
        self._made: Newest[bytes | Exception] = Newest()
        self._clients = Clients(door, room, self.troubles)
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self._told_clients, self._told_clients_s = 0, 0.0

    @property
    def clients(self) -> int:
        """How many are connected."""
        return len(self._clients)

    @property
    def unsent(self) -> int:
        """Results that were replaced by newer ones before they could be sent to anyone."""
        return self.packets.replaced + self._made.replaced

    def start(self) -> None:
        """Begin, once."""
        if not self._threads and not self._closing.is_set():
            self._threads = [_thread("make", self._make), _thread("send", self._send)]

    def wake(self) -> None:
        """Something changed."""
        self._clients.wake()

    def close(self) -> None:
        """Send what waits, for 0.3 s at most, and end."""
        self.packets.close()
        for thread in self._threads[:1]:
            thread.join(_GOODBYE_S)
        self._closing.set()
        self.wake()
        for thread in self._threads[1:]:
            thread.join(2 * _GOODBYE_S)

    def _make(self) -> None:
        while (packet := self.packets.take(wait=True)) is not None:
            made: bytes | Exception
            try:
                made = self.messages.of(packet)
            except Exception as error:
                made = error
            self._made.put(made)
            self.wake()

    def _send(self) -> None:
        try:
            self._serve()
        except Exception as error:
            emit(ErrorRaised("openigtlink_out", f"{type(error).__name__}: {error}"))
        finally:
            self._clients.close(time.monotonic() + _GOODBYE_S)
            self._tell_clients()

    def _serve(self) -> None:
        said: Told | None = None
        due_s = 0.0
        while not self._closing.is_set():
            came = self._clients.wait(_LOOK_S)
            self._send_result()
            now, now_s = told(self._announced), time.monotonic()
            if now != said or now_s >= due_s:
                said, due_s = now, now_s + STATUS_EVERY_S
                self._clients.offer("status", self._status(now))
            elif came:
                self._clients.offer("status", self._status(now), came)
            if now_s - self._told_clients_s >= _TOLD_EVERY_S:
                self._tell_clients()
        self._send_result()
        self._clients.offer("status", self._status(told(self._announced)))

    def _send_result(self) -> None:
        made = self._made.take(wait=False)
        if isinstance(made, ValueError | OverflowError | struct.error):
            self.troubles.add("left out", f"a result cannot be sent over OpenIGTLink: {made}")
        elif isinstance(made, Exception):
            raise made
        elif made is not None:
            self._clients.offer("result", made)

    def _status(self, state: Told) -> bytes:
        envelope = Envelope(self._version, time.time_ns())
        return envelope.around("STATUS", self._status_device, state.content)

    def _tell_clients(self) -> None:
        self._told_clients_s = time.monotonic()
        if self.clients != self._told_clients:
            self._told_clients = self.clients
            emit(SubscriberState(self._topic, self.clients))


def _thread(name: str, run: Callable[[], None]) -> threading.Thread:
    """Started, in a copy of the context."""
    made = threading.Thread(
        target=copy_context().run, args=(run,), name=f"openigtlink-{name}", daemon=True
    )
    made.start()
    return made
