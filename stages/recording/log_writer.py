"""LogWriter: a recording in the `log` layout, which pauses and goes on by itself."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stages.recording.encode import encode
from stages.recording.entry import OWN_KINDS, Entry, Stamp
from stages.recording.files import Files, OsFiles
from stages.recording.folder import RecordingFolder
from stages.recording.ledger import Clock, WriterStatus
from stages.recording.manifest import Manifest, render
from stages.recording.pausing import PausingWriter
from stages.recording.retention import LogStart
from stages.recording.segment_chain import SegmentChain, SegmentOptions
from stages.recording.space import Space, SpaceLimits


@dataclass(frozen=True, slots=True)
class LogOptions:
    """How a log is written."""

    segments: SegmentOptions = field(default_factory=SegmentOptions)
    space: SpaceLimits = field(default_factory=SpaceLimits)
    retry_s: float = 1.0
    """A pause lasts at least so long."""
    compress: bool = False
    """With zstd, where a record gets smaller so; needs the extra `zstd`."""


class LogWriter:
    """Writes entries to segments; owned by one thread.

    No fault of the disk (full, failing, read-only, taken away) leaves this class as an exception:
    it pauses, counts what it drops, tries again every `retry_s`, and writes the gap where it goes
    on. An entry is acknowledged when `append` returns its number: then it is in the file and
    outlives this process; see `SegmentOptions.sync_s` for a power cut.
    """

    def __init__(
        self,
        folder: RecordingFolder,
        manifest: Manifest,
        options: LogOptions,
        *,
        start: LogStart = LogStart(),  # noqa: B008 (frozen)
        files: Files | None = None,
        clock: Clock = Clock(),  # noqa: B008 (frozen)
    ) -> None:
        """Takes over ``folder`` (`stages.recording.writing` makes both). The first segment is
        opened here; where that fails the writer begins paused."""
        files = files or OsFiles()
        text = np.frombuffer(render(manifest), np.uint8)
        meta = encode(Entry("meta", arrays={"manifest": text}))
        recording = bytes.fromhex(manifest.recording_id)
        self._compress = options.compress
        self._chain = SegmentChain(
            files, folder.fd, recording, meta, options.segments, start, clock
        )
        space = Space(options.space, lambda: files.free_bytes(folder.fd), clock)
        self._writer = PausingWriter(self._chain, folder, space, options.retry_s, clock)

    @property
    def status(self) -> WriterStatus:
        return self._writer.status

    def append(self, entry: Entry) -> int | None:
        """Write one entry; its number in the recording, or None where it was dropped (counted; why
        stands in `status.reason`).

        Raises `ValueError` or `TypeError`, and counts nothing, for an entry that no recording can
        hold, and where this one is closed.
        """
        if entry.kind in OWN_KINDS:
            raise ValueError(f"an entry of kind {entry.kind} is the writer's own")
        body = encode(entry, self._compress)
        return self._writer.offer(entry.stamp, body.nbytes, lambda: self._chain.append(body))

    def drop(self, reason: str, stamp: Stamp, count: int = 1) -> None:
        """Count entries that the caller lost before they came here (a ring that was full): they
        count as offered and dropped, and stand in a gap record."""
        self._writer.drop(reason, stamp, count)

    def poll(self) -> None:
        """To be called about once a second also when nothing is appended: syncs, ends a segment by
        its age, goes on after a pause."""
        self._writer.poll()

    def close(self) -> WriterStatus:
        """Write what is left, the end and the index, and let the folder go. Where the disk takes
        nothing even now the recording has no end, and the status keeps the reason."""
        return self._writer.close()
