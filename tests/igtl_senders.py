"""A server that sends numbered OpenIGTLink pictures to whoever connects: `Broadcaster`."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from tests.igtl_messages import STAMP_S, image

PERIOD_S = 0.01
SHAPE = (48, 64)


def numbered(index: int) -> NDArray[np.uint8]:
    """Picture `index`: noise that begins with its number."""
    pixels = np.random.default_rng(index).integers(0, 256, SHAPE, dtype=np.uint8)
    pixels[0, :4] = np.frombuffer(np.uint32(index).tobytes(), np.uint8)
    return pixels


def number(pixels: NDArray[np.uint8]) -> int:
    return int(np.frombuffer(pixels[0, :4].tobytes(), np.uint32)[0])


class Broadcaster:
    """Listens on 127.0.0.1 (`port`); pictures count on from one connection to the next."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(0.05)
        self.port: int = self._server.getsockname()[1]
        self.sent = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Broadcaster:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join(5.0)
        self._server.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                peer, _ = self._server.accept()
                with peer, suppress(OSError):
                    self._serve(peer)

    def _serve(self, peer: socket.socket) -> None:
        peer.settimeout(1.0)
        while not self._stopping.wait(PERIOD_S):
            index = self.sent
            peer.sendall(image(numbered(index), seconds=STAMP_S + index // 100, fraction=0))
            self.sent += 1
