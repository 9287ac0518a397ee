"""ZMQ sockets that are bound: for this host alone, or for those who have a key."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import re
import socket as sockets
import stat
from collections.abc import Mapping
from pathlib import Path

import zmq

from stages.connecting import WATCHFUL
from stages.curve import Reach, guard
from stages.errors import ConfigError, MaskstreamError


class BindError(MaskstreamError):
    """An endpoint cannot be bound."""


def check_local(where: str, endpoint: str, reach: Reach | None = None) -> None:
    """Refuse what others than this host, or than its user, could reach without a key, and what
    libzmq would quietly destroy.

    ``where`` is the section of the configuration. Raises `ConfigError`, and `BindError` for a
    path that another process listens at.
    """
    guarded = reach is not None and (reach.curve is not None or reach.insecure_bind)
    if endpoint.startswith("ipc://") and len(endpoint) > len("ipc://"):
        path = endpoint.removeprefix("ipc://")
        _check_ipc(where, endpoint, path)
        if not guarded:
            _check_folder(where, path)
        return
    tcp = re.fullmatch(r"tcp://(?:\[([0-9a-fA-F.:%a-z]+)\]|([^\s\[\]:/]+)):(\d+|\*)", endpoint)
    if tcp is None or not (guarded or _is_loopback(tcp[1] or tcp[2])):
        raise ConfigError(
            f"{where}: endpoint: got {endpoint!r}, expected an address of this host alone: "
            "tcp://127.0.0.1:PORT or ipc://PATH; beyond it, tcp:// with curve, or with "
            "insecure_bind: true"
        )


def is_open(endpoint: str, reach: Reach) -> bool:
    """Whether anyone on the network may connect to what was bound."""
    tcp = re.fullmatch(r"tcp://\[?(.+?)\]?:\d+", endpoint)
    return tcp is not None and reach.curve is None and not _is_loopback(tcp[1])


def bound(
    context: zmq.Context[zmq.Socket[bytes]],
    kind: int,
    where: str,
    endpoint: str,
    options: Mapping[zmq.SocketOption, int],
    reach: Reach | None = None,
) -> zmq.Socket[bytes]:
    """A socket of ``kind`` with ``options``, bound to an endpoint of this host, or, as ``reach``
    says, to one beyond it. It should be the only one of its context that is bound.

    Raises `ConfigError` for another endpoint and for keys that are none, `BindError` for an
    endpoint that cannot be bound.
    """
    check_local(where, endpoint, reach)
    socket = context.socket(kind)
    try:
        for option, value in {**WATCHFUL, **options}.items():
            socket.setsockopt(option, value)
        if reach is not None and reach.curve is not None:
            guard(context, socket, reach.curve)
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        socket.close(0)
        raise _bind_error(where, endpoint, error.errno, error.strerror or "") from error
    except BaseException:
        socket.close(0)
        raise
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


def _check_folder(where: str, path: str) -> None:
    """Who may enter its folder may connect to a socket; a folder that is missing is made."""
    if path == "*":  # libzmq makes a folder for it that nobody else may enter
        return
    folder = Path(path).absolute().parent
    if not path.startswith("@"):
        with contextlib.suppress(OSError):  # what is wrong, bind tells
            folder.mkdir(mode=0o700, exist_ok=True)
        try:
            found = folder.stat()
        except OSError:
            return
        if not stat.S_IMODE(found.st_mode) & 0o077 and found.st_uid == os.geteuid():
            return
    raise ConfigError(
        f"{where}: endpoint: others may connect to ipc://{path} (expected a path in a folder of "
        "your own with mode 0700, or curve, or insecure_bind: true)"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
