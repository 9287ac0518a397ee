"""Begin a recording: its folder, its manifest, its writer."""

from __future__ import annotations

import os
from pathlib import Path

from stages.errors import RecordingError
from stages.recording import manifest as manifests
from stages.recording import zstd
from stages.recording.files import Files, OsFiles, write_file
from stages.recording.folder import RecordingFolder
from stages.recording.ledger import Clock
from stages.recording.log_reader import LogRecording
from stages.recording.log_writer import LogOptions, LogWriter
from stages.recording.manifest import NAME, Manifest, render
from stages.recording.npy_names import INDEX, PREDICTIONS
from stages.recording.npy_store import cut_torn_line
from stages.recording.npy_writer import NpyOptions, NpyWriter


def create_log(
    root: Path,
    manifest: Manifest,
    options: LogOptions = LogOptions(),  # noqa: B008 (frozen)
    *,
    files: Files | None = None,
    clock: Clock = Clock(),  # noqa: B008 (frozen)
) -> LogWriter:
    """Begin the recording ``root/<manifest.session_id>`` in the `log` layout.

    Raises `RecordingError` where it exists, cannot be made or written to, has a name that is none,
    or wants zstd where that is not installed.
    """
    if options.compress:
        zstd.check()
    folder = _begun(RecordingFolder.create(root, manifest.session_id), manifest, files)
    return LogWriter(folder, manifest, options, files=files, clock=clock)


def create_npy(
    root: Path,
    manifest: Manifest,
    options: NpyOptions = NpyOptions(),  # noqa: B008 (frozen)
    *,
    files: Files | None = None,
    clock: Clock = Clock(),  # noqa: B008 (frozen)
) -> NpyWriter:
    """Begin the recording ``root/predictions/<manifest.session_id>`` in the `npy` layout; raises
    `RecordingError` as `create_log`."""
    folder = RecordingFolder.create(root, PREDICTIONS, manifest.session_id)
    return NpyWriter(_begun(folder, manifest, files), options, files=files, clock=clock)


def reopen_log(
    path: Path,
    options: LogOptions = LogOptions(),  # noqa: B008 (frozen)
    *,
    files: Files | None = None,
    clock: Clock = Clock(),  # noqa: B008 (frozen)
) -> LogWriter:
    """Go on with a recording in the `log` layout, whose writer has ended or was killed, in a new
    segment. Raises `RecordingError` where there is none, or it is being written."""
    if options.compress:
        zstd.check()
    folder = RecordingFolder.reopen(path)
    try:
        with LogRecording(path) as recording:
            start = recording.end()
            manifest = recording.manifest
    except RecordingError:
        folder.close()
        raise
    return LogWriter(folder, manifest, options, start=start, files=files, clock=clock)


def reopen_npy(
    path: Path,
    options: NpyOptions = NpyOptions(),  # noqa: B008 (frozen)
    *,
    files: Files | None = None,
    clock: Clock = Clock(),  # noqa: B008 (frozen)
) -> NpyWriter:
    """Go on with a recording in the `npy` layout: further frames, or frames again. Raises
    `RecordingError` as `reopen_log`."""
    folder = RecordingFolder.reopen(path)
    try:
        manifests.load(path)
        cut_torn_line(path / INDEX)
        nbytes = sum(entry.stat().st_size for entry in os.scandir(path))
    except RecordingError:
        folder.close()
        raise
    return NpyWriter(folder, options, nbytes=nbytes, files=files, clock=clock)


def _begun(folder: RecordingFolder, manifest: Manifest, files: Files | None) -> RecordingFolder:
    try:
        write_file(files or OsFiles(), NAME, folder.fd, [render(manifest)])
    except OSError as error:
        folder.close()
        raise RecordingError(
            f"{folder.path}: cannot record there: {error.strerror} (expected a disk with room)"
        ) from error
    return folder
