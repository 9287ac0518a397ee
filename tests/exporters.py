"""Exporters for a real Prometheus to scrape: the real sink behind the real server."""

from __future__ import annotations

import random
import threading
from contextlib import ExitStack
from typing import NamedTuple

from test_kpi_prometheus import EXPECTED, FULL, STAGES

from kpi.device_events import DeviceFault
from kpi.edge_events import RecorderState
from kpi.events import FrameDropped, FramePublished, SourceStateChanged, StageMs
from kpi.http import HttpServer
from kpi.prometheus import PrometheusSink
from kpi.sometimes import Judge


class Job(NamedTuple):
    """What is scraped under a name, and the source it tells of."""

    name: str
    source: str


RUN = Job("maskstream", "phantom")
WHOLE = Job("whole", "whole")
STILL = Job("still", "still")
MUTE = Job("mute", "mute")
ALL_WELL = Judge(lambda: None, lambda: None)


def exporter(stack: ExitStack, sink: PrometheusSink) -> int:
    server = HttpServer(
        *("127.0.0.1", 0), metrics=sink.render, not_ready=lambda: None, status=lambda: {}
    )
    stack.callback(server.close)
    server.start()
    return server.port


def frame(source: str, number: int, latency_ms: float) -> FramePublished:
    stages = {stage: StageMs(host=1.0, gpu=2.0) for stage in STAGES}
    times = (latency_ms, latency_ms + 5, stages)
    return FramePublished(source, 0, number, *times, 2, (3.0, 4.0), queue_ms=latency_ms / 2)


def tell_everything(stack: ExitStack) -> int:
    """An exporter of `WHOLE`, to which everything happens, and goes on to."""
    sink = PrometheusSink(
        WHOLE.source, STAGES, {"v": "1"}, gpu_clock=True, expected=EXPECTED, judge=ALL_WELL
    )
    for event in (
        SourceStateChanged(WHOLE.source, 0, "streaming"),
        FULL,
        DeviceFault("GPU-1", "xid", "79"),
        RecorderState("kpi", "paused", lost=3),
    ):
        sink.write(0.0, event)
    over = threading.Event()

    def go_on() -> None:
        number = 0
        while not over.wait(0.02):
            sink.write(0.0, frame(WHOLE.source, number, 30.0))
            sink.write(0.0, FrameDropped(WHOLE.source, 0, number + 1, "mailbox"))
            number += 2

    teller = threading.Thread(target=go_on)
    teller.start()
    stack.callback(teller.join)
    stack.callback(over.set)
    return exporter(stack, sink)


def stand_still(stack: ExitStack) -> tuple[int, list[float]]:
    """An exporter of `STILL`, and the latencies that it was told."""
    drawn = random.Random(5)  # noqa: S311 (no secret)
    latencies = [drawn.lognormvariate(3.0, 0.8) for _ in range(3000)]
    sink = PrometheusSink(STILL.source, STAGES, {"v": "1"}, gpu_clock=True)
    for number, latency_ms in enumerate(latencies):
        sink.write(0.0, frame(STILL.source, number, latency_ms))
    return exporter(stack, sink), latencies


def stay_mute(stack: ExitStack) -> int:
    """An exporter of `MUTE`, which streams and has no result."""
    judge = Judge(lambda: None, lambda: "no frame was published yet")
    sink = PrometheusSink(MUTE.source, STAGES, {"v": "1"}, judge=judge)
    sink.write(0.0, SourceStateChanged(MUTE.source, 0, "streaming"))
    return exporter(stack, sink)
