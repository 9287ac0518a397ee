"""What of a recording cannot be read: `Damage`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.recording.entry import Kind


@dataclass(frozen=True, slots=True)
class Damage:
    """One record that is there and is not as it was written."""

    kind: Kind
    epoch: int
    frame_id: int
    """-1 of a record that belongs to no frame."""
    reason: str

    def __str__(self) -> str:
        of = f"frame {self.frame_id} of epoch {self.epoch}: " if self.frame_id >= 0 else ""
        return f"{of}its {self.kind} record cannot be read: {self.reason}"
