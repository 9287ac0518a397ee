"""What a recording is made of: entries, each of a kind, most of them about one frame.

Numpy and the standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from numpy.typing import NDArray

Kind = Literal[
    "meta",
    "logits",
    "masks",
    "packet",
    "prompt",
    "detections",
    "frame",
    "state",
    "gap",
    "book",
    "index",
]
KINDS: Final[tuple[Kind, ...]] = (
    *("meta", "logits", "masks", "packet", "prompt", "detections", "frame", "state"),
    *("gap", "book", "index"),
)
"""A kind's place is its number in a file: new ones go to the end."""
OWN_KINDS: Final[frozenset[Kind]] = frozenset({"meta", "gap", "book", "index"})
"""What a writer adds by itself; not counted as offered."""

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which frame an entry is about, and when that was taken."""

    epoch: int
    frame_id: int
    """-1 where the entry is about no frame."""
    captured_ns: int = 0
    """Monotonic clock; 0 where it is not known."""
    captured_unix_ns: int = 0
    """Unix time, from the source; 0 where it is not known."""
    pass_index: int = 0
    """0..65535; offline, which propagation the result is of. The later pass wins."""


NO_FRAME: Final = Stamp(-1, -1)


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One thing to be written; `stages.recording.entries` has a typed form of each kind."""

    kind: Kind
    stamp: Stamp = NO_FRAME
    fields: Mapping[str, Json] = field(default_factory=dict)
    """What JSON can hold, without NaN and infinities."""
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Written as they lie in memory, each at a multiple of 8 bytes."""
