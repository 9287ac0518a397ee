"""Verifying the `npy` layout: each file against its header and against the index."""

from __future__ import annotations

from fastcrc.crc32 import iscsi as crc32c

from stages.errors import RecordingError
from stages.recording.folder import is_being_written
from stages.recording.npy_file import read_npy
from stages.recording.npy_names import ids_name, logits_name
from stages.recording.npy_reader import NpyRecording
from stages.recording.verdict import Verdict


def verify_npy(recording: NpyRecording) -> Verdict:
    """Reads every byte. What another tool wrote has no check sums: of that only the headers are
    looked at."""
    flaws = list(recording.flaws)
    there = recording.frames().frame_ids.tolist()
    for frame_id in there:
        try:
            _check_frame(recording, frame_id)
        except RecordingError as error:
            flaws.append(str(error))
    missing = sorted(set(recording.indexed) - set(there))
    # Its line comes first, so a process that was killed leaves one line without its files.
    killed = 0 if recording.closed else len(missing) and missing[-1] == recording.last_indexed
    flaws += (f"{logits_name(frame_id)}: is gone" for frame_id in missing[: len(missing) - killed])
    gaps = recording.gaps()
    return Verdict(
        path=recording.path,
        layout="npy",
        entries=len(there),
        frames=len(there),
        segments=0,
        gaps=len(gaps),
        dropped=sum(gap.dropped for gap in gaps),
        torn_bytes=recording.torn_bytes,
        closed=recording.closed,
        being_written=is_being_written(recording.path),
        retired_segments=0,
        flaws=tuple(flaws),
    )


def _check_frame(recording: NpyRecording, frame_id: int) -> None:
    recording.video_logits_at(frame_id)
    logits, ids = (recording.path / name(frame_id) for name in (logits_name, ids_name))
    read_npy(ids)
    if recording.manifest is None and not recording.indexed:
        return
    told = recording.indexed.get(frame_id, ())
    if not told:
        raise RecordingError(f"{logits}: the index does not name it")
    # A writer that was killed may have replaced one file of two, so each may be of its own line.
    if crc32c(logits.read_bytes()) not in [line.logits_crc for line in told]:
        raise RecordingError(f"{logits}: its check sum is not that in the index: it is damaged")
    if crc32c(ids.read_bytes()) not in [line.ids_crc for line in told]:
        raise RecordingError(f"{ids}: its check sum is not that in the index: it is damaged")
