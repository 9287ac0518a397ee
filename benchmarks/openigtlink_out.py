"""What results over OpenIGTLink cost the frame loop, with receivers healthy, slow and stopped.

    python -m benchmarks.openigtlink_out [--quick] [--json FILE] [--seconds 30]

Eight masks of 480×640, 30 results a second, receivers in processes of their own. `alone`: four
healthy ones; `crowd`: the same with one that is stopped (SIGSTOP) and one that takes a picture a
second; `nobody`: no receiver at all, which is what the machine alone does to the calling thread.
`write_ms`: what `write` takes of that thread; `healthy_lost`: results that the healthy ones
together did not get, of which `unsent` a receiver were replaced by newer ones before they could
be sent to anyone, since the server waited for a core. `encode_ms`: making the messages of one
result, in a thread of the server's, against the ZMQ message of the same result. `rss_growth_mb`: of
the server's process, from the second second on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import psutil

from benchmarks.report import parser, print_table, write_json
from stages.packets import HostPacket
from stages.sinks.igtl_result import Names, ResultMessages
from stages.sinks.openigtlink_server import OpenIGTLinkServer, OpenIGTLinkServerConfig
from stages.wire import encode_result
from tests.result_packets import random_packet

ROOT = Path(__file__).parent.parent
SIZE_HW = (480, 640)
OBJECTS = 8
RATE = 30.0
HEALTHY = 4
MOST_WRITE_MS = 2.0
"""What `write` may take, 99 times of 100."""
_START_NS = 1_700_000_000_000_000_000
_TICK_NS = 1_000_000


@dataclass(frozen=True, slots=True)
class Shown:
    """What one window showed."""

    write_ms_p50: float
    write_ms_p99: float
    written: int
    healthy_lost: int
    healthy_damaged: int
    unsent: int
    missed: int
    """By the slow and the stopped one."""
    rss_growth_mb: float


def packets() -> list[HostPacket]:
    rng = np.random.default_rng(0)
    return [random_packet(rng, OBJECTS, SIZE_HW)[0] for _ in range(8)]


def measure(mode: str, seconds: float) -> Shown:
    """One window with a server of its own."""
    count = 0 if mode == "nobody" else HEALTHY
    some, process = packets(), psutil.Process()
    server = OpenIGTLinkServer(OpenIGTLinkServerConfig(port=0, max_clients=16), "bench", ())
    port = int(server.endpoint.rpartition(":")[2])
    server.poll()
    with ExitStack() as stack:
        healthy = [stack.enter_context(receiver(port, 0.0)) for _ in range(count)]
        others = [stack.enter_context(receiver(port, 1.0)) for _ in range(2 * (mode == "crowd"))]
        for each in healthy + others:
            stack.callback(each.kill)
        while server.clients < len(healthy) + len(others):
            time.sleep(0.01)
        took_ms, rss = list[float](), list[float]()
        begin = time.monotonic()
        for index in range(round(seconds * RATE)):
            if index == round(RATE):  # a second in
                for other in others[:1]:
                    other.send_signal(signal.SIGSTOP)
            packet = some[index % len(some)]
            stamp = _START_NS + index * _TICK_NS
            packet = replace(packet, info=replace(packet.info, captured_unix_ns=stamp))
            server.poll()
            before = time.perf_counter()
            server.write(packet)
            took_ms.append((time.perf_counter() - before) * 1e3)
            if index % round(RATE) == 0:
                rss.append(process.memory_info().rss / 1e6)
            time.sleep(max(0.0, begin + (index + 1) / RATE - time.monotonic()))
        time.sleep(0.5)  # for the last ones to arrive
        server.close()
        found = [json.loads(each.communicate(timeout=30)[0]) for each in healthy]
    images = sum(each["images"] for each in found)
    return Shown(
        write_ms_p50=float(np.percentile(took_ms, 50)),
        write_ms_p99=float(np.percentile(took_ms, 99)),
        written=len(took_ms),
        healthy_lost=count * len(took_ms) - images,
        healthy_damaged=sum(each["damaged"] for each in found),
        unsent=server.unsent,
        missed=server.troubles["missed"],
        rss_growth_mb=rss[-1] - rss[min(2, len(rss) - 1)],
    )


def receiver(port: int, pause_s: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.igtl_watcher", str(port), str(pause_s)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def encoding(rounds: int) -> tuple[float, float]:
    """Milliseconds a result, over OpenIGTLink and over ZMQ, in turns; medians."""
    some = packets()
    made = ResultMessages(Names("Masks", "Centroids", "Boxes"), (), 1)
    igtl_ms, zmq_ms = list[float](), list[float]()
    for index in range(rounds + 10):
        packet = some[index % len(some)]
        begin = time.perf_counter()
        made.of(packet)
        middle = time.perf_counter()
        encode_result(packet, index)
        if index >= 10:  # warm
            igtl_ms.append((middle - begin) * 1e3)
            zmq_ms.append((time.perf_counter() - middle) * 1e3)
    return median(igtl_ms), median(zmq_ms)


def main() -> None:
    """Measure, print, write; exit 1 where the frame loop would wait, or one loses by others."""
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--seconds", type=float, default=30.0, help="of each window")
    options = made.parse_args()
    seconds = min(4.0, options.seconds) if options.quick else options.seconds
    igtl_ms, zmq_ms = encoding(50 if options.quick else 300)
    results: dict[str, object] = {
        "load_before": round(os.getloadavg()[0], 2),
        "seconds": seconds,
        "encode_ms": round(igtl_ms, 3),
        "zmq_encode_ms": round(zmq_ms, 3),
        "encode_ratio": round(igtl_ms / zmq_ms, 2),
    }
    shown = {name: measure(name, seconds) for name in ("nobody", "alone", "crowd")}
    for name, each in shown.items():
        for key, value in asdict(each).items():
            results[f"{name}_{key}"] = round(value, 3)
    columns = (
        "",
        "write p50 ms",
        "p99 ms",
        "written",
        "lost",
        "damaged",
        "unsent",
        "missed",
        "RSS +MB",
    )
    rows = [(name, *astuple(each)) for name, each in shown.items()]
    print_table(f"encode {igtl_ms:.2f} ms a result, ZMQ {zmq_ms:.2f} ms", columns, rows)
    results["fine"] = all(
        each.write_ms_p99 <= MOST_WRITE_MS
        and each.healthy_lost <= HEALTHY * each.unsent
        and not each.healthy_damaged
        for each in shown.values()
    )
    write_json(options.json, "openigtlink_out", results)
    sys.exit(0 if results["fine"] else 1)


if __name__ == "__main__":
    main()
