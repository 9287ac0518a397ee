"""Addresses of a host, asked for so that nobody hangs on a name server: `Lookup`."""

from __future__ import annotations

import socket
import threading
from contextvars import copy_context
from typing import Any, TypeAlias

Address: TypeAlias = tuple[int, Any]
"""Address family, and what `connect` takes."""


class Lookup:
    """Asks in a thread of its own, since asking cannot be interrupted; one thread at a time,
    however often an answer is waited for in vain. Numbers are not asked for."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._asking: threading.Thread | None = None
        self._answer: list[Address] | OSError | None = None

    def addresses(self, timeout_s: float) -> list[Address] | None:
        """Where to connect, best first; None where no answer came in time, ask again then.

        Raises `OSError` where the name is not known.
        """
        if self._asking is None:
            try:
                return self._ask(socket.AI_NUMERICHOST)
            except (socket.gaierror, UnicodeError):  # it is a name
                run = copy_context().run
                self._asking = threading.Thread(target=run, args=(self._run,), daemon=True)
                self._asking.start()
        self._asking.join(timeout_s)
        answer, self._answer = self._answer, None
        if answer is None:
            return None
        self._asking = None
        if isinstance(answer, OSError):
            raise answer
        return answer

    def _run(self) -> None:
        try:
            self._answer = self._ask(0)
        except OSError as error:
            self._answer = error
        except UnicodeError:  # a name that cannot be one
            self._answer = OSError(f"{self._host!r} is no name of a host")

    def _ask(self, flags: int) -> list[Address]:
        found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=flags)
        return [(family, address) for family, _, _, _, address in found]
