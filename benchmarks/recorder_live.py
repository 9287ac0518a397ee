"""The recorder beside a live run: what it sustains, what a failing disk costs, and the rerun.

    python -m benchmarks.recorder_live [--quick] [--json FILE] [--seconds 30] [--mb-per-s 20]

The run is the demo, as fast as it can, in one process with its recorder (`log`, policy `drop`).

`load`: beside what the run gives, the recorder is offered noise that no compression makes smaller,
as float32 logits (256×256), `--mb-per-s` of it by the clock; `dropped` must be 0.
`faults`: one run whose blocks of frames take turns: `off` records nothing, `control` neither, `on`
records everything the run can, `failing` the same on a disk on which every write fails, with
ENOSPC and EIO in turn, and which is tried again 20 times a second. Of each block the median time
from frame to frame; `on_ratio` and `failing_ratio`: over `off`, median over the rounds, to be
within `control_low` and `control_high` (5 to 95 % of `control` over `off`).
`rerun`: frames are recorded while somebody adds, removes and pauses, then run again; every mask
must be the same, bit for bit, and with the first configured prompt moved they must not be.

Exits 1 where a bar is missed.
"""

from __future__ import annotations

import errno
import io
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from rich.console import Console

from benchmarks.report import parser, print_table, write_json
from pipeline.config import load_config
from pipeline.frame_flow import RunOptions
from pipeline.rerun import RerunOptions, rerun
from pipeline.run import start
from stages.control_client import Controller, Verb
from stages.errors import MaskstreamError
from stages.packets import HostPacket
from stages.recorder.config import RecorderConfig
from stages.recorder.recorder import Recorder
from stages.recording.files import OsFiles
from stages.recording.layout import Buffer
from stages.recording.log_reader import LogRecording
from stages.recording.log_writer import LogOptions, LogWriter
from stages.recording.manifest import Manifest
from stages.recording.writing import create_log

LOCAL = [
    *("results.endpoint=tcp://127.0.0.1:0", "http.port=0", "source.ahead=0", "preview=null"),
    *("control.endpoint=tcp://127.0.0.1:0", "kpi.detail=second"),
]
EVERYTHING = (
    "recorder={record: [frames, detections, prompts, logits, masks, packets], dtype: float32, "
    "min_free_bytes: 0}"
)
SIDE, ROWS = 256, 64
ARMS = ("off", "control", "on", "failing")
BLOCK = 40
"""Frames; the first few of a block belong to the one before."""
SETTLE = 8
PROMPT, MOVED = "[100, 100, 200, 200]", "[400, 250, 520, 400]"


class Fed(Recorder):
    """Offers noise in place of every frame's logits, so much that it adds up to a rate."""

    rate = 0.0
    """Bytes a second."""

    def __init__(self, config: RecorderConfig, *, masks: bool, logits: bool) -> None:
        super().__init__(config, masks=masks, logits=logits)
        self._began: float | None = None
        self.span_s = 0.0
        """From the first frame to the last."""
        self._fed = 0
        self._rng = np.random.default_rng(0)
        self._noise = self._rng.standard_normal((ROWS, SIDE, SIDE), np.float32)

    def write(self, packet: HostPacket) -> None:
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        self.span_s = now - self._began
        owed = self.span_s * self.rate - self._fed
        rows = min(ROWS, int(owed // self._noise[0].nbytes))
        self._fed += rows * self._noise[0].nbytes
        first = int(self._rng.integers(0, ROWS - rows + 1))
        logits, ids = self._noise[first : first + rows], np.arange(rows, dtype=np.int64)
        super().write(replace(packet, logits=logits, object_ids=ids))


class Disk(OsFiles):
    """Fails while it is told to, in two ways in turn."""

    failing = False

    def __init__(self) -> None:
        self.failures = 0

    def write(self, fd: int, buffers: Sequence[Buffer]) -> int:
        if self.failing:
            self.failures += 1
            raise OSError((errno.ENOSPC, errno.EIO)[self.failures % 2], "injected")
        return super().write(fd, buffers)


class Switched(Recorder):
    """Records or not, block by block, and notes the time from frame to frame."""

    disk: Disk

    def __init__(self, config: RecorderConfig, *, masks: bool, logits: bool) -> None:
        super().__init__(config, masks=masks, logits=logits)
        self.spans: dict[str, list[list[float]]] = {arm: [] for arm in ARMS}
        self._last, self._frame = time.perf_counter(), 0

    def write(self, packet: HostPacket) -> None:
        now = time.perf_counter()
        place, within = divmod(self._frame, BLOCK)
        arm = ARMS[place % len(ARMS)]
        if within == 0:
            self.disk.failing = arm == "failing"
            self.spans[arm].append([])
        if within >= SETTLE:
            self.spans[arm][-1].append((now - self._last) * 1e3)
        self._last, self._frame = now, self._frame + 1
        if arm in ("on", "failing"):
            super().write(packet)
        else:
            self.looks.seen(packet.info.epoch, packet.info.frame_id)
            self._messages = []
        following = ARMS[(self._frame // BLOCK) % len(ARMS)]
        if following in ("off", "control"):
            self.wants_masks = self.wants_logits = self.looks.wanted = False
        elif within == BLOCK - 1:
            self.wants_masks = self.wants_logits = self.looks.wanted = True


@contextmanager
def recorders(kind: type[Recorder], disk: Disk | None = None) -> Iterator[list[Recorder]]:
    """Runs make recorders of `kind`, on `disk`; gives those that were made."""
    made: list[Recorder] = []

    def make(config: RecorderConfig, *, masks: bool, logits: bool) -> Recorder:
        made.append(kind(config, masks=masks, logits=logits))
        return made[-1]

    with ExitStack() as stack:
        stack.enter_context(mock.patch("stages.recorder.recorder.Recorder", make))
        if disk is not None:
            create = partial(_create, disk)
            stack.enter_context(mock.patch("pipeline.recording.create_log", create))
        yield made


def _create(disk: Disk, root: Path, manifest: Manifest, options: LogOptions) -> LogWriter:
    return create_log(root, manifest, replace(options, retry_s=0.05), files=disk)


def record(out: Path, frames: int, *overrides: str) -> dict[str, Any]:
    """The summary of one run; raises `RuntimeError` where it failed."""
    config = load_config("demo", [*LOCAL, *overrides])
    said = io.StringIO()
    if start(config, RunOptions(frames, out), Console(file=said)):
        raise RuntimeError(said.getvalue())
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return found


def load(folder: Path, seconds: float, rate: float) -> dict[str, float]:
    """Noise at `rate` bytes a second for so long, beside the run."""
    Fed.rate = rate
    with recorders(Fed) as made:
        fps = 30.0
        summary = record(
            folder / "load",
            round(seconds * fps),
            f"source.fps={fps:g}",
            "source.ahead=300",
            "recorder={record: [logits], dtype: float32, min_free_bytes: 0}",
        )
    fed = made[0]
    if not isinstance(fed, Fed):
        raise TypeError("another recorder was made")
    told, live_s = fed.report(), fed.span_s
    with LogRecording(folder / "load" / "recording") as log:
        noise = sum(log.logits_at(frame, epoch).values.nbytes for epoch, frame in log.frames())
        whole = len(log.frames()) == told.written and not log.flaws
    return {
        "seconds": round(live_s, 2),
        "offered": told.offered,
        "dropped": told.offered - told.written,
        "noise_mb_per_s": round(noise / live_s / 1e6, 2),
        "mb_per_s": round(told.bytes / live_s / 1e6, 2),
        "fps": summary["fps"],
        "reads_back": float(whole),
    }


def faults(folder: Path, rounds: int) -> dict[str, float]:
    """Blocks of one run that take turns."""
    disk = Switched.disk = Disk()
    with recorders(Switched, disk) as made:
        frames = (rounds * len(ARMS) + 1) * BLOCK
        record(folder / "faults", frames, "source.fps=null", EVERYTHING)
    recorder = made[0]
    if not isinstance(recorder, Switched):
        raise TypeError("another recorder was made")
    medians = {
        arm: [statistics.median(block) for block in blocks[1 : rounds + 1] if block]
        for arm, blocks in recorder.spans.items()
    }
    told = recorder.report()
    ratios = {
        arm: [b / a for a, b in zip(medians["off"], medians[arm], strict=False)] for arm in ARMS
    }
    low, high = np.quantile(ratios["control"], (0.05, 0.95))
    return {
        **{f"{arm}_ms": round(statistics.median(medians[arm]), 3) for arm in ARMS},
        **{f"{arm}_ratio": round(statistics.median(ratios[arm]), 4) for arm in ("on", "failing")},
        "control_low": round(float(low), 4),
        "control_high": round(float(high), 4),
        "failures": disk.failures,
        "pauses": told.pauses,
        "unaccounted": told.offered - told.written - sum(told.dropped.values()),
    }


def again(folder: Path, frames: int) -> dict[str, float]:
    """Record with people at work, and run it again."""
    out = folder / "again"
    prompts = "segmenter.prompts=[{box: %s}]"
    people = threading.Thread(target=_people, args=(out,), daemon=True)
    people.start()
    record(out, frames, prompts % PROMPT, EVERYTHING)
    same = rerun(out, RerunOptions())
    other = rerun(out, RerunOptions((prompts % MOVED,)))
    return {
        "frames": same.compared.frames,
        "not_compared": same.not_compared,
        "masks": same.compared.objects,
        "differing_frames": same.compared.differing_frames,
        "with_another_prompt": other.compared.differing_frames,
    }


def _people(out: Path) -> None:
    """Somebody clicks, takes away, and pauses."""
    file = out / "endpoints.json"
    while not file.exists():
        time.sleep(0.1)
    time.sleep(3)
    asked: tuple[tuple[Verb, dict[str, Any]], ...] = (
        ("add", {"points": [(320, 200)], "labels": [1]}),
        ("pause", {}),
        ("remove", {"object_id": 1}),
        ("resume", {}),
        ("add", {"box": (50, 300, 150, 400)}),
    )
    with Controller(json.loads(file.read_text())["control"]) as run:
        for verb, fields in asked:
            try:
                run.send(verb, **fields)
            except MaskstreamError:
                return
            time.sleep(0.5)


def main() -> None:
    """Measure, print, write; exit 1 where a bar is missed."""
    made = parser((__doc__ or "").splitlines()[0])
    made.add_argument("--seconds", type=float, default=30.0)
    made.add_argument("--mb-per-s", type=float, default=20.0)
    args = made.parse_args()
    seconds = 4.0 if args.quick else args.seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = {
            "load": load(folder, seconds, args.mb_per_s * 1e6),
            "faults": faults(folder, 3 if args.quick else 12),
            "rerun": again(folder, 60 if args.quick else 300),
        }
    for part, found in results.items():
        print_table(part, ("", "found"), list(found.items()))
    flat = {
        f"{part}_{key}": value for part, found in results.items() for key, value in found.items()
    }
    write_json(args.json, "recorder_live", flat)
    sys.exit(0 if _holds(results, args.mb_per_s) else 1)


def _holds(results: dict[str, dict[str, float]], rate: float) -> bool:
    load_, faults_, again_ = results["load"], results["faults"], results["rerun"]
    bars = (
        load_["dropped"] == 0 and load_["noise_mb_per_s"] >= 0.95 * rate,
        faults_["failing_ratio"] <= faults_["control_high"],
        faults_["on_ratio"] <= faults_["control_high"],
        faults_["unaccounted"] == 0,
        again_["differing_frames"] == 0 < again_["with_another_prompt"],
    )
    return all(bars)


if __name__ == "__main__":
    main()
