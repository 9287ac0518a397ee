"""What every ZMQ client here shares: how it connects, and that it is closed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import zmq

from stages.curve_keys import ClientKeys
from stages.errors import ConfigError


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
