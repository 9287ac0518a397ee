"""Deleting whole recordings, oldest first."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stages.errors import RecordingError
from stages.recording import manifest as manifests
from stages.recording.folder import LOCK, RecordingFolder
from stages.recording.npy_names import PREDICTIONS

_OURS: Final = re.compile(
    rf"{re.escape(LOCK)}|manifest\.json|index\.jsonl|segment-\d+\.log|frame_\d+(_obj_ids)?\.npy"
    r"|\..+\.tmp",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class _Found:
    path: Path
    created_unix_ns: int
    nbytes: int


def retire_recordings(
    root: Path, keep_bytes: int | None, keep_s: float | None, now_unix_ns: int | None = None
) -> tuple[Path, ...]:
    """Delete the oldest recordings in ``root`` (and ``root/predictions``) until those left hold at
    most ``keep_bytes`` and began at most ``keep_s`` ago; those deleted.

    Spared: what is being written, what has no manifest of ours, and files that are not ours
    (their folder stays).
    """
    now = time.time_ns() if now_unix_ns is None else now_unix_ns
    found = sorted(_recordings(root), key=lambda each: each.created_unix_ns)
    total = sum(each.nbytes for each in found)
    deleted: list[Path] = []
    for each in found:
        too_many = keep_bytes is not None and total > keep_bytes
        too_old = keep_s is not None and now - each.created_unix_ns > keep_s * 1e9
        if (too_many or too_old) and _delete(each.path):
            total -= each.nbytes
            deleted.append(each.path)
    return tuple(deleted)


def _recordings(root: Path) -> Sequence[_Found]:
    found: list[_Found] = []
    for folder in (root, root / PREDICTIONS):
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.is_symlink() or not path.is_dir():
                continue
            try:
                manifest = manifests.load(path)
            except RecordingError:
                continue
            nbytes = sum(entry.stat(follow_symlinks=False).st_size for entry in os.scandir(path))
            found.append(_Found(path, manifest.created_unix_ns, nbytes))
    return found


def _delete(path: Path) -> bool:
    """Whether it is gone, but for files that are not ours."""
    try:
        folder = RecordingFolder.reopen(path)
    except RecordingError:
        return False
    try:
        # The manifest last: a recording that is half deleted is found again.
        for name in sorted(folder.names(), key=manifests.NAME.__eq__):
            if _OURS.fullmatch(name):
                os.remove(name, dir_fd=folder.fd)
        if not folder.names():
            path.rmdir()
    except OSError:
        return False
    finally:
        folder.close()
    return True
