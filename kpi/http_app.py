"""What the run's HTTP server answers."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kpi.http_gate import HEADERS
from kpi.http_repeats import Headers
from kpi.jsonl import to_json
from kpi.prometheus import CONTENT_TYPE

_log = logging.getLogger(__name__)


def routes(
    metrics: Callable[[], bytes],
    not_ready: Callable[[], str | None],
    not_live: Callable[[], str | None],
    status: Callable[[], Mapping[str, object]],
) -> Starlette:
    async def show_status(request: Request) -> Response:
        return _json(status())

    def metrics_now() -> Response:
        return Response(metrics(), headers={"Content-Type": CONTENT_TYPE, **HEADERS})

    def metrics_again(headers: Headers) -> bytes | None:
        try:
            return whole(metrics_now(), headers)
        except Exception:
            return None  # asked the usual way, it will tell

    async def show_metrics(request: Request) -> Response:
        if request.method == "GET":
            request.state.again = metrics_again
        return metrics_now()

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


def whole(response: Response, headers: Headers) -> bytes:
    """Status line, `headers`, those of the response (of status 200), and its body."""
    lines = [name + b": " + value for name, value in (*headers, *response.raw_headers)]
    return b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"", response.body])


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
    headers = {"Content-Type": "application/json", **HEADERS}
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
