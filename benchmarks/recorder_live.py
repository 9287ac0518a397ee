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

import io
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.recorder_rigs import ARMS, BLOCK, Disk, Fed, Switched, recorders
from benchmarks.report import parser, print_table, write_json
from pipeline.config import load_config
from pipeline.frame_flow import RunOptions
from pipeline.rerun import RerunOptions, rerun
from pipeline.run import start
from stages.control_client import Controller, Verb
from stages.errors import MaskstreamError
from stages.recording.log_reader import LogRecording

LOCAL = [
    *("results.endpoint=tcp://127.0.0.1:0", "http.port=0", "source.ahead=0", "preview=null"),
    *("control.endpoint=tcp://127.0.0.1:0", "kpi.detail=second"),
]
EVERYTHING = (
    "recorder={record: [frames, detections, prompts, logits, masks, packets], dtype: float32, "
    "min_free_bytes: 0}"
)
PROMPT, MOVED = "[100, 100, 200, 200]", "[400, 250, 520, 400]"


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
