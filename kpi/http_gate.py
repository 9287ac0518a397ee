"""Who gets an answer from the run's HTTP server, and when."""

from __future__ import annotations

import asyncio
import hmac
import math
import time
from collections.abc import Callable, Iterable

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

REQUEST_BYTES = 8192
"""Path and headers of a request."""
REQUESTS_PER_S = 250.0
REFUSALS_PER_S = 50.0
BURST = 20
MOST_WAIT_S = 1.0
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
PROBES = frozenset({"/livez", "/readyz"})


class Gate:
    """Lets through GET and HEAD requests of bounded size that name one of `hosts`, where there
    are any, and carry `token`, where there is one.

    It answers `BURST` requests at once and `REQUESTS_PER_S` a second after that; the others wait
    their turn, so that a storm of them leaves the interpreter to the frame loop, and who would
    wait longer than `MOST_WAIT_S` is told to come again. `PROBES` need no turn. What it refuses
    has turns of its own: it costs nobody else's.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str], token: str | None) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._turns = Turns(REQUESTS_PER_S, BURST, MOST_WAIT_S)
        self._refusals = Turns(REFUSALS_PER_S, BURST, MOST_WAIT_S)
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope)
        if refusal is None and scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        wait_s = (self._turns if refusal is None else self._refusals).wait_s()
        if wait_s is None:
            await _too_many()(scope, receive, send)
            return
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        if refusal is None:
            scope["state"]["turns"] = self._turns
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        """The answer to a request that is not let through."""
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse(
                "expected GET or HEAD\n", 405, {"Allow": "GET, HEAD", **HEADERS}
            )
        sizes = (len(name) + len(value) for name, value in scope["headers"])
        if len(scope["raw_path"]) + len(scope["query_string"]) + sum(sizes) > REQUEST_BYTES:
            # h11 bounds only what arrives in pieces
            return PlainTextResponse(f"expected {REQUEST_BYTES} bytes at most\n", 431, HEADERS)
        headers: dict[bytes, bytes] = dict(scope["headers"])
        named = headers.get(b"host", b"").decode("latin-1").lower()
        if self._hosts and _host_name(named) not in self._hosts:
            return PlainTextResponse("unknown Host header\n", 421, HEADERS)
        if not self._knows(headers.get(b"authorization", b"")):
            ask = {"WWW-Authenticate": "Bearer", **HEADERS}
            return PlainTextResponse("expected Authorization: Bearer <token>\n", 401, ask)
        return None

    def _knows(self, authorization: bytes) -> bool:
        expected = self._expected
        return expected is None or hmac.compare_digest(authorization, expected)


class Turns:
    """Turns: `burst` at once, `per_s` a second after that, none further ahead than `most_s`
    seconds. `clock` is monotonic seconds."""

    def __init__(
        self,
        per_s: float,
        burst: int,
        most_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._every_s = 1 / per_s
        self._ahead_s = burst / per_s
        self._most_s = most_s
        self._clock = clock
        self._next = -math.inf

    def wait_s(self) -> float | None:
        """Seconds until the turn that is taken hereby; None where all are taken."""
        now = self._clock()
        turn = max(self._next, now - self._ahead_s + self._every_s)
        if turn - now > self._most_s:
            return None
        self._next = turn + self._every_s
        return max(0.0, turn - now)

    def take_free(self) -> bool:
        """Take a turn that needs no waiting; False where there is none."""
        if self._next > self._clock():
            return False
        return self.wait_s() is not None


def _too_many() -> PlainTextResponse:
    headers = {"Retry-After": "1", "Connection": "close", **HEADERS}
    return PlainTextResponse("too many requests\n", 429, headers)


def _host_name(named: str) -> str:
    """`[::1]:9108` -> `::1`, `localhost:9108` -> `localhost`."""
    if named.startswith("["):
        return named[1:].partition("]")[0]
    return named.partition(":")[0]
