"""Open a recording, of either layout."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from stages.errors import RecordingError
from stages.recording import manifest as manifests
from stages.recording.log_reader import LogRecording, segment_numbers
from stages.recording.npy_names import PREDICTIONS, frame_of
from stages.recording.npy_reader import NpyRecording

IN_RUN: Final = "recording"
"""Where a run keeps its recording, unless it was told another place."""
Recording = LogRecording | NpyRecording


def recording_in(path: Path) -> Path:
    """The recording at ``path``: itself, or the only one in the folder of a run or of a clip's
    results. Raises `RecordingError` for a folder of several."""
    inside = path / IN_RUN
    try:
        if inside.is_dir():
            return inside
        found = sorted(entry for entry in (path / PREDICTIONS).iterdir() if entry.is_dir())
    except OSError:
        return path
    if len(found) > 1:
        raise RecordingError(
            f"{path}: holds {len(found)} recordings (expected one of them, such as {found[0]})"
        )
    return found[0] if found else path


def open_recording(path: Path | str) -> Recording:
    """The recording in folder ``path``: of the `log` layout, or of the `npy` layout, also one that
    another tool wrote without a manifest. To be closed, or used in a `with`.

    Raises `RecordingError` where there is none.
    """
    folder = Path(path)
    try:
        if segment_numbers(folder):
            return LogRecording(folder)
        names = [entry.name for entry in folder.iterdir()]
    except OSError as error:
        raise RecordingError(
            f"{folder}: {error.strerror} (expected the folder of a recording)"
        ) from error
    if any(frame_of(name) is not None for name in names):
        return NpyRecording(folder)
    if manifests.NAME in names:  # nothing was written yet
        is_log = manifests.load(folder).layout == "log"
        return LogRecording(folder) if is_log else NpyRecording(folder)
    raise RecordingError(f"{folder}: no recording (expected segment-*.log, or frame_*.npy)")
