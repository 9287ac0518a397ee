"""One subscriber of `benchmarks.transport`, in a process of its own: what it saw, as JSON."""

from __future__ import annotations

import json
import sys
import time

from stages.client import Subscriber
from stages.wire import StateMessage


def follow(endpoint: str, pause_s: float) -> dict[str, int | None]:
    """Receive until the stream ends, resting `pause_s` after each result."""
    first = last = None
    with Subscriber(endpoint, "bench") as subscriber:
        while True:
            message = subscriber.next_message(10.0)
            if message is None or (isinstance(message, StateMessage) and message.state == "ended"):
                break
            if not isinstance(message, StateMessage):
                seq = getattr(message, "seq", None)
                first, last = (seq if first is None else first), seq
                time.sleep(pause_s)
        return {
            "received": subscriber.received,
            "lost": subscriber.lost,
            "first": first,
            "last": last,
        }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(follow(sys.argv[1], float(sys.argv[2]))) + "\n")
