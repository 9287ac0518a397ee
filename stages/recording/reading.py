"""Open a recording, of either layout."""

from __future__ import annotations

from pathlib import Path

from stages.errors import RecordingError
from stages.recording import manifest as manifests
from stages.recording.log_reader import LogRecording, segment_numbers
from stages.recording.npy_names import frame_of
from stages.recording.npy_reader import NpyRecording

Recording = LogRecording | NpyRecording


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
    if manifests.NAME in names and manifests.load(folder).layout == "log":
        return LogRecording(folder)
    if manifests.NAME in names or any(frame_of(name) is not None for name in names):
        return NpyRecording(folder)
    raise RecordingError(f"{folder}: no recording (expected segment-*.log, or frame_*.npy)")
