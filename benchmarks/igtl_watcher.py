"""A receiver of `benchmarks.openigtlink_out`, in a process of its own:

    python -m benchmarks.igtl_watcher PORT PAUSE_S

It reads messages until the end, pausing after each IMAGE, checks every check sum and writes one
line of JSON: how many images came, how many were missing between the first and the last (the time
stamps count them, a millisecond each), and how many check sums were wrong.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time

from fastcrc.crc64 import ecma_182

_TICK_NS = 1_000_000


def watch(port: int, pause_s: float) -> dict[str, int]:
    """Receive until the sender hangs up."""
    stamps: list[int] = []
    damaged = 0
    with socket.create_connection(("127.0.0.1", port)) as peer:
        while head := _bytes(peer, 58):
            _, kind, _, seconds, fraction, size, crc = struct.unpack(">H12s20sIIQQ", head)
            damaged += ecma_182(_bytes(peer, size)) != crc
            if kind.rstrip(b"\0") == b"IMAGE":
                ns = seconds * 1_000_000_000 + ((fraction * 1_000_000_000 + (1 << 31)) >> 32)
                stamps.append(ns // _TICK_NS)
                time.sleep(pause_s)
    missing = stamps[-1] - stamps[0] + 1 - len(stamps) if stamps else 0
    return {"images": len(stamps), "missing": missing, "damaged": damaged}


def _bytes(peer: socket.socket, count: int) -> bytes:
    """So many, or none at the end."""
    data = bytearray()
    while len(data) < count:
        part = peer.recv(count - len(data))
        if not part:
            return b""
        data += part
    return bytes(data)


if __name__ == "__main__":
    print(json.dumps(watch(int(sys.argv[1]), float(sys.argv[2]))), flush=True)
