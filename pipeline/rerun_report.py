"""What a rerun found, for a person and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.rerun_compare import Comparison, Difference
from stages.recorder.provenance import Provenance
from stages.recording.damage import Damage

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class ObjectReport:
    """One object that differs anywhere."""

    epoch: int
    object_id: int
    first_frame_id: int
    frames: int
    lowest_iou: float
    worst_logit: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """The outcome."""

    compared: Comparison
    not_compared: int
    """Frames whose past is not in the recording, or is damaged there."""
    changed: tuple[str, ...]
    """What is not as it was, one line each."""
    damaged: tuple[Damage, ...]
    """Records of frames that were needed and cannot be read."""
    flaws: int
    """What else is damaged; of which frame is not known."""

    @property
    def exit_code(self) -> int:
        """0: nothing is damaged, all that could be compared is identical, and there was
        something."""
        bad = self.compared.differences or self.damaged or self.flaws
        return 0 if self.compared.frames and not bad else 1

    def objects(self) -> tuple[ObjectReport, ...]:
        """Those that differ, by epoch and id."""
        found: dict[tuple[int, int], list[Difference]] = {}
        for each in self.compared.differences:
            found.setdefault((each.epoch, each.object_id), []).append(each)
        return tuple(_object(*key, found[key]) for key in sorted(found))

    def as_json(self) -> dict[str, Any]:
        """Everything, JSON-ready."""
        compared = self.compared
        return {
            "identical": self.exit_code == 0,
            "frames": compared.frames,
            "not_compared": self.not_compared,
            "damaged": [asdict(each) for each in self.damaged],
            "flaws": self.flaws,
            "differing_frames": compared.differing_frames,
            "object_frames": compared.objects,
            "changed": list(self.changed),
            "objects": [asdict(each) for each in self.objects()],
            "differences": [asdict(each) for each in compared.differences],
        }

    def lines(self) -> list[str]:
        """For a person."""
        compared, objects = self.compared, self.objects()
        lines = [*self.changed, *self._gaps()]
        what = f"{compared.frames} frames, {compared.objects} masks"
        if not compared.frames:
            return [*lines, "nothing could be compared"]
        if not objects:
            exact = compared.dtype == "float32" or not compared.has_logits
            kept = "" if exact else f" as {compared.dtype}"
            of = "what could be compared is " if self.exit_code else ""
            return [*lines, f"{of}identical, bit for bit{kept}: {what}"]
        frames = f"{compared.differing_frames} of {compared.frames} frames differ"
        lines.append(f"{frames}, in {len(compared.differences)} of {compared.objects} masks")
        lines.extend(_line(each) for each in objects[:_SHOWN])
        if len(objects) > _SHOWN:
            lines.append(f"and {len(objects) - _SHOWN} objects more: see --json")
        return lines

    def _gaps(self) -> Iterator[str]:
        """What was not compared, and why."""
        yield from map(str, self.damaged[:_SHOWN])
        if len(self.damaged) > _SHOWN:
            yield f"and {len(self.damaged) - _SHOWN} damaged records more: see --json"
        if self.not_compared:
            why = "are damaged, or were" if self.damaged or self.flaws else "were"
            yield f"{self.not_compared} frames not compared: frames before them {why} not recorded"
        if self.flaws:
            yield f"the recording has {self.flaws} flaws: see maskstream record verify"


def changes(
    told: Provenance,
    versions: Mapping[str, str],
    weights: Mapping[str, str],
    device: str,
    overrides: Sequence[str],
) -> tuple[str, ...]:
    """What is not as it was when it was recorded."""
    found = [f"set: {override}" for override in overrides]
    if device != told.device:
        found.append(f"device: {told.device} then, {device} now")
    for stage, digest in weights.items():
        before = told.weights.get(stage, "none")
        if before != digest:
            found.append(
                f"the weights of the {stage} differ: {before[:12]} then, {digest[:12]} now"
            )
    for name in sorted(told.versions.keys() | versions.keys()):
        then, now = (each.get(name, "not installed") for each in (told.versions, versions))
        if then != now:
            found.append(f"{name}: {then} then, {now} now")
    return tuple(found)


def _object(epoch: int, object_id: int, found: Sequence[Difference]) -> ObjectReport:
    logits = [each.worst_logit for each in found if each.worst_logit is not None]
    return ObjectReport(
        epoch,
        object_id,
        found[0].frame_id,
        len(found),
        round(min(each.mask_iou for each in found), 6),
        max(logits) if logits else None,
    )


def _line(each: ObjectReport) -> str:
    worst = "" if each.worst_logit is None else f", worst logit difference {each.worst_logit:.3g}"
    return (
        f"object {each.object_id} of epoch {each.epoch}: from frame {each.first_frame_id} on, "
        f"{each.frames} frames, lowest mask IoU {each.lowest_iou:.4f}{worst}"
    )
