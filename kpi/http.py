"""The run's HTTP server: `/metrics`, `/livez`, `/readyz` and `/status`, read-only."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import logging
import math
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from kpi.jsonl import to_json
from kpi.prometheus import CONTENT_TYPE

_log = logging.getLogger(__name__)

CONNECTIONS = 64
CONNECTION_S = 10.0
"""A connection is cut after this time, however busy: a client that drips its request, or never
reads the answer, cannot hold a place for longer."""
REQUEST_BYTES = 8192
"""Path and headers of a request."""
RENDER_EVERY_S = 0.25
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class HttpServer:
    """Serves GET and HEAD on `host`:`port` from a thread of its own.

    `metrics` gives the text of `/metrics`, at most once every 0.25 s; `not_ready` and `not_live`
    the reason for a 503 on `/readyz` and `/livez`, or None; `status` what `/status` shows as
    JSON. They are called on the server's thread and must be quick. Requests must name a host of
    `LOOPBACK`, `host` itself, or one of `allowed_hosts`: else a web page whose name was rebound
    to this address could read them. The port is taken here (0 takes a free one); `start` begins
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
    ) -> None:
        self._socket = _listen(host, port)
        self.host = host
        self.port: int = self._socket.getsockname()[1]
        app = _routes(_cached(metrics, RENDER_EVERY_S), not_ready, not_live, status)
        self._server = uvicorn.Server(_config(_Gate(app, {*LOOPBACK, host, *allowed_hosts})))
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
        listener.listen(CONNECTIONS)
    except (OSError, OverflowError, UnicodeError) as error:
        if listener is not None:
            listener.close()
        raise OSError(_why(host, port, error)) from error
    return listener


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
        http=_BoundedConnection,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",  # what a stranger sends must not fill the log
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=REQUEST_BYTES,
    )


class _BoundedConnection(H11Protocol):
    """A connection with an end: refused when there are too many, cut when its time is over."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._cut: asyncio.TimerHandle = self.loop.call_later(CONNECTION_S, transport.abort)
        if len(self.connections) > CONNECTIONS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cut.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        self.transport.abort()


class _Gate:
    """Lets through GET and HEAD requests of bounded size that name a host of ours."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answer(scope)(scope, receive, send)

    def _answer(self, scope: Scope) -> ASGIApp:
        if scope["method"] not in ("GET", "HEAD"):
            allow = {"Allow": "GET, HEAD", **_HEADERS}
            return PlainTextResponse("expected GET or HEAD\n", 405, allow)
        sizes = (len(name) + len(value) for name, value in scope["headers"])
        if len(scope["raw_path"]) + len(scope["query_string"]) + sum(sizes) > REQUEST_BYTES:
            # h11 bounds only what arrives in pieces
            return PlainTextResponse(f"expected {REQUEST_BYTES} bytes at most\n", 431, _HEADERS)
        named = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
        if _host_name(named) not in self._hosts:
            return PlainTextResponse("unknown Host header\n", 421, _HEADERS)
        return self._app


def _host_name(named: str) -> str:
    """`[::1]:9108` -> `::1`, `localhost:9108` -> `localhost`."""
    if named.startswith("["):
        return named[1:].partition("]")[0]
    return named.partition(":")[0]


def _routes(
    metrics: Callable[[], bytes],
    not_ready: Callable[[], str | None],
    not_live: Callable[[], str | None],
    status: Callable[[], Mapping[str, object]],
) -> Starlette:
    async def show_status(request: Request) -> Response:
        return _json(status())

    async def show_metrics(request: Request) -> Response:
        return Response(metrics(), headers={"Content-Type": CONTENT_TYPE, **_HEADERS})

    async def failed(request: Request, error: Exception) -> Response:
        _log.error("kpi: http %s failed", request.url.path, exc_info=error)
        return _json({"error": "internal error"}, 500)

    routes = [
        Route("/metrics", show_metrics),
        Route("/livez", _health("live", not_live)),
        Route("/readyz", _health("ready", not_ready)),
        Route("/status", show_status),
    ]
    return Starlette(routes=routes, exception_handlers={Exception: failed})


def _health(
    word: str, reason_against: Callable[[], str | None]
) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        reason = reason_against()
        if reason is None:
            return _json({word: True})
        return _json({word: False, "reason": reason}, 503)

    return answer


def _json(value: Mapping[str, object], status: int = 200) -> Response:
    headers = {"Content-Type": "application/json", **_HEADERS}
    return Response(to_json(value) + "\n", status, headers)


def _cached(
    make: Callable[[], bytes], every_s: float, clock: Callable[[], float] = time.monotonic
) -> Callable[[], bytes]:
    """`make`, called anew only once its last answer is `every_s` seconds old."""
    made_at, answer = -math.inf, b""

    def get() -> bytes:
        nonlocal made_at, answer
        now = clock()
        if now - made_at >= every_s:
            answer, made_at = make(), now
        return answer

    return get
