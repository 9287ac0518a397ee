"""The storm of `benchmarks.scrape_storm`, in a process of its own: light, so that it takes little
of the cores that it shares with the run.

    python -m benchmarks.scraper ADDRESS RATE SECONDS    # scrapes, prints what came of it as JSON
    python -m benchmarks.scraper --serve                 # a server like a run's; prints its address
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

CONNECTIONS = 16


class Connection:
    """One that is kept, as Prometheus does, and made anew when the server ends it."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._where = (host, int(port))
        self._request = f"GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n".encode()
        self._socket: socket.socket | None = None

    def scrape(self) -> bool:
        """Whether a whole answer came with status 200."""
        try:
            if self._socket is None:
                self._socket = socket.create_connection(self._where, 5)
            self._socket.sendall(self._request)
            return self._answer(self._socket)
        except OSError:
            self._socket = None
            return False

    def _answer(self, connection: socket.socket) -> bool:
        read = bytearray()
        while (end := read.find(b"\r\n\r\n")) < 0:
            chunk = connection.recv(1 << 16)
            if not chunk:
                raise ConnectionResetError
            read += chunk
        head = bytes(read[:end]).lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        left = length - (len(read) - end - 4)
        while left > 0:
            chunk = connection.recv(1 << 18)
            if not chunk:
                raise ConnectionResetError
            left -= len(chunk)
        return head.startswith(b"http/1.1 200")


@dataclass(slots=True)
class Told:
    """What came of one connection's scrapes."""

    asked: int = 0
    refused: int = 0
    """Answered with another status than 200, or not at all."""
    waits_ms: list[float] = field(default_factory=list)
    """Of the others: until the whole answer was there."""


def scrape_on(connection: Connection, due_s: Iterable[float], end_s: float) -> Told:
    """Scrape when it is due (seconds of `perf_counter`); what is late is caught up on until the
    end."""
    told = Told()
    for due in due_s:
        time.sleep(max(0.0, due - time.perf_counter()))
        asked = time.perf_counter()
        if asked > end_s:
            break
        told.asked += 1
        if connection.scrape():
            told.waits_ms.append((time.perf_counter() - asked) * 1e3)
        else:
            told.refused += 1
    return told


def storm(address: str, rate: float, seconds: float) -> dict[str, float | None]:
    """Scrape at even distances over `CONNECTIONS`, so that a slow answer delays few others."""
    began = time.perf_counter()
    due = [began + number / rate for number in range(round(rate * seconds))]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        share = [due[index::CONNECTIONS] for index in range(CONNECTIONS)]
        running = [
            pool.submit(scrape_on, Connection(address), times, began + seconds) for times in share
        ]
        told = [one.result() for one in running]
    took = time.perf_counter() - began
    waits = sorted(wait for one in told for wait in one.waits_ms)
    return {
        "asked_per_s": round(sum(one.asked for one in told) / took, 2),
        "answered_per_s": round(len(waits) / took, 2),
        "refused_per_s": round(sum(one.refused for one in told) / took, 2),
        "ms_p99": round(waits[int(len(waits) * 0.99)], 3) if waits else None,
    }


def serve() -> None:
    """A run's server and metrics without a run."""
    from kpi.http import HttpServer
    from kpi.prometheus import PrometheusSink
    from pipeline.chain import RESIDENT_STAGES

    sink = PrometheusSink("elsewhere", RESIDENT_STAGES, {})
    server = HttpServer(
        *("127.0.0.1", 0), metrics=sink.render, not_ready=lambda: None, status=lambda: {}
    )
    server.start()
    print(f"127.0.0.1:{server.port}", flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve()
    else:
        print(json.dumps(storm(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))))
