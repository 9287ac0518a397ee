"""How any thread wakes one that polls sockets: `Wake`."""

from __future__ import annotations

import os
import threading
from contextlib import suppress


class Wake:
    """Readable, for a poller, from `rouse` until `rest`."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()

    def fileno(self) -> int:
        return self._descriptor

    def rouse(self) -> None:
        """From any thread; nothing, once it is closed."""
        with self._lock:
            if self._descriptor >= 0:
                os.eventfd_write(self._descriptor, 1)

    def rest(self) -> None:
        """By the thread that polls."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._descriptor)

    def close(self) -> None:
        with self._lock:
            os.close(self._descriptor)
            self._descriptor = -1
