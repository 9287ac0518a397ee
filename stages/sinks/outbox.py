"""What other threads have made for the egress thread to send: `Outbox`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from stages.wire_envelope import Kind

_ROOM: Final[Mapping[Kind, int]] = {"kpi": 256, "frame": 2}
"""Messages of a kind that may wait; then the oldest goes."""


@dataclass(slots=True)
class Sent:
    """Messages of one kind, handed to libzmq whether or not anyone received them."""

    messages: int = 0
    sent_bytes: int = 0

    def add(self, size: int) -> None:
        """Count one of ``size`` bytes."""
        self.messages += 1
        self.sent_bytes += size


class Outbox:
    """Short queues, one a kind; any thread puts in, one takes out."""

    def __init__(self) -> None:
        # append, popleft and the dropping of the oldest are atomic
        self._waiting = {kind: deque[bytes](maxlen=room) for kind, room in _ROOM.items()}

    def put(self, kind: Kind, message: bytes) -> None:
        """Queue a message of kind `kpi` or `frame`; never waits."""
        self._waiting[kind].append(message)

    def take(self) -> Iterator[tuple[Kind, bytes]]:
        """What waits."""
        for kind, queue in self._waiting.items():
            while queue:
                yield kind, queue.popleft()
