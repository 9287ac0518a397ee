"""What must be known of a run to run it again: `Provenance`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stages.recorder.names import RUN
from stages.recording.entries import State, Stored
from stages.recording.entry import Entry, Json
from stages.recording.fields import Fields


@dataclass(frozen=True, slots=True, eq=False)
class Provenance:
    """The first thing a run records."""

    config: Mapping[str, Json]
    """The resolved configuration."""
    device: str
    threads: int
    """That an operation had: more of them may round in another order."""
    audited_frames: int | None
    """The first so many ran under the residency guard, which takes operations apart; None: all."""
    detector_classes: tuple[str, ...]
    weights: Mapping[str, str]
    """SHA-256 by stage."""
    versions: Mapping[str, str]

    def entry(self) -> Entry:
        told: dict[str, Json] = {
            "config": self.config,
            "device": self.device,
            "threads": self.threads,
            "audited_frames": self.audited_frames,
            "detector_classes": list(self.detector_classes),
            "weights": self.weights,
            "versions": self.versions,
        }
        return State(RUN, told).entry()

    @classmethod
    def of(cls, record: Stored) -> Provenance:
        """Raises `RecordingError` for what `entry` has not made."""
        told = Fields(State.of(record).told, "run")
        audited = None if told.absent("audited_frames") else told.integer("audited_frames")
        return cls(
            told.mapping("config"),
            told.text("device"),
            told.integer("threads"),
            audited,
            told.texts("detector_classes"),
            {name: str(value) for name, value in told.mapping("weights").items()},
            {name: str(value) for name, value in told.mapping("versions").items()},
        )
