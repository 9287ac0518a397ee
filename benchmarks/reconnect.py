"""How soon results come again after a live source was cut off, and what each cut leaves behind.

    python -m benchmarks.reconnect [--quick] [--json FILE] [--cuts 50] [--stalls 10]

A run of its own process (`sam2_image`, demo weights, no detector) reads a real server through a
proxy. Each cut resets the connection after a random number of bytes, and nobody can connect for a
random time of up to `--away` seconds; then the proxy takes clients again, which is when the feed
is back. `result_s`: from then to the first published frame of the new epoch. Each stall lets the
connection stand and passes nothing for 3 s; `stale_s`: until the source said that it is stale.
Threads, file descriptors and resident memory of the run are looked at after the first fifth of
the cuts, when all that happens once has happened, and at the end, each time with the stream
flowing for some seconds. `fine`: the bounds below hold, ids rise, every cut raised the epoch, and
grabbed = published + dropped.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.live_run import PATIENCE_S, Load, Run
from benchmarks.report import parser, print_table, write_json
from tests.chaos_proxy import ChaosProxy
from tests.igtl_senders import Broadcaster
from tests.rtsp_peer import RtspServer

MOST_RESULT_S = 6.0
MOST_STALE_S = 2.0
MOST_RSS_MB = 5.0
STALL_S = 3.0
BYTES = (1, 250_000)
"""A cut comes after so many bytes, at least and at most: up to some two seconds of the stream."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A sender, and how a run is told where the proxy before it listens."""

    port: int
    source: Callable[[int], dict[str, object]]


@contextmanager
def rtsp() -> Iterator[Peer]:
    """25 pictures a second, a keyframe each second."""
    with RtspServer() as server:
        yield Peer(
            server.port,
            lambda port: {"kind": "rtsp", "url": f"rtsp://127.0.0.1:{port}/test"},
        )


@contextmanager
def openigtlink() -> Iterator[Peer]:
    """100 small pictures a second."""
    with Broadcaster() as server:
        yield Peer(server.port, lambda port: {"kind": "openigtlink", "port": port})


TRANSPORTS: dict[str, Callable[[], AbstractContextManager[Peer]]] = {
    "openigtlink": openigtlink,
    "rtsp": rtsp,
}


def published(epoch: int, since: float = 0.0) -> Callable[[dict[str, Any]], bool]:
    """Whether an event is a frame of that epoch, or a later one, published after `since`."""
    return lambda e: e["event"] == "frame_published" and e["epoch"] >= epoch and e["ts"] >= since


def cut(run: Run, proxy: ChaosProxy, epoch: int, away_s: float, at: int) -> float:
    """Cut once, within the stream of `epoch`; seconds from the feed's return to a result."""
    run.await_event(published(epoch))
    connections = proxy.connections
    proxy.faults.cut_at = at
    deadline = time.monotonic() + PATIENCE_S
    while proxy.faults.cut_at is not None:
        if time.monotonic() > deadline:
            raise SystemExit(f"connection {connections} was not cut")
        time.sleep(0.001)
    proxy.refuse()
    time.sleep(away_s)
    proxy.accept()
    back = time.time()
    return float(run.await_event(published(epoch + 1))["ts"]) - back


def stall(run: Run, proxy: ChaosProxy) -> float:
    """Stall once; seconds until the source said so."""
    run.await_event(published(0, time.time()))
    proxy.stall()
    begin = time.time()
    told = run.await_event(
        lambda e: e["event"] == "source_state" and e["state"] == "stale" and e["ts"] >= begin
    )
    time.sleep(max(0.0, STALL_S - (time.time() - begin)))
    proxy.resume()
    run.await_event(published(0, time.time()))
    return float(told["ts"]) - begin


def measure(transport: str, cuts: int, stalls: int, away_s: float) -> dict[str, object]:
    """One transport's figures."""
    rng = random.Random(7)  # noqa: S311 (repeatable, not secret)
    results, told = [], []
    with (
        tempfile.TemporaryDirectory() as name,
        TRANSPORTS[transport]() as peer,
        ChaosProxy("127.0.0.1", peer.port) as proxy,
    ):
        run = Run(Path(name), peer.source(proxy.port))
        try:
            before: Load | None = None
            for number in range(cuts):
                if number == max(1, cuts // 5):
                    before = run.load()
                results.append(cut(run, proxy, number, rng.uniform(0, away_s), rng.randint(*BYTES)))
            after = run.load()
            told = [stall(run, proxy) for _ in range(stalls)]
            summary = run.end()
        finally:
            run.process.kill()
            run.process.wait()
    return judged(run.events, summary, results, told, before or after, after)


def judged(
    events: list[dict[str, Any]],
    summary: dict[str, Any],
    results: list[float],
    told: list[float],
    before: Load,
    after: Load,
) -> dict[str, object]:
    """The figures, and whether they are `fine`."""
    frames = [event for event in events if event["event"] == "frame_published"]
    ids, epochs = [f["frame_id"] for f in frames], [f["epoch"] for f in frames]
    counted = summary["frames"]
    found: dict[str, Any] = {
        "cuts": len(results),
        "result_s_median": round(median(results), 3),
        "result_s_max": round(max(results), 3),
        "stalls": len(told),
        "stale_s_median": round(median(told), 3),
        "stale_s_max": round(max(told), 3),
        "ids_rise": all(a < b for a, b in pairwise(ids)),
        "epochs_rise": all(a <= b for a, b in pairwise(epochs)),
        "epochs": max(epochs),
        "grabbed": counted["grabbed"],
        "published": counted["published"],
        "dropped": sum(counted["dropped"].values()),
        "threads_more": after.threads - before.threads,
        "descriptors_more": after.descriptors - before.descriptors,
        "rss_mb": round(after.rss_mb, 1),
        "rss_more_mb": round(after.rss_mb - before.rss_mb, 2),
    }
    return {**found, "fine": is_fine(found)}


def is_fine(found: dict[str, Any]) -> bool:
    return bool(
        found["result_s_max"] <= MOST_RESULT_S
        and found["stale_s_max"] <= MOST_STALE_S
        and found["ids_rise"]
        and found["epochs_rise"]
        and found["epochs"] >= found["cuts"]
        and found["grabbed"] == found["published"] + found["dropped"]
        and found["threads_more"] <= 0
        and found["descriptors_more"] <= 0
        and found["rss_more_mb"] <= MOST_RSS_MB
    )


def main() -> None:
    """Measure, print, write; exit 1 where a bound does not hold."""
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--cuts", type=int, default=50)
    made.add_argument("--stalls", type=int, default=10)
    made.add_argument("--away", type=float, default=6.0, help="seconds at most")
    made.add_argument("--transport", choices=sorted(TRANSPORTS), action="append")
    options = made.parse_args()
    cuts, stalls = (5, 2) if options.quick else (options.cuts, options.stalls)
    results: dict[str, object] = {"load_before": round(os.getloadavg()[0], 2), "seed": 7}
    for transport in options.transport or sorted(TRANSPORTS):
        found = measure(transport, cuts, stalls, options.away)
        print_table(transport, ("", ""), list(found.items()))
        results |= {f"{transport}_{key}": value for key, value in found.items()}
    results["load_after"] = round(os.getloadavg()[0], 2)
    results["fine"] = all(value for key, value in results.items() if key.endswith("_fine"))
    write_json(options.json, "reconnect", results)
    sys.exit(0 if results["fine"] else 1)


if __name__ == "__main__":
    main()
