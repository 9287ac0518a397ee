"""A recording in another layout. Needs torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from stages.errors import RecordingError
from stages.recording.entries import VideoLogits
from stages.recording.entry import NO_FRAME, Stamp
from stages.recording.log_reader import LogRecording
from stages.recording.npy_names import PREDICTIONS
from stages.recording.npy_writer import NpyWriter
from stages.recording.reading import open_recording
from stages.recording.video_logits import video_logits_at
from stages.recording.writing import create_npy


@dataclass(frozen=True, slots=True)
class Exported:
    """What became of an export."""

    path: Path
    frames: int
    left_out: tuple[str, ...]
    """A line for each frame that is damaged."""


def export_npy(
    path: Path, out: Path, each: Callable[[int, int], None] = lambda done, of: None
) -> Exported:
    """Write the logits of a `log` recording as ``out/predictions/<session_id>``, at video
    resolution; ``each`` is told how far it is.

    Raises `RecordingError` where there is nothing to export, the folder exists, or it cannot be
    written to its end.
    """
    with open_recording(path) as recording:
        if not isinstance(recording, LogRecording):
            raise RecordingError(f"{path}: is in the npy layout already (expected a log)")
        frames = recording.frames()
        if not len(frames):
            raise RecordingError(f"{path}: holds no logits to export")
        twice = [
            number for number, count in Counter(frames.frame_ids.tolist()).items() if count > 1
        ]
        if twice:
            raise RecordingError(
                f"{path}: frame {twice[0]} lies in more than one epoch, and the npy layout has one "
                "file a number"
            )
        kept = recording.manifest.logits_dtype
        manifest = replace(
            recording.manifest,
            layout="npy",
            logits_dtype="float32",
            exported_from=None if kept == "float32" else kept,
        )
        writer = create_npy(out, manifest)
        try:
            left_out = _copy(recording, writer, each)
        finally:
            writer.close()
    return Exported(out / PREDICTIONS / manifest.session_id, len(frames) - len(left_out), left_out)


def _copy(
    recording: LogRecording, writer: NpyWriter, each: Callable[[int, int], None]
) -> tuple[str, ...]:
    """Copies every frame; what is not in the copy stands in its gaps."""
    left_out: list[str] = []
    frames = recording.frames()
    for gap in recording.gaps():
        writer.drop(gap.reason, gap.last, gap.dropped)
    before = writer.status.offered
    try:
        for done, (epoch, frame_id) in enumerate(frames, 1):
            try:
                frame = video_logits_at(recording, frame_id, epoch)
            except RecordingError as error:
                left_out.append(f"frame {frame_id}: {error}")
                writer.drop("damaged where it was exported from", Stamp(epoch, frame_id))
            else:
                _put(writer, frame)
            each(done, len(frames))
    finally:
        missing = len(frames) - (writer.status.offered - before)
        if missing:
            writer.drop("the export was cut off", NO_FRAME, missing)
    return tuple(left_out)


def _put(writer: NpyWriter, frame: VideoLogits) -> None:
    if writer.append(frame) is None:
        raise RecordingError(
            f"frame {frame.stamp.frame_id} cannot be written: {writer.status.reason}"
        )
