"""`maskstream video`: a clip and prompts in, masks, overlays, a film and a results file out."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from pipeline.offline.clip_film import write_film
from pipeline.offline.clip_logits import RECORDED, ClipLogits
from pipeline.offline.clip_opening import clip_record, image_size, opened
from pipeline.offline.clip_outputs import ClipOutputs, pixels_of
from pipeline.offline.clip_plan import Pass, give_prompts, plan
from pipeline.offline.clip_words import with_found
from pipeline.offline.folder import OutFolder
from pipeline.offline.journal import Journal
from pipeline.offline.model import model_record
from pipeline.offline.palette import labels_of
from pipeline.offline.progress import progress
from pipeline.offline.records import PromptRecord, VideoResults
from pipeline.offline.video_job import VideoJob
from pipeline.signals import interruptible, stop_on_signals
from pipeline.versions import versions
from stages.errors import MaskstreamError, SourceError

if TYPE_CHECKING:
    import threading

    from stages.clip.records import ClipFrame
    from stages.clip.session import Clip

_REMEMBERED: Final = 16
"""Frames of a walk forward that one backward after it reads: the start, and the fifteen whose
pointers are attended."""


def track_clip(job: VideoJob) -> int:
    """Do it, and return the exit code. Raises `MaskstreamError`; what was finished is kept."""
    folder = OutFolder(job.out, "video", job.entry)
    with interruptible():
        clip = opened(job)
    with clip:
        job = with_found(job, clip)
        give_prompts(clip, job.prompts)
        passes = plan(clip, job.prompts, job.direction, job.start, job.max_frames)
        with folder:
            return _Run(job, clip, folder, passes).run()


class _Run:
    """Walks, writes, and leaves a results file whatever happens."""

    def __init__(
        self, job: VideoJob, clip: Clip, folder: OutFolder, passes: tuple[Pass, ...]
    ) -> None:
        self._began = time.monotonic()
        self._error: MaskstreamError | None = None
        self._job, self._clip, self._folder, self._passes = job, clip, folder, passes
        told = tuple(prompt.told for prompt in job.prompts)
        labels = labels_of([prompt.object for prompt in told])
        self._head = VideoResults(
            complete=False,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=0.0,
            model=model_record(job.model, image_size(clip, told[0].frame)),
            device=str(clip.device),
            mask_threshold=job.model.mask_threshold,
            spacing_mm=job.spacing_mm or clip.spacing_mm(0),
            versions=versions(),
            clip=clip_record(job, clip),
            direction=job.direction,
            start=passes[0].start,
            max_frames=job.max_frames,
            prompts=told,
            labels={str(each): label for each, label in labels.items()},
        )
        self._outputs = ClipOutputs(folder, clip, self._head, job)

    def run(self) -> int:
        """Whatever happens on the way, what is finished is listed, and filmed."""
        resume = self._job.entry == "resume"
        with Journal(self._folder, self._asked(), resume=resume) as journal:
            with stop_on_signals() as stop:
                self._attempt(lambda: self._track(journal, stop))
            stopped = stop.is_set()
            self._attempt(lambda: self._fold(journal, complete=False))
            if "video" in self._job.saved:
                with stop_on_signals() as stop:
                    self._attempt(lambda: self._film(journal, stop))
                stopped = stopped or stop.is_set()
            if not stopped and self._error is None:
                self._fold(journal, complete=True)
        if self._error is not None:
            raise self._error
        count = f"{len(journal)} frames"
        sys.stdout.write(f"{count}{', interrupted' * stopped}: {self._folder.path}/results.json\n")
        return 0

    def _attempt(self, step: Callable[[], None]) -> None:
        """Do it, and remember the first error."""
        try:
            step()
        except MaskstreamError as error:
            self._error = self._error or error

    def _track(self, journal: Journal, stop: threading.Event) -> None:
        saved = self._job.saved
        counts = [self._left(each, turn, journal) for turn, each in enumerate(self._passes)]
        with (
            ClipLogits(self._folder, self._head, saved)
            if saved & RECORDED
            else nullcontext() as logits,
            progress(sum(counts), "frames") as advance,
        ):
            for turn, each in enumerate(self._passes):
                try:
                    for found in self._walk(each, counts[turn]):
                        # Finished frames are tracked again, for what follows depends on them.
                        if not journal.has(found.frame_idx, turn):
                            self._finish(found, each, turn, journal, logits)
                        advance(each.way)
                        if stop.is_set():
                            return
                except SourceError as error:  # what lies the other way may be readable
                    self._error = self._error or error

    def _finish(
        self,
        found: ClipFrame,
        of: Pass,
        turn: int,
        journal: Journal,
        recording: ClipLogits | None,
    ) -> None:
        logits = found.masks()
        record = self._outputs.write(found, logits, of.way)
        if recording is not None:
            recording.write(found, logits, turn)
        journal.add(found.frame_idx, record, turn)

    def _left(self, each: Pass, turn: int, journal: Journal) -> int:
        """How many frames of a pass are walked: of one that is finished what the next one needs."""
        if not all(journal.has(number, turn) for number in each.frames):
            return each.count
        if turn == len(self._passes) - 1:
            return 0
        return min(each.count, needed_again(each.start, self._head.prompts))

    def _walk(self, each: Pass, count: int) -> Iterator[ClipFrame]:
        """So many frames of a pass, and the error at the end of a clip whose rest is missing, also
        where these were finished before."""
        if count:
            yield from self._clip.propagate(each.start, count - 1, each.way == "backward")
        at_end = each.way == "forward" and each.frames[-1] == self._clip.num_frames - 1
        if at_end and self._clip.trouble is not None:
            raise SourceError(self._clip.trouble)

    def _film(self, journal: Journal, stop: threading.Event) -> None:
        write_film(self._folder, journal, self._outputs, self._head.clip, stop)

    def _fold(self, journal: Journal, complete: bool) -> None:
        changes = {
            "complete": complete,
            "error": None if self._error is None else str(self._error),
            "seconds": round(time.monotonic() - self._began, 3),
        }
        journal.fold(self._head.model_copy(update=changes), "frames")

    def _asked(self) -> dict[str, Any]:
        """Whatever the masks and the files depend on."""
        head, job = self._head, self._job
        first = hashlib.sha256(pixels_of(self._clip, 0).tobytes()).hexdigest()
        return {
            "clip": {**head.clip.model_dump(mode="json"), "first_frame_sha256": first},
            "model": head.model.model_dump(mode="json"),
            "device": head.device,
            "mask_threshold": head.mask_threshold,
            "spacing_mm": head.spacing_mm,
            "direction": head.direction,
            "start": head.start,
            "max_frames": head.max_frames,
            "prompts": [
                {**each.told.model_dump(mode="json"), "mask_sha256": each.mask_sha256}
                for each in job.prompts
            ],
            "save": sorted(job.saved),
        }


def needed_again(start: int, prompts: Sequence[PromptRecord]) -> int:
    """How many frames forward from `start` a walk backward needs to have been tracked; no walk
    may end before an object is prompted."""
    first: dict[int, int] = {}
    for one in prompts:
        first[one.object] = min(one.frame, first.get(one.object, one.frame))
    return max(_REMEMBERED, max(first.values()) - start + 1)
