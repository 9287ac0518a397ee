"""The run's HTTP server: `/metrics`, `/livez`, `/readyz` and `/status`, read-only."""

from __future__ import annotations

import contextvars
import errno
import ipaddress
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Mapping

import uvicorn
from starlette.types import ASGIApp

from kpi.http_app import cached, routes
from kpi.http_connections import CONNECTIONS
from kpi.http_gate import REQUEST_BYTES, Gate
from kpi.http_repeats import RepeatingConnection

_log = logging.getLogger(__name__)

BACKLOG = 4 * CONNECTIONS
"""Taken at once from those that knock; each is an open file until another is cut for it."""
RENDER_EVERY_S = 0.25
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class HttpServer:
    """Serves GET and HEAD on `host`:`port` from a thread of its own.

    `metrics` gives the text of `/metrics`, at most once every 0.25 s; `not_ready` and `not_live`
    the reason for a 503 on `/readyz` and `/livez`, or None; `status` what `/status` shows as
    JSON. They are called on the server's thread and must be quick. On loopback, requests must name
    a host of `LOOPBACK`, `host` itself, or one of `allowed_hosts`: else a web page whose name was
    rebound to this address could read them. With a `token`, requests must carry it as
    `Authorization: Bearer <token>`; who may listen beyond loopback is the caller's to decide. The
    port is taken here (0 takes a free one); `start` begins
    to answer. Raises OSError, naming what was expected, where the address cannot be listened on.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        metrics: Callable[[], bytes],
        not_ready: Callable[[], str | None],
        status: Callable[[], Mapping[str, object]],
        not_live: Callable[[], str | None] = lambda: None,
        allowed_hosts: Iterable[str] = (),
        token: str | None = None,
    ) -> None:
        self._socket = _listen(host, port)
        self.host = host
        address, self.port = _bound(self._socket)
        names = {*LOOPBACK, host, *allowed_hosts}
        hosts = names if ipaddress.ip_address(address).is_loopback else ()
        app = routes(cached(metrics, RENDER_EVERY_S), not_ready, not_live, status)
        self._server = uvicorn.Server(_config(Gate(app, hosts, token)))
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=context.run,
            args=(self._server.run, [self._socket]),
            name="kpi-http",
            daemon=True,
        )
        thread.start()  # may be interrupted by a signal: only a started thread can be joined
        self._thread = thread

    def close(self) -> None:
        """Cut the connections and stop; after a second a server that hangs is left behind."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(1.0)
            if self._thread.is_alive():  # it closes the socket itself, once it comes round
                _log.warning("kpi: the http server hangs in a request")
                return
        self._socket.close()


def _listen(host: str, port: int) -> socket.socket:
    listener = None
    try:
        if not 0 <= port <= 65535:
            raise OverflowError("no such port")  # getaddrinfo would take it modulo 65536
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        # A port that a former run left in TIME_WAIT is free; one that is listened on is not.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        if listener is not None:
            listener.close()
        raise OSError(_why(host, port, error)) from error
    return listener


def _bound(listener: socket.socket) -> tuple[str, int]:
    address: tuple[str, int] = listener.getsockname()[:2]  # IPv6 has two more
    return address


def _why(host: str, port: int, error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return f"http port {port} is in use (expected a free port; set http.port, 0 takes any)"
    what = getattr(error, "strerror", None) or error
    return (
        f"http cannot listen on {host} port {port}: {what} "
        "(expected an address of this machine and a port from 0 to 65535)"
    )


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=RepeatingConnection,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",  # what a stranger sends must not fill the log
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=8,  # more than the usual 5 s between two scrapes
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=REQUEST_BYTES,
    )
