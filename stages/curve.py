"""What a ZMQ socket that others may reach must have: `CurveConfig` and `Reach`."""

from __future__ import annotations

from pathlib import Path

import zmq

from stages.base import Section
from stages.curve_keys import secret_key
from stages.zap import DOMAIN, AllowList, keep_door


class CurveConfig(Section):
    """Encryption, and whom to let in; see `maskstream keys new`."""

    secret_key: Path
    """The run's own `.key_secret` file; clients need the `.key` beside it."""
    clients: Path
    """Folder of the `.key` files of those who may connect. One that is added, or taken away,
    counts within a second, for connections that begin."""


class Reach(Section):
    """Base of the sections of bound sockets."""

    curve: CurveConfig | None = None
    """Who may connect, and encryption; None: whoever reaches the socket may."""
    insecure_bind: bool = False
    """Let anyone in who reaches an address beyond this host."""


def guard(
    context: zmq.Context[zmq.Socket[bytes]], socket: zmq.Socket[bytes], curve: CurveConfig
) -> None:
    """Make an unbound socket, the only one of ``context`` that is bound, a CURVE server that asks
    the allow-list; raises `ConfigError` for keys that are none."""
    keys = secret_key(curve.secret_key)
    keep_door(context, AllowList(curve.clients))
    socket.curve_secretkey = keys.secret
    socket.curve_publickey = keys.public
    socket.curve_server = True
    socket.zap_domain = DOMAIN
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without an answer nobody gets in
