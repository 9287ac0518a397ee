"""The same request once more on a kept connection, as scrapers send it: answered without being
parsed and judged again, for less than half the processor time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import h11

from kpi.http_connections import BoundedConnection
from kpi.http_gate import Turns

Headers = Iterable[tuple[bytes, bytes]]
Again = Callable[[Headers], bytes | None]
"""The whole answer, as it is now and with the server's own headers; None where it cannot be had."""


@dataclass(frozen=True, slots=True)
class Repeatable:
    """A request that was let through and answered."""

    request: bytes
    turns: Turns
    again: Again


class RepeatingConnection(BoundedConnection):
    """Knows the latest request, where the app left `again` in its state and the gate `turns`.

    It must have come alone and in one piece, and so must its repetition, with nothing under way.
    Everything else goes the usual way.
    """

    _latest: bytes | None = None
    """What is being answered, if it came so."""
    _known: Repeatable | None = None

    def data_received(self, data: bytes) -> None:
        rests = self._rests()
        if rests and self._repeated(data):
            return
        self._latest, before = (data if rests else None), self.cycle
        super().data_received(data)
        if self.cycle is before or self.conn.their_state is not h11.DONE or self._left_over():
            self._latest = None

    def on_response_complete(self) -> None:
        state = self.cycle.scope["state"]
        request, self._latest = self._latest, None
        super().on_response_complete()  # may begin with the next request
        if request is not None and "again" in state:
            self._known = Repeatable(request, state["turns"], state["again"])

    def _rests(self) -> bool:
        """Between two requests, all answers taken."""
        return (
            self.conn.our_state is h11.IDLE and not self._left_over() and not self.flow.write_paused
        )

    def _left_over(self) -> bool:
        return bool(self.conn.trailing_data[0])

    def _repeated(self, data: bytes) -> bool:
        """Whether `data` is the known request and was answered."""
        known = self._known
        if known is None or data != known.request or not known.turns.take_free():
            return False
        answer = known.again(self.server_state.default_headers)
        if answer is None:
            return False
        self._unset_keepalive_if_required()
        self.transport.write(answer)
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )
        self._got_on()
        return True
