"""What a recording is, at a glance, without reading its payloads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.recording.entry import KINDS
from stages.recording.folder import is_being_written
from stages.recording.log_reader import LogRecording
from stages.recording.manifest import Layout, Manifest
from stages.recording.reading import open_recording


@dataclass(frozen=True, slots=True)
class Summary:
    """Of one recording."""

    path: Path
    layout: Layout
    manifest: Manifest | None
    """None where another tool wrote it."""
    entries: Mapping[str, int]
    """How many there are, by kind."""
    frames: int
    """That have logits, or else of the kind that has most."""
    first_frame: int | None
    last_frame: int | None
    epochs: int
    segments: int
    gaps: int
    dropped: int
    nbytes: int
    """Of all its files."""
    being_written: bool


def summarize(path: Path) -> Summary:
    """Of the recording in folder ``path``; raises `RecordingError` where there is none."""
    layout: Layout
    with open_recording(path) as recording:
        if isinstance(recording, LogRecording):
            layout = "log"
            entries = _entries(recording)
            frames = max((recording.frames(kind) for kind in KINDS), key=len)
            frames = recording.frames() if len(recording.frames()) else frames
            segments = len(recording.numbers)
        else:
            layout = "npy"
            frames = recording.frames()
            entries, segments = {"logits": len(frames)}, 0
        gaps = recording.gaps()
        manifest = recording.manifest
    ids = frames.frame_ids
    return Summary(
        path=path,
        layout=layout,
        manifest=manifest,
        entries=entries,
        frames=len(frames),
        first_frame=int(ids.min()) if len(ids) else None,
        last_frame=int(ids.max()) if len(ids) else None,
        epochs=len(np.unique(frames.epochs)),
        segments=segments,
        gaps=len(gaps),
        dropped=sum(gap.dropped for gap in gaps),
        nbytes=sum(entry.stat().st_size for entry in path.iterdir() if entry.is_file()),
        being_written=is_being_written(path),
    )


def _entries(recording: LogRecording) -> dict[str, int]:
    numbers = np.concatenate(
        [np.zeros(0, np.uint8), *(table.rows["kind"] for table in recording.tables.values())]
    )
    counts = np.bincount(numbers, minlength=len(KINDS)).tolist()
    return {kind: count for kind, count in zip(KINDS, counts, strict=True) if count}
