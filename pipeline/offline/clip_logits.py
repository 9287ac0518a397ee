"""Raw logits of a clip, in the numpy layout that existing tools expect: `ClipLogits`."""

from __future__ import annotations

import re
import shutil
from types import TracebackType
from typing import Self

import numpy as np
from torch import Tensor

from pipeline.offline.folder import OutFolder
from pipeline.offline.records import VideoResults
from stages.errors import OutputError
from stages.recording.entries import VideoLogits
from stages.recording.entry import Stamp
from stages.recording.manifest import Manifest
from stages.recording.npy_names import PREDICTIONS
from stages.recording.writing import create_npy, reopen_npy


class ClipLogits:
    """`predictions/<clip>/frame_%05d.npy`, float32 (N, 1, H, W), and `frame_%05d_obj_ids.npy`,
    int64 (N,); a context manager. Where both directions come to a frame, the later one stays.
    """

    def __init__(self, folder: OutFolder, results: VideoResults) -> None:
        """Begins the recording in `folder`, or goes on with the one that is there; `results`:
        what is known of them at the start. Raises `RecordingError`."""
        session = session_of(results.clip.name)
        self._path = folder.path / PREDICTIONS / session
        if (self._path / "manifest.json").is_file():
            self._writer = reopen_npy(self._path)
            return
        if self._path.is_dir() and all(each.name[0] == "." for each in self._path.iterdir()):
            shutil.rmtree(self._path)  # whoever made it was killed before it had a manifest
        self._writer = create_npy(
            folder.path,
            Manifest(
                layout="npy",
                session_id=session,
                source_id="clip",
                size_hw=results.clip.size_hw,
                mask_threshold=results.mask_threshold,
                model=results.model.name,
                versions=results.versions,
            ),
        )

    def write(self, frame: int, object_ids: tuple[int, ...], logits: Tensor, turn: int) -> None:
        """`logits` float32 (N, 1, H, W), on any device; `turn`: which pass they are of, from 0.
        Raises `OutputError` where they cannot be written."""
        stamp = Stamp(0, frame, pass_index=turn)
        ids = np.array(object_ids, np.int64)
        if self._writer.append(VideoLogits(stamp, ids, logits.cpu().numpy())) is None:
            reason = self._writer.status.reason
            raise OutputError(f"{self._path}: {reason} (what was finished is kept)")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()


def session_of(name: str) -> str:
    """The name of a file, without its end, as that of a folder."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name.rpartition(".")[0] or name)[:64]
    return plain.lstrip("._-") or "clip"
