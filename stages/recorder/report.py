"""How a recording went: `RecorderReport`."""

from __future__ import annotations

from dataclasses import dataclass

from kpi.events import RecorderLoss


@dataclass(frozen=True, slots=True)
class RecorderReport:
    """How a recording went, for `summary.json`; frames, but for the bytes."""

    path: str
    state: str
    reason: str | None
    """Why it is paused, or was when it ended."""
    offered: int
    written: int
    dropped: dict[RecorderLoss, int]
    bytes: int
    pauses: int
