"""All receivers of OpenIGTLink messages, and the door that they come in by: `Clients`."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from stages.sinks.igtl_client import Client, GivenUpError, GoneError, What
from stages.sources.troubles import Troubles

_CROWD: Final = 64  # let in or turned away at a time
_PAUSE_S: Final = 0.05


class Clients:
    """Waits for all of them at once; used by one thread, which `wake` rouses from any other.

    Troubles are counted: `missed` (results that a slow receiver did not get), `turned away` (more
    came than there is room for), `given up` (it took nothing, or sent a flood).
    """

    def __init__(self, door: socket.socket, room: int, troubles: Troubles) -> None:
        self._door = door
        self._room = room
        self._troubles = troubles
        self._all: list[Client] = []
        self._selector = selectors.DefaultSelector()
        self._bell, self._ear = socket.socketpair()
        for each in (door, self._bell, self._ear):
            each.setblocking(False)
        self._selector.register(door, selectors.EVENT_READ)
        self._selector.register(self._ear, selectors.EVENT_READ)

    def __len__(self) -> int:
        return len(self._all)

    def wake(self) -> None:
        """End a `wait` early; callable from any thread."""
        with suppress(OSError):  # full: it rings already; closed: nobody waits
            self._bell.send(b"\0")

    def wait(self, timeout_s: float) -> list[Client]:
        """Send, listen, and let in for at most that long or until `wake`; who came meanwhile."""
        came: list[Client] = []
        for key, events in self._selector.select(timeout_s):
            if key.fileobj is self._ear:
                with suppress(BlockingIOError):
                    self._ear.recv(4096)
            elif key.fileobj is self._door:
                came += self._let_in()
            else:
                self._serve(key.data, events)
        now_s = time.monotonic()
        for client in list(self._all):
            self._or_expel(client, lambda one: one.check(now_s))
        return [client for client in came if client in self._all]

    def offer(self, what: What, data: bytes, to: list[Client] | None = None) -> None:
        """Send ``data`` to all, or to some, each as fast as it takes it."""
        now_s = time.monotonic()
        for client in list(self._all if to is None else to):
            if client not in self._all:  # it left since it came
                continue
            if not client.offer(what, data, now_s) and what == "result":
                self._troubles.add("missed", "a slow OpenIGTLink receiver missed results")
            self._or_expel(client, lambda one: one.send(now_s))

    def close(self, until_s: float) -> None:
        """Deliver what waits until then (monotonic) at most, and hang up."""
        while any(client.has_more for client in self._all) and time.monotonic() < until_s:
            self.wait(max(until_s - time.monotonic(), 0.0))
        for client in self._all:
            client.close()
        self._all.clear()
        self._selector.close()
        self._bell.close()
        self._ear.close()

    def _let_in(self) -> list[Client]:
        came: list[Client] = []
        try:
            for _ in range(_CROWD):
                connected, _ = self._door.accept()
                if len(self._all) >= self._room:
                    connected.close()
                    self._troubles.add("turned away", "an OpenIGTLink receiver was turned away")
                    continue
                with suppress(OSError):  # it has left already
                    came.append(self._enter(connected))
        except (BlockingIOError, ConnectionError):
            pass
        except OSError as error:  # for want of descriptors, say
            self._troubles.add("not let in", f"OpenIGTLink: {error.strerror or error}")
            time.sleep(_PAUSE_S)
        return came

    def _enter(self, connected: socket.socket) -> Client:
        try:
            client = Client(connected, time.monotonic())
        except OSError:
            connected.close()
            raise
        self._all.append(client)
        self._selector.register(connected, selectors.EVENT_READ, client)
        return client

    def _serve(self, client: Client, events: int) -> None:
        now_s = time.monotonic()
        if events & selectors.EVENT_READ:
            self._or_expel(client, lambda one: one.listen(now_s))
        if events & selectors.EVENT_WRITE and client in self._all:
            self._or_expel(client, lambda one: one.send(now_s))

    def _or_expel(self, client: Client, act: Callable[[Client], None]) -> None:
        try:
            act(client)
        except GoneError as reason:
            self._expel(client, reason)
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.has_more else 0)
        if self._selector.get_key(client.socket).events != wanted:
            self._selector.modify(client.socket, wanted, client)

    def _expel(self, client: Client, reason: GoneError) -> None:
        if isinstance(reason, GivenUpError):
            self._troubles.add("given up", f"an OpenIGTLink receiver was given up: {reason}")
        self._selector.unregister(client.socket)
        self._all.remove(client)
        client.close()
