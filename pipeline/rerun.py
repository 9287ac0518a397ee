"""`maskstream rerun`: recorded frames through the pipeline again.

It has not run on a GPU yet, where whether masks are equal to the bit also depends on kernels that
add up in no fixed order.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kpi.timing import StageTimer
from pipeline.audit import residency_guard
from pipeline.build import DETECTORS, SEGMENTERS, SOURCES, build_chain
from pipeline.chain import Chain, Wanted
from pipeline.config import RunConfig, parse_config
from pipeline.device import resolve_device
from pipeline.recording import weight_digests
from pipeline.rerun_compare import Comparison, known_frames
from pipeline.rerun_report import Report, changes
from pipeline.versions import versions
from pipeline.warm_up import one_compute_stream, warm_up
from stages.base import ChoosingSegmenter, Detector, Segmenter, ToldDetector
from stages.choices import Choice
from stages.errors import ConfigError, RecordingError
from stages.grab import Grab
from stages.packets import HostPacket
from stages.recorder.as_recorded import AsRecorded
from stages.recorder.provenance import Provenance
from stages.recorder.recorded_run import RecordedRun
from stages.records import Frame

_OFF = ("results", "pictures", "openigtlink_out", "cuda_ipc", "control", "http", "preview")
"""Sections of the configuration that are of no use here."""
_POLL_S = 0.0005
_WAIT_S = 0.1


@dataclass(frozen=True, slots=True)
class RerunOptions:
    """What the command line says."""

    overrides: tuple[str, ...] = ()
    """Of the recorded configuration: a.b=value."""
    detect: bool = False
    """Have the detector look again, on the frames on which it looked; else its recorded detections
    are taken."""
    frames: int | None = None
    """Only the first so many."""


def rerun(path: Path, options: RerunOptions) -> Report:
    """Run a recording again and compare. Raises `RecordingError` for one that does not hold what
    that takes, `ConfigError` where the configuration, or this machine, does not fit it."""
    with RecordedRun(path) as run:
        run.need("frame", *(() if options.detect else ("detections",)))
        if not len(run.log.frames("logits")):
            run.need("masks")
        told = run.provenance()
        config = _config(run, told, options)
        device = resolve_device(config.device)
        torch.set_num_threads(max(1, told.threads))
        detector, segmenter, weights = _stages(config, run, options, device)
        compared = Comparison(run, run.log.manifest.logits_dtype, config.mask_threshold)
        loop = _Loop(run, build_chain(config, device, detector, segmenter), segmenter, compared)
        unknown = loop.run(config, device, told.audited_frames, options.frames)
        changed = changes(told, versions(), weights, str(device), options.overrides)
        return Report(compared, unknown, changed, run.damaged, len(run.log.flaws))


class _Loop:
    """One frame after another: what a header tells is known before the next frame begins."""

    def __init__(
        self, run: RecordedRun, chain: Chain, segmenter: Segmenter, compared: Comparison
    ) -> None:
        self._run, self._chain, self._segmenter = run, chain, segmenter
        self._compared = compared
        self._wanted = Wanted(bool(len(run.log.frames("masks"))), compared.has_logits)
        if isinstance(segmenter, ChoosingSegmenter):
            segmenter.choices.script = self._choice

    def run(
        self, config: RunConfig, device: torch.device, audited: int | None, most: int | None
    ) -> int:
        """How many whole frames could not be compared, because others before them are missing or
        damaged."""
        source = SOURCES.create(config.source)
        limit = len(self._run.frames) if most is None else min(most, len(self._run.frames))
        grab = Grab(source, device, mailbox="every", frames=limit)
        timer = StageTimer(str(device))
        try:
            with one_compute_stream(device):
                grab.start()
                known = known_frames(self._run)
                for place, is_known in zip(range(limit), known, strict=False):
                    frame = _next(grab) if self._run.is_readable(place) else None
                    if frame is None:
                        break
                    if frame.frame_id == 0:
                        warm_up(self._chain, frame.size_hw, device, frame.origin_yx)
                    if not is_known:
                        continue
                    guarded = audited is None or self._compared.frames < audited
                    packet = self._finished(frame, timer, guarded)
                    self._compared.frame(frame.frame_id, packet)
        finally:
            grab.stop()
            self._segmenter.close()
        return self._compared.missing(limit)

    def _finished(self, frame: Frame, timer: StageTimer, guarded: bool) -> HostPacket:
        times = timer.frame()
        while not self._chain.wait_slot(_WAIT_S):
            pass
        with torch.inference_mode(), _guard(guarded):
            encoded = self._chain.look(frame, times)
        with torch.inference_mode(), _guard(guarded):
            pending = self._chain.finish(encoded, times, self._wanted)
        while not (pending.ready() and times.ready()):
            time.sleep(_POLL_S)
        times.stages_ms()
        packet = pending.host_packet()
        self._segmenter.heed(packet)
        return packet

    def _choice(self, frame: Frame) -> Choice | None:
        return None if frame.epoch < 0 else self._run.choice(frame.frame_id)


def _next(grab: Grab) -> Frame | None:
    """None at the end."""
    while True:
        frame = grab.get(_WAIT_S)
        if frame is not None or grab.ended:
            return frame


def _guard(guarded: bool) -> AbstractContextManager[object]:
    return residency_guard("count") if guarded else nullcontext()


def _config(run: RecordedRun, told: Provenance, options: RerunOptions) -> RunConfig:
    path = str(run.log.path)
    recorded: dict[str, Any] = dict(told.config)
    source = recorded.get("source")
    source_id = source.get("source_id") if isinstance(source, Mapping) else "recorded"
    kept = "logits" if len(run.log.frames("logits")) else "masks"
    raw = recorded | dict.fromkeys(_OFF)
    raw |= {
        "device": told.device,
        "source": {
            "kind": "recorded", "path": path, "source_id": source_id, "realtime": False,
        },
        "recorder": {"record": [kept]},
    }  # fmt: skip
    if not options.detect:
        raw["detector"] = {"kind": "recorded", "path": path}
    config = parse_config(raw, run.log.path, options.overrides)
    _same_prompts(config, recorded)
    return config


def _same_prompts(config: RunConfig, recorded: Mapping[str, Any]) -> None:
    """Which configured prompt took effect when is recorded: more of them had no time."""
    was: Sequence[object] = recorded.get("segmenter", {}).get("prompts") or ()
    now: Sequence[object] = getattr(config.segmenter, "prompts", ())
    if len(was) != len(now):
        raise ConfigError(
            f"segmenter.prompts: got {len(now)}, expected {len(was)} as in the recorded run"
        )


def _stages(
    config: RunConfig, run: RecordedRun, options: RerunOptions, device: torch.device
) -> tuple[Detector, Segmenter, dict[str, str]]:
    """And the SHA-256 of their weights."""
    section = config.detector
    if options.detect and "every" in type(section).model_fields:
        section = section.model_copy(update={"every": 1})
    detector = DETECTORS.create(section, device)
    classes = len(detector.class_names)
    segmenter = SEGMENTERS.create(config.segmenter, device, classes)
    weights = weight_digests(detector, segmenter)
    if options.detect:
        run.need("detections")
        if isinstance(detector, ToldDetector):
            raise ConfigError(
                f"--detect: a detector of kind {section.model_dump()['kind']} is told what there "
                "is, and nobody tells it now (expected a rerun of the recorded detections)"
            )
        detector = AsRecorded(detector, run, device)
    if isinstance(segmenter, ChoosingSegmenter) and run.choice(0) is None:
        raise RecordingError(
            f"{run.log.path}: no prompts were recorded, nor what the host chose for each frame "
            "(expected a run with prompts among its recorder.record)"
        )
    return detector, segmenter, weights
