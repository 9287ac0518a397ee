"""Sends 1080p grey pictures over OpenIGTLink at a steady rate, in a process of its own:

    python -m benchmarks.igtl_stream RATE SECONDS

Prints the port to connect to, then, when the stream is over, one JSON line. Message n is stamped n
seconds. The check sums are made before, so that sending costs no more than the copy.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time

import numpy as np
from fastcrc.crc64 import ecma_182

SIZE = (1920, 1080)
_BODIES = 4
_HEADER = struct.Struct(">H12s20sIIQQ")
_IMAGE = struct.Struct(">H4B3H12f6H")
_MATRIX = (0.1, 0.0, 0.0, 0.0, 0.1, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)


def bodies() -> list[tuple[bytes, int]]:
    """Bodies of IMAGE messages with their check sums."""
    rng = np.random.default_rng(0)
    fields = (1, 1, 3, 2, 1, *SIZE, 1, *_MATRIX, 0, 0, 0, *SIZE, 1)
    made = (_IMAGE.pack(*fields) + rng.bytes(SIZE[0] * SIZE[1]) for _ in range(_BODIES))
    return [(body, ecma_182(body)) for body in made]


def header(index: int, body: bytes, crc: int) -> bytes:
    return _HEADER.pack(1, b"IMAGE", b"Image", index + 1, 0, len(body), crc)


def stream(
    peer: socket.socket, made: list[tuple[bytes, int]], rate: float, seconds: float
) -> dict[str, float]:
    """Send; how late the messages left, against their times."""
    late = []
    count = round(rate * seconds)
    begin = time.monotonic() + 0.1
    for index in range(count):
        due = begin + index / rate
        time.sleep(max(due - time.monotonic(), 0.0))
        body, crc = made[index % _BODIES]
        peer.sendall(header(index, body, crc))
        peer.sendall(body)
        late.append(time.monotonic() - due)
    passed = time.monotonic() - begin
    return {
        "sent": count,
        "per_s": count / passed,
        "late_ms_p99": float(np.percentile(late, 99)) * 1e3,
        "core_pct": time.process_time() / passed * 100,
    }


def main() -> None:
    rate, seconds = float(sys.argv[1]), float(sys.argv[2])
    made = bodies()
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        peer, _ = server.accept()
    with peer:
        told = stream(peer, made, rate, seconds)
        peer.shutdown(socket.SHUT_WR)
        peer.settimeout(10.0)
        try:
            peer.recv(1)  # until the receiver has taken everything and leaves
        except OSError:
            told["late_receiver"] = 1.0
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
