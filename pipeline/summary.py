"""`summary.json`: what a run did, in numbers that were counted or measured."""

from __future__ import annotations

import json
import os
import queue
import resource
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console

from pipeline.config import RunConfig
from pipeline.orchestrator import Audited
from pipeline.quality import QualityCheck
from pipeline.tally import Tally
from pipeline.versions import versions
from stages.copies import CopyCount
from stages.errors import MaskstreamError
from stages.recorder.report import RecorderReport

_HOT_PATH_EXITS = ("as_numpy",)
"""Exits that lie between Grab's upload and the ResultPacket; the resident chain has none."""
_WRITE_S = 5.0
"""For the summary to reach its file."""


@dataclass(frozen=True, slots=True, eq=False)
class RunFacts:
    """Everything that `summarize` needs, gathered when the run has ended."""

    config: RunConfig
    device: torch.device
    grabbed: int
    tally: Tally
    audited: Audited
    copies: tuple[CopyCount, ...]
    quality: QualityCheck | None
    recorder: RecorderReport | None
    error: Exception | None
    """What ended the run early."""

    @property
    def exit_code(self) -> int:
        """0, or what the error says; 1 for one that nobody foresaw."""
        if self.error is None:
            return 0
        return self.error.exit_code if isinstance(self.error, MaskstreamError) else 1


def summarize(facts: RunFacts) -> dict[str, object]:
    """The summary as JSON-ready values; see the README for what each means."""
    tally = facts.tally
    fps = tally.fps
    return {
        "name": facts.config.name,
        "exit_code": facts.exit_code,
        "error": None if facts.error is None else one_line(facts.error),
        "frames": {
            "grabbed": facts.grabbed,
            "published": tally.published,
            "dropped": tally.dropped,
        },
        "source_troubles": tally.troubles(),
        "fps": None if fps is None else round(fps, 2),
        "latency_ms": tally.latency_ms.summary(),
        "age_ms": tally.age_ms.summary(),
        "stages_ms": _stages_ms(tally),
        "host_copies": _host_copies(facts),
        "audited_frames": facts.audited.frames,
        "memory": _memory(facts.device),
        "device": _device_name(facts.device),
        "as_numpy": facts.config.as_numpy,
        "quality": None if facts.quality is None else facts.quality.summary(),
        "recorder": None if facts.recorder is None else asdict(facts.recorder),
        "versions": versions(),
        "config_sha256": facts.config.sha256(),
    }


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON, whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(temporary, path)


def write_summary(path: Path, summary: Mapping[str, object], console: Console) -> None:
    """Write `summary`; where the disk takes no more, or hangs, a person may still read it."""
    reason = _failure(lambda: write_json(path, summary))
    if reason is not None:
        console.print(f"{path}: {reason}; it would say:", highlight=False, soft_wrap=True)
        console.print_json(json.dumps(summary))


def _failure(write: Callable[[], None]) -> str | None:
    """Why `write` failed, or that it hangs; it is then left to a thread that no exit waits for."""
    ended: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            write()
        except OSError as error:
            ended.put(error.strerror or str(error))
        else:
            ended.put(None)

    threading.Thread(target=work, name="summary", daemon=True).start()
    try:
        return ended.get(timeout=_WRITE_S)
    except queue.Empty:
        return f"not written within {_WRITE_S:g} s"


def one_line(error: Exception) -> str:
    """What to tell a person; a fault of ours gets its type as well."""
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, MaskstreamError) else f"{type(error).__name__}: {text}"


def closing_line(facts: RunFacts) -> str:
    """The run in one line."""
    tally = facts.tally
    dropped = ", ".join(f"{n} {reason}" for reason, n in tally.dropped.items()) or "none"
    troubles = ", ".join(f"{n} {kind}" for kind, n in sorted(tally.troubles().items()))
    parts = [
        f"{facts.grabbed} grabbed, {tally.published} published, dropped: {dropped}",
        f"not grabbed, at the source: {troubles}" if troubles else "",
        "" if tally.fps is None else f"{tally.fps:.1f} frames/s",
    ]
    copies = _host_copies(facts)
    parts.append(f"hot path: {copies['hot_path_d2h']} copies, {copies['hot_path_syncs']} waits")
    quality = facts.quality.summary() if facts.quality is not None else None
    if quality is not None and quality["mean_iou"] is not None:
        parts.append(f"mean IoU {quality['mean_iou']}, recall {quality['recall']}")
    return "; ".join(part for part in parts if part)


def _stages_ms(tally: Tally) -> dict[str, object]:
    clocks = {"host": tally.host_ms, "gpu": tally.gpu_ms}
    return {
        stage: {
            clock: series[stage].summary()
            for clock, series in clocks.items()
            if series[stage].at(0.5) is not None
        }
        for stage in tally.host_ms
    }


def _host_copies(facts: RunFacts) -> dict[str, int]:
    """Named exits are counted on every frame; the guard looks for others on audited frames.

    A copy at a hot-path exit is a wait of the host as well.
    """
    named = {count.where: count.copies for count in facts.copies}
    hot = sum(named.get(where, 0) for where in _HOT_PATH_EXITS)
    audited = facts.audited
    return {
        "hot_path_d2h": max(hot, audited.d2h),
        "hot_path_h2d": audited.h2d,
        "hot_path_syncs": max(hot, audited.syncs),
        "upload_h2d": named.get("upload", 0),
        "header_d2h": named.get("header", 0),
        "egress_d2h": named.get("egress", 0),
        "picture_d2h": named.get("picture", 0),
        "recorder_d2h": named.get("recorder", 0),
    }


def _memory(device: torch.device) -> dict[str, int | None]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scale = 1 if sys.platform == "darwin" else 1024
    cuda = device.type == "cuda"
    return {
        "rss_peak_bytes": peak * scale,
        "device_peak_bytes": torch.cuda.max_memory_allocated(device) if cuda else None,
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} {torch.cuda.get_device_name(device)}"
    return str(device)
