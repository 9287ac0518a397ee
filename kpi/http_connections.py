"""How long a client may hold a connection of the run's HTTP server, and who goes when all are."""

from __future__ import annotations

import asyncio
from collections import Counter

from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS = 64
"""Held at once."""
HEADER_S = 3.0
"""From connecting to the end of the first request's headers."""
ROUND_S = 10.0
"""From a whole request to its answer, and from there to the next whole request: who drips its
request, or never reads the answer, is cut."""
SETTLE_S = 0.25
"""So long a client that just connected, or was just answered, counts as busy."""


class BoundedConnection(H11Protocol):
    """A connection with an end.

    One more than `CONNECTIONS` is let in all the same: another is cut for it, of the address that
    holds most, and there the one that has been idle for longest.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._gone = False
        self._since = self.loop.time()
        self._timer = self.loop.call_later(HEADER_S, self._cut)
        self._make_room()

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._got_on()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._got_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        self._cut()

    def _got_on(self) -> None:
        self._since = self.loop.time()
        self._timer.cancel()
        self._timer = self.loop.call_later(ROUND_S, self._cut)

    def _cut(self) -> None:
        self._gone = True
        self.transport.abort()

    def _make_room(self) -> None:
        everyone = (one for one in self.connections if isinstance(one, BoundedConnection))
        held = [one for one in everyone if not one._gone]  # a cut one stays until the next turn
        if len(held) <= CONNECTIONS:
            return
        of_address = Counter(one._address for one in held)
        min(held, key=lambda one: (-of_address[one._address], one._busy(), one._since))._cut()

    @property
    def _address(self) -> str:
        return "" if self.client is None else self.client[0]

    def _busy(self) -> bool:
        answering = self.cycle is not None and not self.cycle.response_complete
        return answering or self.loop.time() - self._since < SETTLE_S
