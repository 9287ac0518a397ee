"""What becomes of a frame's age and of memory when pictures come faster than they are worked on.

    python -m benchmarks.overload [--quick] [--json FILE] [--fps 120] [--worked 10] [--seconds 20]

A live source, over a TCP connection of this process, gives `--fps` pictures a second of
640 x 480 to a frame loop whose detector takes 1 / `--worked` seconds for each; no model is
loaded. `age_start`: of a frame when its detection began, `age_finish`: when its second half
(segment) did, each in periods of the pipeline. `latest` is the default mailbox; `every`, with 4
waiting, is there for comparison: its age is what queues cost. `rss_more_mb`: resident memory at
the end against that after the first fifth. `fine`: under `latest` no age_start above 2 periods,
at most 5 MB more, and grabbed = published + dropped for both.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import psutil
import torch

from benchmarks.paced_feed import SocketFeed, sender
from benchmarks.report import parser, print_table, write_json
from kpi.timing import FrameTimes, StageTimer
from pipeline.chain import RESIDENT_STAGES, Wanted
from pipeline.egress import Egress
from pipeline.orchestrator import AuditPlan, Orchestrator
from pipeline.tally import Tally
from stages.copies import CopyCount
from stages.grab import Grab
from stages.mailbox import MailboxPolicy
from stages.packets import HostPacket
from stages.records import Encoded, Frame
from stages.sources.live import LiveSource
from stages.sources.live_section import LiveSection
from tests.test_frame_loop import FakeChain, FakePending

MOST_PERIODS = 2.0
MOST_RSS_MB = 5.0


@dataclass
class Ages:
    """Seconds, of every frame."""

    start: list[float] = field(default_factory=list)
    finish: list[float] = field(default_factory=list)


class SlowChain(FakeChain):
    """The detector sleeps; the halves note how old their frame is."""

    stages = RESIDENT_STAGES
    copies: tuple[CopyCount, ...] = ()

    def __init__(self, period_s: float) -> None:
        super().__init__()
        self.ages = Ages()
        self._period_s = period_s

    def look(self, frame: Frame, times: FrameTimes) -> Encoded:
        self.ages.start.append((time.monotonic_ns() - frame.captured_ns) / 1e9)
        time.sleep(self._period_s)
        return super().look(frame, times)

    def finish(self, encoded: Encoded, times: FrameTimes, wanted: Wanted) -> FakePending:
        captured_ns = encoded.detections.frame.captured_ns
        self.ages.finish.append((time.monotonic_ns() - captured_ns) / 1e9)
        return super().finish(encoded, times, wanted)


class NoSink:
    """Takes every packet."""

    wants_masks = False

    def write(self, packet: HostPacket) -> None:
        """Nothing is kept."""

    def poll(self) -> None:
        """Nobody comes."""

    def close(self) -> None:
        """Nothing is open."""


def rss_mb() -> float:
    return float(psutil.Process().memory_info().rss / 1e6)


def measure(
    mailbox: MailboxPolicy, fps: float, period_s: float, seconds: float
) -> dict[str, object]:
    """One run's figures."""
    chain, tally, stop = SlowChain(period_s), Tally(RESIDENT_STAGES), threading.Event()
    egress = Egress((NoSink(),), tally)
    loop = Orchestrator(chain, egress, StageTimer("cpu"), tally, AuditPlan(0, "count"), ())
    with sender(fps) as port:
        source = LiveSource(LiveSection(frozen_after=None), lambda: SocketFeed(port))
        grab = Grab(source, torch.device("cpu"), mailbox=mailbox, depth=4)
        tally.upstream = lambda: grab.dropped
        egress.start()
        grab.start()
        running = threading.Thread(target=loop.run, args=(grab, stop))
        running.start()
        time.sleep(seconds / 5)
        early_mb = rss_mb()
        time.sleep(seconds * 4 / 5)
        late_mb = rss_mb()
        stop.set()
        running.join()
        grab.stop()
        egress.stop(5.0)
    start, finish = (np.array(ages) / period_s for ages in (chain.ages.start, chain.ages.finish))
    return {
        "grabbed": grab.grabbed,
        "published": tally.published,
        "dropped": sum(tally.dropped.values()),
        "age_start_p50": round(float(np.median(start)), 3),
        "age_start_max": round(float(start.max()), 3),
        "age_finish_p50": round(float(np.median(finish)), 3),
        "age_finish_max": round(float(finish.max()), 3),
        "rss_more_mb": round(late_mb - early_mb, 2),
    }


def main() -> None:
    """Measure, print, write; exit 1 where a bound does not hold."""
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--fps", type=float, default=120.0)
    made.add_argument("--worked", type=float, default=10.0, help="frames a second")
    made.add_argument("--seconds", type=float, default=20.0)
    options = made.parse_args()
    seconds = min(5.0, options.seconds) if options.quick else options.seconds
    load = round(os.getloadavg()[0], 2)
    policies: tuple[MailboxPolicy, ...] = ("latest", "every")
    measure("latest", options.fps, 1 / options.worked, 2.0)  # what happens once happens here
    found = {way: measure(way, options.fps, 1 / options.worked, seconds) for way in policies}
    rows = [(key, *(found[way][key] for way in policies)) for key in found["latest"]]
    print_table(f"{options.fps:g} in, {options.worked:g} out", ("", *policies), rows)
    results = {f"{way}_{key}": value for way in policies for key, value in found[way].items()}
    counts = [[one[key] for key in ("grabbed", "published", "dropped")] for one in found.values()]
    fine = (
        float(str(results["latest_age_start_max"])) <= MOST_PERIODS
        and float(str(results["latest_rss_more_mb"])) <= MOST_RSS_MB
        and all(int(str(g)) == int(str(p)) + int(str(d)) for g, p, d in counts)
    )
    write_json(options.json, "overload", {"load_before": load, **results, "fine": fine})
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
