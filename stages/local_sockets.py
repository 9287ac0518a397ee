"""ZMQ sockets that nobody but this host can reach."""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket as sockets
import stat
from collections.abc import Mapping
from typing import Final

import zmq

from stages.errors import ConfigError, MaskstreamError

WATCHFUL: Final = {
    zmq.HEARTBEAT_IVL: 1000,
    zmq.HEARTBEAT_TIMEOUT: 3000,
    zmq.HEARTBEAT_TTL: 3000,
    zmq.HANDSHAKE_IVL: 5000,
}
"""Options by which a peer that is gone, or never says who it is, is noticed; milliseconds."""


class BindError(MaskstreamError):
    """An endpoint cannot be bound."""


def check_local(where: str, endpoint: str) -> None:
    """Refuse what others than this host could reach, and what libzmq would quietly destroy.

    ``where`` is the section of the configuration. Raises `ConfigError`, and `BindError` for a
    path that another process listens at.
    """
    if endpoint.startswith("ipc://") and len(endpoint) > len("ipc://"):
        _check_ipc(where, endpoint, endpoint.removeprefix("ipc://"))
        return
    match = re.fullmatch(r"tcp://\[?([0-9a-fA-F.:]+?)\]?:(\d+|\*)", endpoint)
    try:
        local = match is not None and ipaddress.ip_address(match[1]).is_loopback
    except ValueError:
        local = False
    if not local:
        raise ConfigError(
            f"{where}: endpoint: got {endpoint!r}, expected an address of this host alone: "
            "tcp://127.0.0.1:PORT or ipc://PATH"
        )


def bound(
    context: zmq.Context[zmq.Socket[bytes]],
    kind: int,
    where: str,
    endpoint: str,
    options: Mapping[zmq.SocketOption, int],
) -> zmq.Socket[bytes]:
    """A socket of ``kind`` with ``options``, bound to an endpoint of this host.

    Raises `ConfigError` for another endpoint, `BindError` for one that cannot be bound.
    """
    check_local(where, endpoint)
    socket = context.socket(kind)
    for option, value in {**WATCHFUL, **options}.items():
        socket.setsockopt(option, value)
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        socket.close(0)
        raise _bind_error(where, endpoint, error.errno, error.strerror or "") from error
    return socket


def endpoint_of(socket: zmq.Socket[bytes]) -> str:
    """What was bound, with the port in numbers."""
    return socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")


def _bind_error(where: str, endpoint: str, code: int | None, reason: str) -> BindError:
    if code == errno.EADDRINUSE:
        reason = "address already in use (expected a free port; port 0 takes any)"
    return BindError(f"{where}: cannot bind {endpoint}: {reason}")


def _check_ipc(where: str, endpoint: str, path: str) -> None:
    """libzmq removes whatever lies at the path before it binds: a file, or a live socket."""
    if path.startswith(("@", "*")) or not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise ConfigError(f"{where}: endpoint: {path} is a file, expected a new path or a socket")
    with sockets.socket(sockets.AF_UNIX) as probe:
        if probe.connect_ex(path) == 0:
            raise _bind_error(where, endpoint, errno.EADDRINUSE, "")
