"""Begins the recording of a run: where it lies, and what it tells of the run."""

from __future__ import annotations

from contextlib import ExitStack

import torch

from pipeline.assemble import Assembly
from pipeline.frame_flow import RunOptions
from pipeline.versions import versions
from stages.base import Detector, Segmenter, Weighted
from stages.recorder.config import RecorderConfig, What
from stages.recorder.provenance import Provenance
from stages.recording.entry import Kind
from stages.recording.log_writer import LogOptions
from stages.recording.manifest import Manifest
from stages.recording.npy_names import PREDICTIONS
from stages.recording.npy_writer import NpyOptions
from stages.recording.reading import IN_RUN
from stages.recording.retention import Keep
from stages.recording.retire import retire_recordings
from stages.recording.segment_chain import SegmentOptions
from stages.recording.space import SpaceLimits
from stages.recording.writing import create_log, create_npy

_CLEANING = ("fill_hole_area", "non_overlap")
"""Settings of a segmenter that change logits; what is recorded is what all others are given."""
_KINDS: dict[What, Kind] = {
    "logits": "logits",
    "masks": "masks",
    "packets": "packet",
    "prompts": "prompt",
    "detections": "detections",
    "frames": "frame",
}


def open_recorder(parts: Assembly, options: RunOptions, stack: ExitStack) -> None:
    """Make the recording of a run that has a recorder; raises `RecordingError` where there can be
    none, or there is one already."""
    recorder, config = parts.recorder, parts.config.recorder
    if recorder is None or config is None:
        return
    root = parts.folder.path if config.root is None else config.root
    name = config.session or (IN_RUN if config.root is None else parts.folder.path.name)
    _retire(config)
    manifest = _manifest(parts, config, name)
    if config.layout == "npy":
        npy = create_npy(root, manifest, NpyOptions(space=_space(config)))
        recorder.open_npy(npy, str(root / PREDICTIONS / name))
    else:
        log = create_log(root, manifest, _log_options(config))
        log.append(_provenance(parts, options).entry())
        recorder.open_log(log, str(root / name))
    stack.callback(recorder.finish_quietly)
    parts.status.recorder = recorder.report


def weight_digests(detector: Detector, segmenter: Segmenter) -> dict[str, str]:
    """SHA-256 of the weights of each stage that has some."""
    stages = {"detector": detector, "segmenter": segmenter}
    return {
        name: stage.weights_sha256()
        for name, stage in stages.items()
        if isinstance(stage, Weighted)
    }


def _retire(config: RecorderConfig) -> None:
    """Make room among earlier recordings."""
    if config.root is not None and (config.retention_bytes or config.retention_h):
        retire_recordings(config.root, config.retention_bytes, _keep_s(config))


def _keep_s(config: RecorderConfig) -> float | None:
    return None if config.retention_h is None else config.retention_h * 3600


def _space(config: RecorderConfig) -> SpaceLimits:
    least = config.min_free_bytes
    return SpaceLimits(least, least + least // 2, config.quota_bytes)


def _log_options(config: RecorderConfig) -> LogOptions:
    return LogOptions(
        SegmentOptions(
            nbytes=config.segment_bytes,
            seconds=config.segment_s,
            keep=Keep(config.retention_bytes, _keep_s(config)),
        ),
        space=_space(config),
        compress=config.zstd,
    )


def _manifest(parts: Assembly, config: RecorderConfig, session: str) -> Manifest:
    run = parts.config
    return Manifest(
        layout=config.layout,
        session_id=session,
        source_id=parts.source.source_id,
        size_hw=parts.source.size_hw,
        class_names=tuple(parts.class_names),
        mask_threshold=run.mask_threshold,
        model=str(getattr(run.segmenter, "model", None)),
        config_sha256=run.sha256(),
        versions=versions(),
        recorded=tuple(kind for what, kind in _KINDS.items() if what in config.record),
        logits_dtype=config.logits_dtype,
        cleaning=tuple(name for name in _CLEANING if getattr(run.segmenter, name, None)),
    )


def _provenance(parts: Assembly, options: RunOptions) -> Provenance:
    run = parts.config
    return Provenance(
        config=run.model_dump(mode="json"),
        device=str(parts.device),
        threads=torch.get_num_threads(),
        audited_frames=None if options.audit else run.audited_frames,
        detector_classes=parts.detector.class_names,
        weights=weight_digests(parts.detector, parts.segmenter),
        versions=versions(),
    )
