"""What telling of every frame costs the frame loop, and what a log that hangs costs it.

    python -m benchmarks.kpi_overhead [--quick] [--json FILE] [--objects 8]

One loop over five stages of fixed work (together about two milliseconds), in blocks that take
turns: `off` has no KPI; `on` times every stage and emits `sam_mask_output` and `frame_published`,
which reach a file and the metrics (detail frame); `control` is `on` once more; `hang` is `on` and a
sink beside those two that never returns, its queue full. `overhead_ms`: the median frame of `on`
minus that of `off`; `overhead_pct`: of a frame's time at 30 frames a second; `overhead_mean_ms`:
the same of means, block by block, the median over the rounds, so that stalls by the logger's own
thread count (and those by whatever else the machine does); `cpu_ms`: the same in processor time of
all threads. `hang_p50_ratio`: `hang` over `on`, medians of a block, the median over the rounds;
`control_p50_low/high`: the spread (5 to 95 %) of `control` over `on`; `hang_p99_ratio`: of all
frames. Exits 1 where a bar is missed: 0.15 ms, a median within the spread, p99 within 1.5.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from benchmarks.report import parser, print_table, write_json
from kpi import emit
from kpi.events import Event, FramePublished, SamMaskOutput
from kpi.guarded import EventSink
from kpi.jsonl import JsonlSink
from kpi.logger import KpiLogger
from kpi.prometheus import PrometheusSink
from kpi.timing import StageTimer
from pipeline.chain import RESIDENT_STAGES
from pipeline.health import Health
from pipeline.tally import Tally

MOST_MS, MOST_P99 = 0.15, 1.5
PERIOD_MS = 1000 / 30
FRAMES = 100
"""In a block."""
SETTLE_S = 0.1
"""Between two blocks: the logger's thread ends what the one before left it."""
SIZE = 224
"""Of the matrices that a stage multiplies."""


class HungSink:
    """Hangs in its first write until released."""

    def __init__(self) -> None:
        self.release = threading.Event()

    def write(self, ts: float, event: Event) -> None:
        self.release.wait()

    def flush(self) -> None: ...

    def close(self) -> None: ...


class Loop:
    """The frame loop's work, alone and with everything that is told of a frame."""

    def __init__(self, objects: int) -> None:
        self._matrix = torch.eye(SIZE)
        self._timer = StageTimer("cpu")
        self._presence = tuple(round(3.5 + row / 8, 3) for row in range(objects))
        self._frame_id = 0

    def work(self) -> None:
        """One stage."""
        for _ in range(2):
            self._matrix = self._matrix @ self._matrix

    def silent(self) -> None:
        """A frame without KPI."""
        for _ in RESIDENT_STAGES:
            self.work()

    def told(self) -> None:
        """A frame with all of it, as orchestrator and egress tell it."""
        grabbed_ns = time.monotonic_ns()
        times = self._timer.frame()
        times.waits(grabbed_ns)
        times.goes_on()
        for stage in RESIDENT_STAGES:
            with times.stage(stage):
                self.work()
        emit(SamMaskOutput(0, "cpu", len(self._presence)))
        ms = (time.monotonic_ns() - grabbed_ns) / 1e6
        self._frame_id += 1
        emit(
            FramePublished(
                *("bench", 0, self._frame_id, round(ms, 3), round(ms, 3), times.stages_ms()),
                *(len(self._presence), self._presence, round(times.queue_ms, 3)),
                kind="key",
            )
        )


@dataclass(slots=True)
class Arm:
    """One way to run the loop, and the milliseconds a frame of each of its blocks took."""

    frame: Callable[[], None]
    logger: KpiLogger | None = None
    blocks: list[np.ndarray] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    def run(self) -> None:
        scope: AbstractContextManager[object] = nullcontext()
        if self.logger is not None:
            scope = self.logger.use()
        seconds, cpu = np.zeros(FRAMES), time.process_time()
        with scope:
            for number in range(FRAMES):
                started = time.perf_counter()
                self.frame()
                seconds[number] = time.perf_counter() - started
        time.sleep(SETTLE_S)
        self.blocks.append(seconds * 1e3)
        self.cpu_ms.append((time.process_time() - cpu) * 1e3 / FRAMES)

    def each(self, statistic: Callable[[np.ndarray], float]) -> np.ndarray:
        """`statistic` of every block."""
        return np.array([statistic(block) for block in self.blocks])

    def percentile(self, percent: float) -> float:
        return float(np.percentile(np.concatenate(self.blocks), percent))


def _sinks(path: Path) -> list[EventSink]:
    """A run's: metrics, its health and a file."""
    health = Health(Tally(RESIDENT_STAGES), stale_after_s=2.0, hung_after_s=10.0)
    return [PrometheusSink("bench", RESIDENT_STAGES, {}), health, JsonlSink(path)]


@contextmanager
def arms(objects: int) -> Iterator[dict[str, Arm]]:
    """The four ways, warm."""
    loop, hung = Loop(objects), HungSink()
    with tempfile.TemporaryDirectory() as folder:
        healthy = KpiLogger(_sinks(Path(folder) / "kpi.jsonl"))
        stuck = KpiLogger([hung, *_sinks(Path(folder) / "stuck.jsonl")], capacity=FRAMES)
        made = {
            "off": Arm(loop.silent),
            "on": Arm(loop.told, healthy),
            "control": Arm(loop.told, healthy),
            "hang": Arm(loop.told, stuck),
        }
        for arm in made.values():  # the first block warms up, and fills the queue that hangs
            arm.run()
            arm.blocks.clear()
            arm.cpu_ms.clear()
        yield made
        if healthy.dropped or not stuck.lost["HungSink"]:
            raise RuntimeError(
                f"got {healthy.dropped} drops and {stuck.lost} lost, expected none and some"
            )
        hung.release.set()
        healthy.close()
        stuck.close()


def judged(found: dict[str, Arm]) -> dict[str, float | int | bool]:
    """The figures of the docstring."""
    off, on, control, hang = found.values()
    cost = on.percentile(50) - off.percentile(50)
    spread = np.percentile(control.each(np.median) / on.each(np.median), (5, 95))
    hang_p50 = float(np.median(hang.each(np.median) / on.each(np.median)))
    hang_p99 = hang.percentile(99) / on.percentile(99)
    return {
        "overhead_ms": round(cost, 4),
        "overhead_pct": round(100 * cost / PERIOD_MS, 3),
        "overhead_mean_ms": round(float(np.median(on.each(np.mean) - off.each(np.mean))), 4),
        "cpu_ms": round(float(np.median(np.array(on.cpu_ms) - np.array(off.cpu_ms))), 4),
        "hang_p50_ratio": round(hang_p50, 4),
        "control_p50_low": round(float(spread[0]), 4),
        "control_p50_high": round(float(spread[1]), 4),
        "hang_p99_ratio": round(hang_p99, 4),
        "control_p99_ratio": round(control.percentile(99) / on.percentile(99), 4),
        "fine": cost <= MOST_MS and bool(hang_p50 <= spread[1]) and hang_p99 <= MOST_P99,
    }


@torch.inference_mode()
def main() -> None:
    """Measure, print, write; exit 1 where a bar is missed."""
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--objects", type=int, default=8)
    made.add_argument("--rounds", type=int, help="blocks of each kind")
    options = made.parse_args()
    torch.set_num_threads(1)  # a core for the loop, one for the logger's thread
    rounds = options.rounds or (6 if options.quick else 40)
    with arms(options.objects) as found:
        for number in range(rounds):
            names = list(found)
            for name in names[number % 4 :] + names[: number % 4]:  # nobody always comes first
                found[name].run()
        results = judged(found)
    rows = [
        (
            n,
            *(arm.percentile(p) for p in (50, 95, 99)),
            arm.percentile(50) / found["off"].percentile(50),
        )
        for n, arm in found.items()
    ]
    print_table("time a frame, ms", ("", "p50", "p95", "p99", "of off's p50"), rows)
    print_table("judged", ("", "found"), list(results.items()))
    measured = {
        f"{name}_ms_p{percent}": round(arm.percentile(percent), 4)
        for name, arm in found.items()
        for percent in (50, 95, 99)
    }
    results = {"rounds": rounds, "frames_a_block": FRAMES, "objects": options.objects} | results
    write_json(options.json, "kpi_overhead", results | measured)
    sys.exit(0 if results["fine"] else 1)


if __name__ == "__main__":
    main()
