"""Raw logits of a clip, as a recording or in the numpy layout of existing tools: `ClipLogits`."""

from __future__ import annotations

import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from pipeline.offline.folder import OutFolder
from pipeline.offline.records import VideoResults
from pipeline.offline.video_job import Save
from stages.closing import Closing
from stages.errors import OutputError
from stages.recording.entries import Logits, VideoLogits
from stages.recording.entry import Stamp
from stages.recording.log_writer import LogWriter
from stages.recording.manifest import NAME, Layout, Manifest
from stages.recording.npy_names import PREDICTIONS
from stages.recording.npy_writer import NpyWriter
from stages.recording.reading import IN_RUN
from stages.recording.writing import create_log, create_npy, reopen_log, reopen_npy
from stages.window import whole

if TYPE_CHECKING:
    from torch import Tensor

    from stages.clip.records import ClipFrame


RECORDED: Final[frozenset[Save]] = frozenset({"logits", "recording"})
"""What of `--save` is kept here."""


class ClipLogits(Closing):
    """What was asked for of two recordings, of which each says what it holds: `logits`, which is
    `predictions/<clip>/frame_%05d.npy`, float32 (N, 1, H, W), and `frame_%05d_obj_ids.npy`, int64
    (N,); and `recording`, a log of float32 (N, h, w) at the model's resolution.

    Where both directions come to a frame, the later one stays. Tracking waits for the disk: what
    is finished is so when its logits are written.
    """

    def __init__(self, folder: OutFolder, results: VideoResults, saved: frozenset[Save]) -> None:
        """Begins the recordings in `folder`, or goes on with those that are there; `results`:
        what is known of them at the start. Raises `RecordingError`."""
        self._path = folder.path
        self._window = whole(results.clip.size_hw)
        self._npy: NpyWriter | None = None
        self._log: LogWriter | None = None
        with ExitStack() as opened:
            if "logits" in saved:
                self._npy = _npy(folder.path, results)
                opened.callback(self._npy.close)
            if "recording" in saved:
                self._log = _log(folder.path, results)
                opened.callback(self._log.close)
            self._opened = opened.pop_all()

    def write(self, found: ClipFrame, logits: Tensor, turn: int) -> None:
        """`logits`: those of `found` as float32 (N, 1, H, W), on any device; `turn`: which pass
        they are of, from 0. Raises `OutputError` where they cannot be written."""
        stamp = Stamp(0, found.frame_idx, pass_index=turn)
        ids = np.array(found.obj_ids, np.int64)
        if self._npy is not None:
            full = VideoLogits(stamp, ids, logits.cpu().numpy())
            _check(self._path / PREDICTIONS, self._npy, self._npy.append(full))
        if self._log is not None:
            low = Logits(stamp, ids, found.logits.cpu().numpy(), self._window)
            _check(self._path / IN_RUN, self._log, self._log.append(low.entry()))

    def close(self) -> None:
        """Ends the recordings."""
        self._opened.close()


def session_of(name: str) -> str:
    """The name of a file, without its end, as that of a folder."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name.rpartition(".")[0] or name)[:64]
    return plain.lstrip("._-") or "clip"


def _npy(folder: Path, results: VideoResults) -> NpyWriter:
    session = session_of(results.clip.name)
    path = folder / PREDICTIONS / session
    if _begun(path):
        return reopen_npy(path)
    return create_npy(folder, _manifest("npy", session, results))


def _log(folder: Path, results: VideoResults) -> LogWriter:
    path = folder / IN_RUN
    if _begun(path):
        return reopen_log(path)
    return create_log(folder, _manifest("log", IN_RUN, results))


def _begun(path: Path) -> bool:
    """Whether there is a recording to go on with; what is left of one that had not begun goes."""
    if (path / NAME).is_file():
        return True
    if path.is_dir() and all(each.name[0] == "." for each in path.iterdir()):
        shutil.rmtree(path)  # whoever made it was killed before it had a manifest
    return False


def _manifest(layout: Layout, session: str, results: VideoResults) -> Manifest:
    return Manifest(
        layout=layout,
        session_id=session,
        source_id="clip",
        size_hw=results.clip.size_hw,
        mask_threshold=results.mask_threshold,
        model=results.model.name,
        versions=results.versions,
    )


def _check(path: Path, writer: NpyWriter | LogWriter, number: int | None) -> None:
    if number is None:
        raise OutputError(f"{path}: {writer.status.reason} (what was finished is kept)")
