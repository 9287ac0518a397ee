"""What ZMQ sockets here share: how they notice a lost peer, and how they connect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

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
