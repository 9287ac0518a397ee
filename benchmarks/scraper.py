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


def storm(address: str, rate: float, seconds: float) -> dict[str, float | int]:
    """Scrape at even distances; what is late is caught up on."""
    connections = [Connection(address) for _ in range(4)]
    waits_ms: list[float] = []
    begin, began = time.time(), time.perf_counter()
    for number in range(int(rate * seconds)):
        pause = began + number / rate - time.perf_counter()
        if pause > 0:
            time.sleep(pause)
        if time.perf_counter() - began > seconds:
            break
        asked = time.perf_counter()
        if connections[number % len(connections)].scrape():
            waits_ms.append((time.perf_counter() - asked) * 1e3)
    ordered = sorted(waits_ms)
    p99 = ordered[int(len(ordered) * 0.99)] if ordered else float("nan")
    return {"begin": begin, "scrapes": len(waits_ms), "ms_p99": round(p99, 3)}


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
