"""What a slow or stopped subscriber costs the publisher and the others; what a packet costs.

    python -m benchmarks.transport [--quick] [--json FILE] [--seconds 30]

Packets of eight masks of 480x640 that fill their frame (308 kB as bits) are published 30 times a
second, first to four subscribers that keep up (`alone`), then to the same four, one that reads a
message a second and one that is stopped (`troubled`); each subscriber is a process of its own.
`send_*`: one `write` of the publisher, encoding included, on the wall's clock; `send_cpu_p99_ms`
the same in CPU time of the thread, which other programs on the machine disturb less. `underway_*`:
from encoding to the message in a subscriber's hands, decoded but for its masks; of the healthy
subscriber with the highest. `healthy_lost`: of all packets from each one's first to the last
published. `rss_growth_mb`: the most that the publisher's process grew; `rss_allowed_mb` = HWM x
packet x subscribers + 50 MB.

Encoding and decoding (with every mask unpacked to bool (8, 480, 640)) are measured in CPU time of
one thread: of round masks that cover a fifteenth of the frame, and of ones that fill it. The
baseline `planes` is numpy packing and unpacking whole planes, with no header and no check.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.report import parser, print_table, write_json
from stages.packets import HostPacket, PacketInfo
from stages.sinks.zmq_publisher import ZmqPublisher, ZmqPublisherConfig
from stages.wire import ResultMessage, decode, encode_result

ROOT = Path(__file__).parent.parent
SIZE, OBJECTS = (480, 640), 8
PACKETS_PER_S = 30
HEALTHY = 4
TROUBLED = 2
ALLOWED_MB = 50.0
MOST_SEND_P99_MS, MOST_ENCODE_MS, LEAST_DECODED_PER_S = 2.0, 1.0, 500.0
ENCODINGS = ("bits", "rle", "logits", "none")


@dataclass(frozen=True, slots=True)
class Sending:
    """One stretch of publishing."""

    send_p50_ms: float
    send_p99_ms: float
    send_max_ms: float
    send_cpu_p99_ms: float
    rss_growth_mb: float
    rss_allowed_mb: float
    underway_p50_ms: float
    underway_p99_ms: float
    healthy_lost: int
    slow_lost: int
    packets: int


def packet(kind: str) -> HostPacket:
    """Eight objects: `round` masks, or ones that `fill` the frame."""
    height, width = SIZE
    y, x = np.mgrid[:height, :width]
    centres = [(120 + 240 * (n // 4), 80 + 160 * (n % 4)) for n in range(OBJECTS)]
    masks = np.stack([(y - cy) ** 2 + (x - cx) ** 2 < 80**2 for cy, cx in centres])
    boxes = [[cx - 79, cy - 79, cx + 80, cy + 80] for cy, cx in centres]
    if kind == "fill":
        masks, boxes = np.ones_like(masks), [[0, 0, width, height]] * OBJECTS
    now, some = time.monotonic_ns(), np.linspace(0, 1, OBJECTS, dtype=np.float32)
    info = PacketInfo("bench", 0, 0, now, now, None, SIZE, (0.2, 0.2), None, "tracked")
    return HostPacket(
        info=info,
        object_ids=np.arange(OBJECTS),
        class_ids=np.zeros(OBJECTS, np.int32),
        scores=some,
        presence=some * 9,
        quality=some,
        mask_age_frames=np.zeros(OBJECTS, np.int32),
        mask_boxes_xyxy=np.array(boxes, np.int32),
        area_px=masks.sum((1, 2)).astype(np.int32),
        centroids_xy=np.array(centres, np.float32),
        masks=np.packbits(masks, axis=-1),
        logits=np.random.default_rng(0).normal(size=(OBJECTS, 128, 128)).astype(np.float32),
    )


def peer(endpoint: str, pause_s: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.transport_peer", endpoint, str(pause_s)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)


def send(seconds: float, troubled: bool) -> Sending:
    """Publish for so long to subscribers of their own, and look at both ends."""
    publisher = ZmqPublisher(ZmqPublisherConfig(endpoint="tcp://127.0.0.1:0"), "bench", ("x",))
    pauses = [0.0] * HEALTHY + [1.0, 0.0] * troubled
    peers = [peer(publisher.endpoint, pause_s) for pause_s in pauses]
    try:
        _await(publisher, len(peers))
        if troubled:
            peers[-1].send_signal(signal.SIGSTOP)
        walls, cpus, growth = _publish(publisher, packet("fill"), round(seconds * PACKETS_PER_S))
        last = publisher.sent["result"].messages - 1
        size = publisher.sent["result"].sent_bytes / publisher.sent["result"].messages
        publisher.close()
        seen = [json.loads(one.communicate(timeout=120)[0]) for one in peers[: HEALTHY + troubled]]
    finally:
        for one in peers:
            one.kill()
            one.wait()
    lost = [last + 1 - one["first"] - one["received"] for one in seen]
    p50, p99 = np.percentile(walls, (50, 99))
    return Sending(
        send_p50_ms=float(p50),
        send_p99_ms=float(p99),
        send_max_ms=max(walls),
        send_cpu_p99_ms=float(np.percentile(cpus, 99)),
        rss_growth_mb=growth,
        rss_allowed_mb=4 * size * len(peers) / 1e6 + ALLOWED_MB,
        underway_p50_ms=max(one["underway_p50_ms"] for one in seen[:HEALTHY]),
        underway_p99_ms=max(one["underway_p99_ms"] for one in seen[:HEALTHY]),
        healthy_lost=sum(lost[:HEALTHY]),
        slow_lost=sum(lost[HEALTHY:]),
        packets=last + 1,
    )


def _await(publisher: ZmqPublisher, count: int) -> None:
    deadline = time.monotonic() + 60
    while publisher.subscribers < count:
        if time.monotonic() > deadline:
            raise SystemExit("the subscribers did not come")
        publisher.poll()
        time.sleep(0.005)


def _publish(
    publisher: ZmqPublisher, made: HostPacket, count: int
) -> tuple[list[float], list[float], float]:
    """Milliseconds of each `write`, on the wall and of CPU, and the growth in MB."""
    walls, cpus = [], []
    process = psutil.Process()
    begun, due = process.memory_info().rss, time.monotonic()
    most = begun
    for frame_id in range(count):
        now = time.monotonic_ns()
        info = replace(made.info, frame_id=frame_id, captured_ns=now, grabbed_ns=now)
        fresh = replace(made, info=info)
        wall, cpu = time.perf_counter(), time.thread_time()
        publisher.write(fresh)
        walls.append((time.perf_counter() - wall) * 1e3)
        cpus.append((time.thread_time() - cpu) * 1e3)
        most = max(most, process.memory_info().rss)
        due += 1 / PACKETS_PER_S
        while (left_s := due - time.monotonic()) > 0:  # as egress does
            publisher.poll()
            time.sleep(min(0.002, left_s))
    return walls, cpus, (most - begun) / 1e6


def cpu_ms(work: Callable[[], object], rounds: int) -> float:
    """CPU milliseconds of one call: the median of five stretches, after one to warm up."""
    spent = []
    for _ in range(6):
        before = time.thread_time()
        for _ in range(rounds):
            work()
        spent.append((time.thread_time() - before) / rounds * 1e3)
    return median(spent[1:])


def costs(kind: str, rounds: int) -> list[tuple[str, float, float, int]]:
    """Encoding and decoding in CPU ms, and bytes, of each encoding and of the baseline."""
    made = packet(kind)
    planes = made.masks
    assert planes is not None
    unpacked = np.unpackbits(planes, axis=-1)

    def read(message: bytes) -> NDArray[np.bool_] | None:
        got = decode(message)
        assert isinstance(got, ResultMessage)
        return got.masks() if got.has_masks else None

    rows = []
    for encoding in ENCODINGS:
        message = encode_result(made, 0, ("x",), encoding)
        encode = cpu_ms(lambda encoding=encoding: encode_result(made, 0, ("x",), encoding), rounds)
        rows.append((encoding, encode, cpu_ms(lambda m=message: read(m), rounds), len(message)))
    baseline = cpu_ms(lambda: np.packbits(unpacked, axis=-1).tobytes(), rounds)
    reading = cpu_ms(lambda: np.unpackbits(planes, axis=-1).view(np.bool_), rounds)
    return [*rows, ("planes", baseline, reading, planes.nbytes)]


def main() -> None:
    """Measure, print, write; exit 1 where a promise is not kept."""
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--seconds", type=float, default=30.0, help="of each stretch of sending")
    options = made.parse_args()
    seconds, rounds = (min(5.0, options.seconds), 20) if options.quick else (options.seconds, 100)
    results: dict[str, float] = {"load_before": round(os.getloadavg()[0], 2), "seconds": seconds}
    # First, while nothing that was freed could hide what the sending takes.
    sent = {name: send(seconds, name == "troubled") for name in ("alone", "troubled")}
    table = []
    for kind in ("round", "fill"):
        rows = costs(kind, rounds)
        baseline = rows[-1]
        for name, encode, reading, size in rows:
            ratios = (encode / baseline[1], reading / baseline[2])
            table.append((f"{kind} {name}", encode, reading, 1e3 / reading, size, *ratios))
            results[f"{kind}_{name}_encode_ms"] = round(encode, 4)
            results[f"{kind}_{name}_decode_packets_per_s"] = round(1e3 / reading, 1)
            results[f"{kind}_{name}_bytes"] = size
    columns = ("", "encode ms", "decode ms", "decoded/s", "bytes", "x planes", "x planes")
    print_table("One packet of 8 masks of 480x640, CPU time of one thread", columns, table)
    names = Sending.__slots__
    lines = [(field, *(getattr(one, field) for one in sent.values())) for field in names]
    print_table("Sending", ("", *sent), lines)
    for name, one in sent.items():
        results |= {f"{name}_{field}": round(float(getattr(one, field)), 4) for field in names}
    hard = sent["troubled"]
    results["send_p99_ms"] = round(hard.send_p99_ms, 4)
    results["healthy_lost"] = hard.healthy_lost
    results["decode_packets_per_s"] = results["fill_bits_decode_packets_per_s"]
    results["encode_ms"] = results["fill_bits_encode_ms"]
    fine = (
        hard.healthy_lost == 0
        and hard.send_p99_ms <= MOST_SEND_P99_MS
        and hard.rss_growth_mb <= hard.rss_allowed_mb
        and results["decode_packets_per_s"] >= LEAST_DECODED_PER_S
        and results["encode_ms"] <= MOST_ENCODE_MS
    )
    results["fine"] = fine
    write_json(options.json, "transport", results)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
