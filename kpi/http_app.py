"""What the run's HTTP server answers, and to whom."""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from kpi.jsonl import to_json
from kpi.prometheus import CONTENT_TYPE

_log = logging.getLogger(__name__)

REQUEST_BYTES = 8192
"""Path and headers of a request."""
REQUESTS_PER_S = 50.0
BURST = 20
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Gate:
    """Lets through GET and HEAD requests of bounded size that name one of `hosts`, where there
    are any, and carry `token`, where there is one.

    It answers `BURST` requests at once and `REQUESTS_PER_S` a second after that; the others wait
    their turn, so that a storm of them leaves the interpreter to the frame loop.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str], token: str | None) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._turns = Turns(REQUESTS_PER_S, BURST)
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wait_s = self._turns.wait_s()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        await self._answer(scope)(scope, receive, send)

    def _answer(self, scope: Scope) -> ASGIApp:
        if scope["method"] not in ("GET", "HEAD"):
            allow = {"Allow": "GET, HEAD", **_HEADERS}
            return PlainTextResponse("expected GET or HEAD\n", 405, allow)
        sizes = (len(name) + len(value) for name, value in scope["headers"])
        if len(scope["raw_path"]) + len(scope["query_string"]) + sum(sizes) > REQUEST_BYTES:
            # h11 bounds only what arrives in pieces
            return PlainTextResponse(f"expected {REQUEST_BYTES} bytes at most\n", 431, _HEADERS)
        headers: dict[bytes, bytes] = dict(scope["headers"])
        named = headers.get(b"host", b"").decode("latin-1").lower()
        if self._hosts and _host_name(named) not in self._hosts:
            return PlainTextResponse("unknown Host header\n", 421, _HEADERS)
        if not self._knows(headers.get(b"authorization", b"")):
            ask = {"WWW-Authenticate": "Bearer", **_HEADERS}
            return PlainTextResponse("expected Authorization: Bearer <token>\n", 401, ask)
        return self._app

    def _knows(self, authorization: bytes) -> bool:
        expected = self._expected
        return expected is None or hmac.compare_digest(authorization, expected)


class Turns:
    """Turns: `burst` at once, `per_s` a second after that. `clock` is monotonic seconds."""

    def __init__(
        self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._every_s = 1 / per_s
        self._ahead_s = burst / per_s
        self._clock = clock
        self._next = -math.inf

    def wait_s(self) -> float:
        """Seconds until the turn that is taken hereby."""
        now = self._clock()
        turn = max(self._next, now - self._ahead_s + self._every_s)
        self._next = turn + self._every_s
        return max(0.0, turn - now)


def _host_name(named: str) -> str:
    """`[::1]:9108` -> `::1`, `localhost:9108` -> `localhost`."""
    if named.startswith("["):
        return named[1:].partition("]")[0]
    return named.partition(":")[0]


def routes(
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


def cached(
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
