"""Read every byte of a recording and tell what is wrong with it."""

from __future__ import annotations

from pathlib import Path

from stages.errors import RecordingError
from stages.recording.log_reader import LogRecording
from stages.recording.reading import open_recording
from stages.recording.verdict import Verdict
from stages.recording.verify_log import verify_log
from stages.recording.verify_npy import verify_npy


def verify(path: Path) -> Verdict:
    """Of the recording in folder ``path``; raises `RecordingError` where there is none."""
    try:
        with open_recording(path) as recording:
            if isinstance(recording, LogRecording):
                return verify_log(recording)
            return verify_npy(recording)
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read: {error.strerror}") from error
