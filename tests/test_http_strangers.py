"""Strangers who hold connections of the HTTP server keep nobody else from being answered."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest
from http_served import Run, ask, refused

import kpi.http_connections
import kpi.http_gate
from kpi.http import HttpServer
from kpi.http_connections import CONNECTIONS, BoundedConnection

WHOLE = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
HALF = b"GET /metrics HTTP/1.1\r\nHost: loc"
LARGE = b"x" * (8 << 20)
Hold = Callable[..., socket.socket]
Patch = pytest.MonkeyPatch


@pytest.fixture
def run() -> Run:
    return Run()


@pytest.fixture
def server(run: Run) -> Iterator[HttpServer]:
    server = run.serve()
    yield server
    server.close()


@pytest.fixture
def hold(server: HttpServer) -> Iterator[Hold]:
    """Connects from an address of this machine, sends `first`, and stays."""
    with ExitStack() as stack:

        def connect(first: bytes = b"", address: str = "127.0.0.1") -> socket.socket:
            where = ("127.0.0.1", server.port)
            client = socket.create_connection(where, 10, source_address=(address, 0))
            stack.enter_context(client).sendall(first)
            return client

        yield connect


@pytest.fixture
def no_end(monkeypatch: Patch) -> None:
    """Nobody is cut for being slow."""
    monkeypatch.setattr(kpi.http_connections, "HEADER_S", 3600.0)
    monkeypatch.setattr(kpi.http_connections, "ROUND_S", 3600.0)


def is_open(client: socket.socket) -> bool:
    """Whether the server still holds it; what it was sent is read."""
    client.setblocking(False)
    try:
        while client.recv(1 << 16):
            pass
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False
    return False


@pytest.mark.usefixtures("no_end")
@pytest.mark.parametrize("strangers", [50, 63, 64, 200])
@pytest.mark.parametrize("first", [b"", HALF, WHOLE, HALF + b"\r\nContent-Length: 9\r\n\r\n"])
def test_everything_is_answered_while_strangers_hold_connections(
    server: HttpServer, hold: Hold, strangers: int, first: bytes
) -> None:
    held = [hold(first) for _ in range(strangers)]
    for path in ("/livez", "/readyz", "/metrics", "/status", "/livez"):
        assert ask(server, path)[0] == 200
    assert sum(map(is_open, held)) <= CONNECTIONS
    if strangers < CONNECTIONS:
        assert all(map(is_open, held)), "there was room"


@pytest.mark.usefixtures("no_end")
def test_a_server_that_refuses_the_newest_would_not_answer(
    server: HttpServer, hold: Hold, monkeypatch: Patch
) -> None:
    def refuse(newest: BoundedConnection) -> None:
        if len(newest.connections) > CONNECTIONS:
            newest._cut()

    monkeypatch.setattr(BoundedConnection, "_make_room", refuse)
    held = [hold(HALF) for _ in range(CONNECTIONS)]
    with pytest.raises(ConnectionError):
        ask(server, "/livez")
    assert all(map(is_open, held))


@pytest.mark.usefixtures("no_end")
@pytest.mark.parametrize(("address", "stays"), [("127.0.0.2", True), ("127.0.0.1", False)])
def test_room_is_made_by_the_address_that_holds_most(
    server: HttpServer, hold: Hold, address: str, stays: bool
) -> None:
    other = hold(HALF, address)
    for _ in range(2 * CONNECTIONS):
        hold(HALF)
    assert ask(server, "/livez")[0] == 200
    assert is_open(other) is stays


@pytest.mark.usefixtures("no_end")
@pytest.mark.parametrize(("settle_s", "stays"), [(0.0, True), (3600.0, False)])
def test_idle_ones_go_before_those_that_wait_for_an_answer(
    server: HttpServer, hold: Hold, monkeypatch: Patch, settle_s: float, stays: bool
) -> None:
    """Where all count as busy the oldest goes, and that is the one that waits."""
    monkeypatch.setattr(kpi.http_connections, "SETTLE_S", settle_s)
    monkeypatch.setattr(kpi.http_gate.Turns, "wait_s", lambda _: 3600.0)
    waits = hold(WHOLE.replace(b"livez", b"metrics"))
    assert ask(server, "/livez")[0] == 200, "by now the server has it"
    for _ in range(CONNECTIONS):
        hold(HALF)
    assert ask(server, "/livez")[0] == 200
    assert is_open(waits) is stays


@pytest.mark.parametrize(
    ("constant", "first"),
    [
        ("HEADER_S", b""),
        ("HEADER_S", HALF),
        ("ROUND_S", WHOLE + HALF),
        ("ROUND_S", b"POST /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999\r\n\r\n"),
    ],
)
def test_who_drips_is_cut(hold: Hold, monkeypatch: Patch, constant: str, first: bytes) -> None:
    for name in ("HEADER_S", "ROUND_S"):
        monkeypatch.setattr(kpi.http_connections, name, 0.3 if name == constant else 3600.0)
    client = hold(first)
    deadline = time.monotonic() + 30
    with suppress(OSError):
        while is_open(client) and time.monotonic() < deadline:
            client.send(b"a")
            time.sleep(0.02)
    assert time.monotonic() < deadline


@pytest.mark.parametrize(("round_s", "cut"), [(0.3, True), (3600.0, False)])
def test_who_does_not_read_is_cut(
    run: Run, hold: Hold, monkeypatch: Patch, round_s: float, cut: bool
) -> None:
    monkeypatch.setattr(run.sink, "render", lambda: LARGE)
    monkeypatch.setattr(kpi.http_connections, "ROUND_S", round_s)
    client = hold(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    time.sleep(1.0)
    got = 0
    with suppress(ConnectionResetError):
        while chunk := client.recv(1 << 20):
            got += len(chunk)
    assert (got < len(LARGE)) is cut


def test_who_goes_on_is_not_cut(server: HttpServer, monkeypatch: Patch) -> None:
    monkeypatch.setattr(kpi.http_connections, "HEADER_S", 0.5)
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    client.connect()
    kept = client.sock
    for _ in range(10):
        client.request("GET", "/livez")
        assert client.getresponse().read() == b'{"live":true}\n'
        time.sleep(0.1)
    assert client.sock is kept
    monkeypatch.setattr(kpi.http_connections, "ROUND_S", 0.2)
    client.request("GET", "/livez")
    client.getresponse().read()
    assert refused(kept), "now it has stopped"
