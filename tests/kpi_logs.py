"""KPI logs of runs that never were, written through the real sink."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kpi.device_events import DeviceFault, DeviceSample
from kpi.edge_events import RecorderState
from kpi.events import (
    ErrorRaised,
    Event,
    EventsDropped,
    FrameDropped,
    FrameKind,
    FramePublished,
    PromptEnded,
    RunFinished,
    RunStarted,
    SourceStateChanged,
    StageMs,
)
from kpi.jsonl import JsonlSink

BEGIN = 1_795_000_000.0
FPS = 30.0


@dataclass(frozen=True, slots=True)
class Made:
    """What a made run is like."""

    frames: int = 300
    seed: int = 0
    segment_ms: float = 8.0
    source_id: str = "cam"
    drop_every: int = 0
    """0: none."""
    gpu: bool = True
    finished: bool = True
    slow_frame: int | None = None
    """This one waits 400 ms longer in a queue, beside a device fault."""
    key_every: int = 0
    """Every n-th frame is a key frame, which takes much longer; 0: all frames are alike."""
    kinds_told: bool = True
    keep: int = 8
    max_bytes: int = 64 << 20
    torch: str = "2.15.0"


def write_log(folder: Path, made: Made) -> Path:
    """Write `kpi.jsonl` of `made` into `folder`; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    sink = JsonlSink(folder / "kpi.jsonl", max_bytes=made.max_bytes, keep=made.keep)
    for ts, event in events(made):
        sink.write(ts, event)
    sink.close()
    return folder


def events(made: Made) -> list[tuple[float, Event]]:
    random = np.random.default_rng(made.seed)
    told: list[tuple[float, Event]] = [(BEGIN, started(made))]
    told.append((BEGIN + 0.01, SourceStateChanged(made.source_id, 0, "connecting")))
    told.append((BEGIN + 0.02, SourceStateChanged(made.source_id, 0, "streaming")))
    dropped = 0
    for number in range(made.frames):
        ts = BEGIN + 0.1 + number / FPS
        if made.drop_every and number % made.drop_every == made.drop_every - 1:
            told.append((ts, FrameDropped(made.source_id, 0, number, "mailbox")))
            dropped += 1
            continue
        told.append((ts, published(made, number, random)))
        if number == made.slow_frame:
            told.append((ts, DeviceFault("GPU-1", "xid", "XID 31")))
        if number % int(FPS) == 0:
            told.append((ts, sample(made, random)))
    end = BEGIN + 0.2 + made.frames / FPS
    told.append((end, PromptEnded(made.source_id, 0, 5, 1, "add", None, 3)))
    told.append((end, SourceStateChanged(made.source_id, 0, "ended", "frame limit")))
    if made.finished:
        reasons = {"mailbox": dropped} if dropped else {}
        count = made.frames - dropped
        told.append((end, RunFinished(0, made.frames, count, reasons, FPS)))
        told.append((end, EventsDropped(0, {"JsonlSink": 0})))
    return told


def started(made: Made) -> RunStarted:
    gpu = ("NVIDIA H200", "570.1") if made.gpu else (None, None)
    device = "cuda:0" if made.gpu else "cpu"
    return RunStarted("made", device, *gpu, {"torch": made.torch}, "ab" * 32, 1)


def published(made: Made, number: int, random: np.random.Generator) -> FramePublished:
    key = bool(made.key_every) and number % made.key_every == 0
    detect, segment = 2 + random.gamma(4, 0.1), made.segment_ms + random.gamma(4, 0.2)
    if key:
        detect, segment = detect + 18, segment + 72
    queue = random.gamma(2, 0.3) + (400 if number == made.slow_frame else 0)
    stages = {
        "detect": StageMs(detect, detect * 2 if made.gpu else None),
        "segment": StageMs(segment, segment * 2 if made.gpu else None),
    }
    latency = queue + sum(spent.gpu or spent.host for spent in stages.values())
    kind: FrameKind = "key" if key else "followed"
    return FramePublished(
        *(made.source_id, 0, number),
        latency_ms=round(latency, 3),
        age_ms=round(latency + 4, 3),
        stages_ms=stages,
        objects=3,
        presence=(5.0, 2.5, -1.0),
        queue_ms=round(queue, 3),
        kind=kind if made.key_every and made.kinds_told else None,
    )


def sample(made: Made, random: np.random.Generator) -> DeviceSample:
    if not made.gpu:
        return DeviceSample(process_cpu=1.1, process_rss_bytes=1 << 30)
    return DeviceSample(
        gpu="GPU-1",
        gpu_utilization=float(random.uniform(0.5, 0.9)),
        gpu_memory_used_bytes=6 << 30,
        gpu_power_watts=310.0,
        gpu_temperature_celsius=61.0,
        gpu_throttle_reasons=("sw_power_cap",) if random.random() < 0.1 else (),
        process_cpu=1.2,
        process_rss_bytes=2 << 30,
    )


HOSTILE = "<script>alert(1)</script>$x_{$\"'&\x1b[31m\ud800\u202e" + "w" * 300


def hostile_events() -> list[tuple[float, Event]]:
    """Every text that a log may hold is an attack, every number unknown, infinite or absurd."""
    nothing = StageMs(math.nan, math.inf)
    worst = FramePublished(
        *(HOSTILE, -1, 2**63 - 1),
        latency_ms=1e300,
        age_ms=-1e300,
        stages_ms={HOSTILE: StageMs(1e9, 1e-9), "b": nothing},
        objects=2**62,
        presence=(math.nan, 1e300),
    )
    unknown = FramePublished(HOSTILE, 0, 1, math.nan, math.nan, {"b": nothing}, 0)
    return [
        (0.0, RunStarted(HOSTILE, HOSTILE, HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, HOSTILE, 1)),
        (1.0, SourceStateChanged(HOSTILE, 0, "failed", HOSTILE)),
        (2.0, worst),
        (3.0, unknown),
        (4.0, FrameDropped(HOSTILE, 0, 3, HOSTILE)),  # type: ignore[arg-type]
        (5.0, DeviceFault(HOSTILE, "xid", HOSTILE)),
        (6.0, ErrorRaised(HOSTILE, HOSTILE)),
        (7.0, PromptEnded(HOSTILE, 0, 1, 1, HOSTILE, HOSTILE, None)),
        (8.0, RecorderState(HOSTILE, "paused", HOSTILE)),
        (9.0, DeviceSample(gpu=HOSTILE, gpu_power_watts=1e300, process_cpu=math.nan)),
        (9e10, DeviceSample(gpu_throttle_reasons=(HOSTILE,), process_rss_bytes=2**63 - 1)),
    ]


def write_events(folder: Path, told: list[tuple[float, Event]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    sink = JsonlSink(folder / "kpi.jsonl")
    for ts, event in told:
        sink.write(ts, event)
    sink.close()
    return folder
