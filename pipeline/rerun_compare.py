"""Where the masks of a rerun differ from the recorded ones: `Comparison`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stages.errors import RecordingError
from stages.packets import HostPacket
from stages.recorder.recorded_run import RecordedRun
from stages.recording.quantise import LogitsDtype, dequantised, quantised


@dataclass(frozen=True, slots=True)
class Difference:
    """One object of one frame that is not what was recorded."""

    epoch: int
    frame_id: int
    """As recorded."""
    object_id: int
    mask_iou: float
    """Of the two masks; 1 where only logits differ, 0 where only one run has the object."""
    worst_logit: float | None
    """Largest |difference|; None where no logits were recorded, or only one run has the object."""
    only_in: str | None = None
    """`recording` or `rerun`, where the other has no such object."""


@dataclass(slots=True, eq=False)
class Comparison:
    """Takes frames one by one."""

    run: RecordedRun
    dtype: LogitsDtype
    """In which logits were kept; the rerun's are compared as they would have been kept."""
    threshold: float
    frames: int = 0
    """That were compared."""
    objects: int = 0
    differences: list[Difference] = field(default_factory=list)

    def frame(self, place: int, packet: HostPacket) -> None:
        """Compare the result of the recorded frame ``place``; nothing where its masks or logits are
        damaged, which ``run.damaged`` tells then."""
        stamp = self.run.frames[place].stamp
        try:
            then = self._recorded(place)
        except RecordingError:
            return
        now = self._rerun(packet)
        self.frames += 1
        self.objects += len(then | now)
        for object_id in sorted(then | now):
            old, new = then.get(object_id), now.get(object_id)
            found = _difference(old, new)
            if found is not None:
                self.differences.append(Difference(stamp.epoch, stamp.frame_id, object_id, *found))

    def missing(self, limit: int) -> int:
        """Of the first ``limit`` frames, those that were neither compared nor found damaged."""
        places = {(each.stamp.epoch, each.stamp.frame_id) for each in self.run.frames[:limit]}
        damaged = {(each.epoch, each.frame_id) for each in self.run.damaged}
        return limit - self.frames - len(places & damaged)

    @property
    def has_logits(self) -> bool:
        """Whether they are compared, beside or without masks."""
        return bool(len(self.run.log.frames("logits")))

    @property
    def differing_frames(self) -> int:
        return len({(each.epoch, each.frame_id) for each in self.differences})

    def _recorded(self, place: int) -> dict[int, _Seen]:
        logits, masks = self.run.logits(place), self.run.masks(place)
        ids = None if masks is None else masks.object_ids
        ids = ids if logits is None else logits.object_ids
        return {
            int(object_id): _Seen(
                None if logits is None else logits.values[row],
                None if masks is None else masks.bits[row],
                self.threshold,
            )
            for row, object_id in enumerate([] if ids is None else ids)
        }

    def _rerun(self, packet: HostPacket) -> dict[int, _Seen]:
        logits = None if packet.logits is None else self._as_kept(packet.logits)
        return {
            int(object_id): _Seen(
                None if logits is None else logits[row],
                None if packet.masks is None else packet.masks[row],
                self.threshold,
            )
            for row, object_id in enumerate(packet.object_ids)
        }

    def _as_kept(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        kept = quantised(logits, self.dtype)
        return dequantised(kept.__getitem__)


def known_frames(run: RecordedRun) -> Iterator[bool]:
    """Of each frame, whether all that its epoch had before it is there."""
    expected, epoch, known = 0, None, False
    for about in run.frames:
        whole = about.number == expected and not about.skipped
        expected = about.number + 1
        if about.epoch != epoch:
            # An epoch's first frame may be among those that are missing.
            known = whole
        known = known and whole
        epoch = about.epoch
        yield known


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """One object of one frame."""

    logits: NDArray[np.float32] | None
    bits: NDArray[np.uint8] | None
    threshold: float

    @property
    def mask(self) -> NDArray[np.bool_]:
        """At full resolution where that was recorded, else at the logits'."""
        if self.bits is not None:
            return np.unpackbits(self.bits, axis=-1).astype(np.bool_)
        if self.logits is not None:
            return self.logits > self.threshold
        return np.zeros((0, 0), np.bool_)


def _difference(
    old: _Seen | None, new: _Seen | None
) -> tuple[float, float | None, str | None] | None:
    """Mask IoU, worst logit, and who alone has it; None where they are equal, bit for bit."""
    if old is None or new is None:
        return 0.0, None, "recording" if new is None else "rerun"
    worst = None
    same = old.bits is None or new.bits is None or _same(old.bits, new.bits)
    if old.logits is not None and new.logits is not None:
        worst = 0.0
        if not _same(old.logits.view(np.int32), new.logits.view(np.int32)):
            same = False
            worst = float(np.abs(old.logits.astype(np.float64) - new.logits).max())
    return None if same else (_iou(old.mask, new.mask), worst, None)


def _same(old: NDArray[np.generic], new: NDArray[np.generic]) -> bool:
    return old.shape == new.shape and bool((old == new).all())


def _iou(old: NDArray[np.bool_], new: NDArray[np.bool_]) -> float:
    if old.shape != new.shape:
        return 0.0
    union = int((old | new).sum())
    return int((old & new).sum()) / union if union else 1.0
