"""`maskstream image`: pictures and prompts in, masks, overlays and a results file out."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.offline.drawing import Drawn, overlay
from pipeline.offline.folder import COMBINED, MASKS, OVERLAYS, Entry, OutFolder
from pipeline.offline.image_prompts import ImagePrompts
from pipeline.offline.journal import Journal
from pipeline.offline.measure import measured
from pipeline.offline.model import ModelOptions, built, model_record
from pipeline.offline.palette import label_picture, save_labels, save_mask, save_picture
from pipeline.offline.progress import progress
from pipeline.offline.records import (
    ImageResults,
    MaskRecord,
    PictureRecord,
    PromptRecord,
)
from pipeline.signals import interruptible, stop_on_signals
from pipeline.versions import versions
from stages.errors import MaskstreamError, SourceError
from stages.picture_files import find_pictures, names_for, read_file
from stages.shapes import Shape

if TYPE_CHECKING:
    from stages.proposals import Proposal, Proposer


@dataclass(frozen=True, slots=True)
class ImageJob:
    """What the command line asked for."""

    targets: tuple[str, ...]
    prompts: ImagePrompts
    mask_file: str | None
    multimask: bool
    model: ModelOptions
    spacing_mm: tuple[float, float] | None
    out: Path | None
    entry: Entry


def segment_images(job: ImageJob) -> int:
    """Do it, and return the exit code: 1 where a picture could not be used; the others are done.

    Raises `MaskstreamError`.
    """
    began = time.monotonic()
    paths = find_pictures(job.targets)
    folder = OutFolder(job.out, "image", job.entry)
    with interruptible():
        proposer = built(job.model)
    head = ImageResults(
        complete=False,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=0.0,
        model=model_record(job.model, proposer.image_size),
        device=str(proposer.device),
        mask_threshold=job.model.mask_threshold,
        spacing_mm=job.spacing_mm,
        versions=versions(),
        multimask=job.multimask,
    )
    with folder, Journal(folder, {}) as journal:
        one = _OnePicture(job, proposer, folder)
        error: MaskstreamError | None = None
        failed = 0
        try:
            failed = _all(one, paths, journal)
        except MaskstreamError as caught:
            error = caught
            raise
        finally:
            changes = {
                "complete": error is None and len(journal) == len(paths),
                "error": None if error is None else str(error),
                "seconds": round(time.monotonic() - began, 3),
            }
            journal.fold(head.model_copy(update=changes), "pictures")
    done = len(journal) - failed
    sys.stdout.write(f"{done} of {len(paths)} pictures: {folder.path}/results.json\n")
    return 1 if failed else 0


def _all(one: _OnePicture, paths: Sequence[Path], journal: Journal) -> int:
    """How many pictures could not be used; each is told in a line."""
    failed = 0
    with stop_on_signals() as stop, progress(len(paths), "pictures") as advance:
        for number, (path, name) in enumerate(zip(paths, names_for(paths, one.ends), strict=True)):
            if stop.is_set():
                break
            began = time.monotonic()
            try:
                record = one.segment(path, name)
            except SourceError as error:
                failed += 1
                record = PictureRecord(picture=str(path), error=str(error))
                sys.stderr.write(f"maskstream: {error}\n")
            seconds = round(time.monotonic() - began, 3)
            journal.add(number, record.model_copy(update={"seconds": seconds}))
            advance(path.name)
    return failed


class _OnePicture:
    """Segments a picture and writes what comes of it."""

    def __init__(self, job: ImageJob, proposer: Proposer, folder: OutFolder) -> None:
        self._job, self._proposer, self._folder = job, proposer, folder
        self.ends = ("", "_1", "_2", "_3") if job.multimask else ("",)
        """Of the names of overlays: of what was chosen, and of each proposal."""

    def segment(self, path: Path, name: str) -> PictureRecord:
        """Raises `SourceError` where the picture, or a prompt on it, cannot be used."""
        pixels = read_file(path)
        size_hw = (pixels.shape[0], pixels.shape[1])
        shapes = self._job.prompts.on(size_hw)
        for shape in shapes:
            flaw = shape.flaw(size_hw)
            if flaw is not None:
                raise SourceError(f"{path}: {flaw}")
        three = True if self._job.multimask else None
        proposals = self._proposer.propose(self._proposer.look_at(pixels), shapes, three)
        prompts = tuple(self._told(number, shape) for number, shape in enumerate(shapes, 1))
        masks = tuple(
            record
            for number, proposal in enumerate(proposals, 1)
            for record in self._save_masks(name, number, proposal)
        )
        self._draw(name, pixels, proposals, masks, prompts)
        return PictureRecord(
            picture=str(path),
            size_hw=size_hw,
            overlay=f"{OVERLAYS}/{name}.png",
            combined=f"{COMBINED}/{name}.png",
            prompts=prompts,
            masks=masks,
        )

    def _told(self, number: int, shape: Shape) -> PromptRecord:
        return PromptRecord(
            object=number,
            points=shape.points,
            labels=shape.labels,
            box=shape.box,
            mask=None if shape.mask is None else self._job.mask_file,
        )

    def _save_masks(self, name: str, number: int, proposal: Proposal) -> list[MaskRecord]:
        records = []
        for row, mask in enumerate(proposal.masks):
            which = f"_{row + 1}" if len(proposal.masks) > 1 else ""
            file = f"{MASKS}/{name}/object_{number:03d}{which}.png"
            with self._folder.place(file) as part:
                save_mask(mask, part)
            records.append(
                measured(
                    mask,
                    number,
                    self._job.spacing_mm,
                    proposal=row,
                    chosen=row == proposal.best,
                    file=file,
                    quality=float(proposal.quality[row]),
                    presence=proposal.presence,
                )
            )
        return records

    def _draw(
        self,
        name: str,
        pixels: NDArray[np.uint8],
        proposals: Sequence[Proposal],
        masks: Sequence[MaskRecord],
        prompts: Sequence[PromptRecord],
    ) -> None:
        """The picture of labels, and one with everything on it; of several proposals one each."""
        chosen = {number: one.masks[one.best] for number, one in enumerate(proposals, 1)}
        same = {number: number for number in chosen}
        with self._folder.place(f"{COMBINED}/{name}.png") as part:
            save_labels(label_picture(chosen, same, pixels.shape[:2]), part)
        told = [(prompt.object, prompt) for prompt in prompts]
        shown = {"": [mask for mask in masks if mask.chosen]}
        for row, which in enumerate(self.ends[1:]):
            shown[which] = [mask for mask in masks if mask.proposal == row]
        for which, records in shown.items():
            objects = [_drawn(one, proposals) for one in records]
            with self._folder.place(f"{OVERLAYS}/{name}{which}.png") as part:
                save_picture(overlay(pixels, objects, told), part)


def _drawn(record: MaskRecord, proposals: Sequence[Proposal]) -> Drawn:
    mask = proposals[record.object - 1].masks[record.proposal]
    return Drawn(record.object, f"#{record.object}: {record.quality:.2f}", mask, record.box_xyxy)
