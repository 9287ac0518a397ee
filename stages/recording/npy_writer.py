"""NpyWriter: a recording as numpy files, two a frame, as existing tools expect them."""

from __future__ import annotations

from dataclasses import dataclass, field

from stages.recording.entries import VideoLogits
from stages.recording.entry import Stamp
from stages.recording.files import Files, OsFiles
from stages.recording.folder import RecordingFolder
from stages.recording.ledger import Clock, WriterStatus
from stages.recording.npy_store import NpyStore
from stages.recording.pausing import PausingWriter
from stages.recording.space import Space, SpaceLimits


@dataclass(frozen=True, slots=True)
class NpyOptions:
    """How numpy files are written."""

    sync_s: float = 1.0
    """What was acknowledged survives a power cut after so long, where `poll` is called as often."""
    sync_bytes: int = 64 << 20
    space: SpaceLimits = field(default_factory=SpaceLimits)
    retry_s: float = 1.0
    """A pause lasts at least so long."""


class NpyWriter:
    """Writes `frame_%05d.npy`, float32 (n, 1, H, W), and `frame_%05d_obj_ids.npy`, int64 (n,).

    A frame that is written again replaces the earlier one. `index.jsonl` tells each frame's times
    and check sums, and the gaps. Otherwise as `stages.recording.log_writer.LogWriter`.
    """

    def __init__(
        self,
        folder: RecordingFolder,
        options: NpyOptions,
        *,
        nbytes: int = 0,
        files: Files | None = None,
        clock: Clock = Clock(),  # noqa: B008 (frozen)
    ) -> None:
        """Takes over ``folder``, which holds ``nbytes``; `stages.recording.writing` makes both."""
        files = files or OsFiles()
        self._store = NpyStore(files, folder.fd, options.sync_s, options.sync_bytes, clock, nbytes)
        space = Space(options.space, lambda: files.free_bytes(folder.fd), clock)
        self._writer = PausingWriter(self._store, folder, space, options.retry_s, clock)

    @property
    def status(self) -> WriterStatus:
        return self._writer.status

    def append(self, frame: VideoLogits) -> int | None:
        """Write one frame; its line in the index, or None where it was dropped (counted)."""
        nbytes = frame.values.nbytes + frame.object_ids.nbytes
        return self._writer.offer(frame.stamp, nbytes, lambda: self._store.append(frame))

    def drop(self, reason: str, stamp: Stamp, count: int = 1) -> None:
        """Count frames that the caller lost before they came here."""
        self._writer.drop(reason, stamp, count)

    def poll(self) -> None:
        """To be called about once a second also when nothing is appended."""
        self._writer.poll()

    def close(self) -> WriterStatus:
        """Write what is left, and let the folder go."""
        return self._writer.close()
