"""What a subscriber missed, as `seq` tells it: `Losses`. Imports no more than the wire does."""

from __future__ import annotations

from stages.wire import ResultMessage, StateMessage


class Losses:
    """Counts, over all sources, from the first packet received of each on."""

    def __init__(self) -> None:
        self.received = 0
        """Packets."""
        self.gaps = 0
        """Holes in `seq`."""
        self.lost = 0
        """Packets in them."""
        self.restarts = 0
        """Publishers that started afresh, by another `run` or a `seq` that falls back; no loss."""
        self._expected: dict[str, int] = {}
        self._runs: dict[str, int] = {}

    def _begins(self, message: ResultMessage | StateMessage) -> None:
        """What an earlier run of the publisher made is not to be waited for."""
        if self._runs.setdefault(message.source_id, message.run) != message.run:
            self._runs[message.source_id] = message.run
            self.restarts += 1
            self._expected.pop(message.source_id, None)

    def _count_result(self, message: ResultMessage) -> None:
        expected = self._expected.get(message.source_id, message.seq)
        if message.seq < expected:
            self.restarts += 1
        self._count_gap(message.seq - expected)
        self._expected[message.source_id] = message.seq + 1
        self.received += 1

    def _count_state(self, message: StateMessage) -> None:
        """A state follows the results made before it: those not here by now are lost."""
        expected = self._expected.get(message.source_id)
        if expected is not None and message.last_seq is not None:
            self._count_gap(message.last_seq + 1 - expected)
            self._expected[message.source_id] = max(expected, message.last_seq + 1)

    def _count_gap(self, missing: int) -> None:
        if missing > 0:
            self.gaps += 1
            self.lost += missing
