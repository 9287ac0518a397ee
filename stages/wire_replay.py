"""A recorded result as a replay sends it again."""

from __future__ import annotations

from dataclasses import dataclass

from stages.ring_place import FIELD
from stages.wire_envelope import envelope, opened
from stages.wire_fields import Fields
from stages.wire_masks import WireError

STATE = "replay"
"""What the state of a replay says."""


@dataclass(frozen=True, slots=True, eq=False)
class Replayed:
    """A message ready to be sent, and when it went out first."""

    message: bytes
    seq: int
    epoch: int
    run: int
    published_ns: int
    """The recorded run's monotonic clock."""


def names_told(message: bytes | memoryview) -> tuple[str, ...] | None:
    """What class ids mean, of a state; None for what is none. Raises `WireError`."""
    topic, header, _ = opened(memoryview(message))
    return Fields(header, "header").texts("class_names") if topic.startswith(b"state/") else None


def replayed(message: bytes | memoryview) -> Replayed | None:
    """The same topic, header and payload, but that the header says `stale` and `replay`, and names
    no memory of a device any more; None for what is no result. Raises `WireError`."""
    topic, header, payload = opened(memoryview(message))
    if not topic.startswith(b"result/"):
        return None
    fields = Fields(header, "header")
    seq, epoch = fields.integer("seq", 0), fields.integer("epoch", 0)
    published_ns = fields.integer("published_ns")
    if not isinstance(header, dict):
        raise WireError("the header is no object")
    told = {name: value for name, value in header.items() if name != FIELD}
    told |= {"stale": True, "replay": True}
    source_id = topic.partition(b"/")[2].decode("ascii")
    run = 0 if fields.absent("run") else fields.integer("run", 0)
    sent = envelope("result", source_id, told, [payload])
    return Replayed(sent, seq, epoch, run, published_ns)
