"""What ZMQ sockets here share: how they notice a lost peer, and that a client is closed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

import zmq

from stages.curve_keys import ClientKeys
from stages.errors import ConfigError

WATCHFUL: Final = {
    zmq.HEARTBEAT_IVL: 1000,
    zmq.HEARTBEAT_TIMEOUT: 3000,
    zmq.HEARTBEAT_TTL: 3000,
    zmq.HANDSHAKE_IVL: 5000,
}
"""Options by which a peer that is gone, or never says who it is, is noticed; milliseconds."""


class Closing(ABC):
    """A context manager that closes itself."""

    @abstractmethod
    def close(self) -> None:
        """Release everything; may be called more than once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def connect(
    socket: zmq.Socket[bytes],
    endpoint: str,
    options: Mapping[zmq.SocketOption, int],
    keys: ClientKeys | None = None,
) -> None:
    """Set `options` and connect, which waits for nobody; raises `ConfigError` for an endpoint that
    is none."""
    try:
        for option, value in options.items():
            socket.setsockopt(option, value)
        if keys is not None:
            keys.give(socket)
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        raise ConfigError(
            f"cannot connect to {endpoint!r}: {error.strerror} "
            "(expected tcp://HOST:PORT or ipc://PATH)"
        ) from error
