"""The HTTP server over real sockets."""

from __future__ import annotations

import http.client
import json
import math
import socket
import threading
from collections.abc import Iterator

import pytest
from http_served import Run, ask, refused
from prometheus_client.parser import text_string_to_metric_families

import kpi.http
from kpi.http import HttpServer
from kpi.http_app import cached


@pytest.fixture
def run() -> Run:
    return Run()


@pytest.fixture
def server(run: Run) -> Iterator[HttpServer]:
    server = run.serve()
    yield server
    server.close()


def test_metrics_parse(server: HttpServer) -> None:
    status, headers, body = ask(server, "/metrics")
    assert status == 200
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name for family in text_string_to_metric_families(body.decode())}
    assert "maskstream_frames" in families


def test_head_is_get_without_the_body(server: HttpServer) -> None:
    status, headers, body = ask(server, "/metrics", "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) == len(ask(server, "/metrics")[2])


def test_metrics_are_rendered_anew_once_they_are_old() -> None:
    now, made = 100.0, iter([b"first", b"second"])
    get = cached(lambda: next(made), 0.25, clock=lambda: now)
    assert get() == b"first"
    now = 100.2
    assert get() == b"first"
    now = 100.25
    assert get() == b"second"


def test_the_server_serves_metrics_from_the_cache(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kpi.http, "RENDER_EVERY_S", 3600.0)
    server = run.serve()
    try:
        assert {ask(server, "/metrics")[0] for _ in range(5)} == {200}
        assert run.renderings == 1
    finally:
        server.close()


def test_ready_and_live(server: HttpServer, run: Run) -> None:
    assert ask(server, "/readyz")[0] == 200
    assert ask(server, "/livez")[0] == 200
    run.reason = "no frame for 3 s"
    status, _, body = ask(server, "/readyz")
    assert status == 503
    assert json.loads(body) == {"ready": False, "reason": "no frame for 3 s"}
    assert ask(server, "/livez")[0] == 200
    run.hang = "the frame loop has not ticked for 5 s"
    assert ask(server, "/livez")[0] == 503


def test_status_is_standard_json(server: HttpServer, run: Run) -> None:
    run.status = {"frames": 3, "fps": math.nan, "stages": {"detect": math.inf}}
    status, headers, body = ask(server, "/status")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body) == {"frames": 3, "fps": None, "stages": {"detect": None}}


def test_a_failing_callable_costs_one_answer(
    server: HttpServer, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    run.status = {"tensor": object()}
    status, _, body = ask(server, "/status")
    assert status == 500
    assert b"object" not in body
    assert "/status failed" in caplog.text
    assert ask(server, "/livez")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "X"])
@pytest.mark.parametrize("path", ["/metrics", "/nowhere"])
def test_other_methods_are_refused(server: HttpServer, method: str, path: str) -> None:
    status, headers, _ = ask(server, path, method)
    assert status == 405
    assert headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/", "/metric", "/..%2fetc/passwd", "/metrics/../status"])
def test_unknown_paths_are_not_found(server: HttpServer, path: str) -> None:
    assert ask(server, path)[0] == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:9108", 200),
        ("localhost:9108", 200),
        ("LOCALHOST", 200),
        ("[::1]:9108", 200),
        ("evil.example", 421),
        ("evil.example:9108", 421),
        ("127.0.0.1.evil.example", 421),
        ("[::1].evil.example@x", 200),
        ("", 421),
        ("::1", 421),
    ],
)
def test_the_host_must_be_ours(server: HttpServer, host: str, status: int) -> None:
    assert ask(server, "/metrics", Host=host)[0] == status


def test_more_hosts_can_be_allowed(run: Run) -> None:
    server = run.serve(allowed_hosts=("Camera-1.lab",))
    try:
        assert ask(server, "/livez", Host="camera-1.lab:9108")[0] == 200
        assert ask(server, "/livez", Host="camera-2.lab:9108")[0] == 421
    finally:
        server.close()


MANY_HEADERS = b"".join(b"X-%d: y\r\n" % n for n in range(3000))


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"200"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"431"),
        (b"GET /?" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 9000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + MANY_HEADERS + b"\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 9000, b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", b"400"),
        (b"GET / HTTP/1.0\r\n\r\n", b"421"),
        (b"\x16\x03\x01\x02junk\r\n\r\n", b"400"),
    ],
)
def test_large_and_broken_requests_are_refused(
    server: HttpServer, request_: bytes, status: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(request_)
        assert client.recv(12)[9:] == status
    assert ask(server, "/livez")[0] == 200


def test_a_port_in_use_is_named(server: HttpServer, run: Run) -> None:
    expected = (
        rf"^http port {server.port} is in use \(expected a free port; "
        r"set http.port, 0 takes any\)$"
    )
    with pytest.raises(OSError, match=expected):
        run.serve(port=server.port)


def test_a_port_taken_but_not_yet_started_is_in_use_too(run: Run) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        with pytest.raises(OSError, match="is in use"):
            run.serve(port=other.getsockname()[1])


@pytest.mark.parametrize(
    ("host", "port"), [("203.0.113.7", 0), ("127.0.0.1", 70000), ("127.0.0.1", -1), ("a" * 70, 0)]
)
def test_an_impossible_address_is_one_line(run: Run, host: str, port: int) -> None:
    with pytest.raises(OSError, match=rf"^http cannot listen on {host} port {port}: .*expected"):
        run.serve(host=host, port=port)


def test_the_port_is_free_again_after_close(run: Run) -> None:
    first = run.serve()
    ask(first, "/livez")
    first.close()
    second = run.serve(port=first.port)
    assert ask(second, "/livez")[0] == 200
    second.close()


def test_close_cuts_open_connections(run: Run) -> None:
    server = run.serve()
    address = ("127.0.0.1", server.port)
    with (
        socket.create_connection(address, 30) as idle,
        socket.create_connection(address, 30) as half,
    ):
        idle.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(12) == b"HTTP/1.1 200"
        half.sendall(b"GET /metrics HT")
        assert ask(server, "/livez")[0] == 200, "by now the server has the other two"
        server.close()
        assert refused(half)
    assert server._thread is not None
    server._thread.join(30)
    assert not server._thread.is_alive()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(address)


def test_a_request_that_hangs_does_not_hold_up_close(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    asked, release = threading.Event(), threading.Event()

    def hang() -> None:
        asked.set()
        release.wait()

    run.not_ready = hang  # type: ignore[method-assign]
    server = run.serve()
    with socket.create_connection(("127.0.0.1", server.port), 30) as client:
        client.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert asked.wait(30)
        server.close()
        assert "hangs in a request" in caplog.text
        release.set()
        assert server._thread is not None
        server._thread.join(30)  # had it ended in an exception, pytest would say so
        assert not server._thread.is_alive()


def test_close_without_start_frees_the_port() -> None:
    run = Run()
    server = HttpServer(
        *("127.0.0.1", 0),
        metrics=run.render,
        not_ready=lambda: None,
        status=lambda: {},
    )
    server.close()
    run.serve(port=server.port).close()


def test_ipv6_loopback(run: Run) -> None:
    try:
        server = run.serve(host="::1")
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    try:
        client = http.client.HTTPConnection("::1", server.port, timeout=10)
        client.request("GET", "/livez")
        assert client.getresponse().status == 200
        client.close()
    finally:
        server.close()


def test_signal_handlers_stay_ours(server: HttpServer) -> None:
    import signal

    ask(server, "/livez")
    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(number)
        assert getattr(handler, "__module__", "signal").partition(".")[0] != "uvicorn", handler
