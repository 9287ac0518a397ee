"""What `verify` finds out about a recording."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stages.recording.manifest import Layout


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one recording."""

    path: Path
    layout: Layout
    entries: int
    """Whole ones that were offered and written."""
    frames: int
    """That have logits."""
    segments: int
    """Files of the `log` layout."""
    gaps: int
    dropped: int
    """Entries that gaps tell of."""
    torn_bytes: int
    """Of what was being written when its process ended, or cut off later: never acknowledged, or
    no longer there."""
    closed: bool
    """Whether its writer wrote that it ends, and how much it holds."""
    being_written: bool
    retired_segments: int
    """Deleted by retention."""
    flaws: tuple[str, ...]
    """A line each; none where all that is there is as it was written, and nothing is missing in
    between."""

    @property
    def is_whole(self) -> bool:
        return not self.flaws
