"""The HTTP server of a run that is none, and how tests ask it."""

from __future__ import annotations

import http.client
import socket

from kpi.http import HttpServer
from kpi.prometheus import PrometheusSink


class Run:
    """What a run tells its server."""

    def __init__(self) -> None:
        self.sink = PrometheusSink("cam", ("detect",), {"version": "0.1"})
        self.reason: str | None = None
        self.hang: str | None = None
        self.status: dict[str, object] = {"frames": 3}
        self.renderings = 0

    def not_ready(self) -> str | None:
        return self.reason

    def render(self) -> bytes:
        self.renderings += 1
        return self.sink.render()

    def serve(self, **changes: object) -> HttpServer:
        fields: dict[str, object] = {"host": "127.0.0.1", "port": 0}
        server = HttpServer(
            **{**fields, **changes},  # type: ignore[arg-type]
            metrics=self.render,
            not_ready=self.not_ready,
            not_live=lambda: self.hang,
            status=lambda: self.status,
        )
        server.start()
        return server


def ask(
    server: HttpServer, path: str, method: str = "GET", **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        client.request(method, path, headers=headers)
        answer = client.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        client.close()


def refused(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True
