"""How a recording went: `RecorderReport`."""

from __future__ import annotations

from dataclasses import dataclass

from kpi.edge_events import RecorderLoss


@dataclass(frozen=True, slots=True)
class RecorderReport:
    """How a recording went, for `summary.json`; frames, but for the bytes."""

    path: str
    state: str
    """`recording`, `paused`, `closed`, or `hung`: the disk did not take the last of it in time."""
    reason: str | None
    """Of the last pause."""
    offered: int
    written: int
    dropped: dict[RecorderLoss, int]
    bytes: int
    pauses: int
