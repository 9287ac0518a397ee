"""Pictures at a steady rate over a TCP connection of this process: `sender`, `SocketFeed`."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from stages.base import Buffer
from stages.sources.feed import Arrival, FeedError

SIZE_HW = (480, 640)
STAMP = struct.Struct("<q")


@contextmanager
def sender(fps: float) -> Iterator[int]:
    """Sends grey pictures, each after its time on the monotonic clock, to whoever connects."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve() -> None:
        client, _ = listener.accept()
        pixels = np.random.default_rng(0).integers(0, 256, SIZE_HW, np.uint8)
        due = time.monotonic()
        while not over.is_set():
            due += 1 / fps
            time.sleep(max(0.0, due - time.monotonic()))
            pixels[0, :8] += 1
            try:
                client.sendall(STAMP.pack(time.monotonic_ns()) + pixels.tobytes())
            except OSError:
                return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        over.set()
        listener.close()


class SocketFeed:
    """A `Feed` of those pictures."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))

    def read(self, buffer: Buffer, timeout_s: float) -> Arrival | None:
        (sent_ns,) = STAMP.unpack(self._whole(memoryview(bytearray(STAMP.size))))
        pixels = buffer(SIZE_HW)
        self._whole(memoryview(pixels).cast("B"))
        return Arrival(pixels, captured_ns=sent_ns)

    def _whole(self, into: memoryview) -> memoryview:
        done = 0
        while done < len(into):
            got = self._socket.recv_into(into[done:])
            if not got:
                raise FeedError("the sender is gone")
            done += got
        return into

    def close(self) -> None:
        self._socket.close()
