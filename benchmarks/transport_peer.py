"""One subscriber of `benchmarks.transport`, in a process of its own: what it saw, as JSON."""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from stages.client import Subscriber
from stages.wire import ResultMessage, StateMessage


def follow(endpoint: str, pause_s: float) -> dict[str, int | float | None]:
    """Receive until the stream ends, resting `pause_s` after each result."""
    first = last = None
    underway_ms: list[float] = []
    with Subscriber(endpoint, "bench") as subscriber:
        while True:
            message = subscriber.next_message(10.0)
            if message is None or (isinstance(message, StateMessage) and message.state == "ended"):
                break
            if isinstance(message, ResultMessage):
                seq = message.seq
                underway_ms.append((time.monotonic_ns() - message.published_ns) / 1e6)
                first, last = (seq if first is None else first), seq
                time.sleep(pause_s)
        return {
            "received": subscriber.received,
            "lost": subscriber.lost,
            "first": first,
            "last": last,
            "underway_p50_ms": float(np.percentile(underway_ms, 50)) if underway_ms else None,
            "underway_p99_ms": float(np.percentile(underway_ms, 99)) if underway_ms else None,
        }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(follow(sys.argv[1], float(sys.argv[2]))) + "\n")
