"""A request sent again on its connection is answered as it would be the usual way, for less."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from http_served import Run

import kpi.http
import kpi.http_connections
import kpi.http_gate
from kpi.events import ErrorRaised
from kpi.http import HttpServer
from kpi.http_gate import Gate, Turns

TOKEN = "a-token-for-a-test"  # noqa: S105
GET = b"GET %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer a-token-for-a-test\r\n\r\n"
METRICS = GET % b"/metrics"
Patch = pytest.MonkeyPatch
Answer = tuple[int, list[str], bytes]


class Kept:
    """A connection that sends raw requests and reads whole answers."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self._file = self.socket.makefile("rb")

    def ask(self, request: bytes, *more: bytes) -> Answer:
        self.socket.sendall(request)
        for part in more:
            time.sleep(0.05)
            self.socket.sendall(part)
        return self.read()

    def read(self) -> Answer:
        status = int(self._file.readline().split()[1])
        headers = http.client.parse_headers(self._file)
        body = self._file.read(int(headers["Content-Length"] or 0))
        return status, sorted(name.lower() for name in headers), body


@pytest.fixture
def judged(monkeypatch: Patch) -> list[str]:
    """The paths of the requests that took the usual way."""
    paths: list[str] = []
    usual = Gate._refusal

    def refusal(gate: Gate, scope: Any) -> Any:
        paths.append(scope["path"])
        return usual(gate, scope)

    monkeypatch.setattr(Gate, "_refusal", refusal)
    return paths


@pytest.fixture
def run() -> Run:
    return Run()


@pytest.fixture
def server(run: Run, judged: list[str], monkeypatch: Patch) -> Iterator[HttpServer]:
    monkeypatch.setattr(kpi.http, "RENDER_EVERY_S", 0.0)
    server = run.serve(token=TOKEN)
    yield server
    server.close()


@pytest.fixture
def kept(server: HttpServer) -> Iterator[Kept]:
    kept = Kept(server.port)
    with kept.socket:
        yield kept


def test_a_repeated_scrape_gets_the_same_answer_and_is_judged_once(
    kept: Kept, judged: list[str]
) -> None:
    answers = [kept.ask(METRICS) for _ in range(5)]
    assert answers == [answers[0]] * 5
    assert answers[0][0] == 200
    assert {"date", "content-length", "cache-control"} <= set(answers[0][1])
    assert judged == ["/metrics"]


def test_its_answer_is_of_now(kept: Kept, run: Run, judged: list[str]) -> None:
    for number in range(3):
        assert b"\nmaskstream_errors_total %.1f\n" % number in kept.ask(METRICS)[2]
        run.sink.write(0.0, ErrorRaised("here", "it"))
    assert judged == ["/metrics"]


@pytest.mark.parametrize(
    ("other", "status"),
    [
        (METRICS.replace(b"localhost", b"evil.tests"), 421),
        (METRICS.replace(b"for-a-test", b"for-a-tesT"), 401),
        (METRICS.replace(b"GET", b"PUT"), 405),
        (METRICS.replace(b"metrics", b"nowhere"), 404),
        (GET % b"/livez", 200),
        (GET % b"/status", 200),
        (METRICS.replace(b"GET", b"GOT"), 405),
    ],
)
def test_any_other_request_is_judged_each_time(
    kept: Kept, judged: list[str], other: bytes, status: int
) -> None:
    kept.ask(METRICS)
    for _ in range(3):
        assert kept.ask(other)[0] == status
    assert len(judged) == 4
    assert kept.ask(METRICS)[0] == 200


def test_what_is_known_of_one_connection_is_not_of_another(
    server: HttpServer, kept: Kept, judged: list[str]
) -> None:
    kept.ask(METRICS)
    other = Kept(server.port)
    with other.socket:
        other.ask(METRICS)
    assert len(judged) == 2


def test_pieces_and_several_at_once_are_answered_the_usual_way(
    kept: Kept, judged: list[str]
) -> None:
    answer = kept.ask(METRICS)
    assert kept.ask(METRICS[:20], METRICS[20:]) == answer
    assert kept.ask(METRICS + METRICS) == answer
    assert kept.read() == answer
    assert len(judged) == 4
    for _ in range(2):
        assert kept.ask(METRICS + METRICS[:9], METRICS[9:]) == answer
        assert kept.read() == answer
    assert len(judged) == 8


@pytest.mark.parametrize(
    ("before", "then"),
    [
        ((METRICS,), (METRICS[:9], METRICS)),
        ((METRICS[:20], METRICS[20:]), (METRICS[20:],)),
        ((METRICS, METRICS[:20], METRICS[20:]), (METRICS[20:],)),
    ],
)
def test_what_is_not_a_request_by_itself_is_refused(
    kept: Kept, before: tuple[bytes, ...], then: tuple[bytes, ...]
) -> None:
    kept.ask(*before)
    if len(before) == 3:
        kept.read()
    assert kept.ask(*then)[0] == 400


def test_a_request_with_a_body_to_come_is_not_known(kept: Kept, judged: list[str]) -> None:
    head = METRICS[:-2] + b"Content-Length: 3\r\n\r\n"
    for _ in range(3):
        assert kept.ask(head, b"abc")[0] == 200
    assert len(judged) == 3


def test_a_repeated_scrape_takes_a_turn(server: HttpServer, kept: Kept, monkeypatch: Patch) -> None:
    assert [kept.ask(METRICS)[0] for _ in range(2)] == [200, 200]
    monkeypatch.setattr(Turns, "take_free", lambda _: False)
    monkeypatch.setattr(Turns, "wait_s", lambda _: None)
    assert kept.ask(METRICS)[0] == 429


def test_a_free_turn_is_one_that_needs_no_waiting() -> None:
    now = 100.0
    turns = Turns(10, 2, 9.0, clock=lambda: now)
    assert [turns.take_free() for _ in range(4)] == [True, True, False, False]
    assert turns.wait_s() == pytest.approx(0.1), "a refused one is not taken"
    now = 100.3
    assert turns.take_free()


def test_a_rendering_that_fails_is_told(
    kept: Kept, run: Run, monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    assert [kept.ask(METRICS)[0] for _ in range(2)] == [200, 200]
    with monkeypatch.context() as broken:
        broken.setattr(run.sink, "render", lambda: 1 / 0)
        assert kept.ask(METRICS)[0] == 500
    assert "/metrics failed" in caplog.text


def test_who_repeats_and_never_reads_is_cut(kept: Kept, run: Run, monkeypatch: Patch) -> None:
    monkeypatch.setattr(kpi.http_connections, "ROUND_S", 0.5)
    monkeypatch.setattr(run.sink, "render", lambda: b"x" * (1 << 20))
    kept.ask(METRICS)
    deadline = time.monotonic() + 20
    with suppress(ConnectionError):
        while time.monotonic() < deadline:
            kept.socket.sendall(METRICS)
            time.sleep(0.1)  # each comes alone
    assert time.monotonic() < deadline


def test_who_repeats_is_kept(server: HttpServer, judged: list[str], monkeypatch: Patch) -> None:
    monkeypatch.setattr(kpi.http_connections, "ROUND_S", 1.0)
    monkeypatch.setattr(server._server.config, "timeout_keep_alive", 1)
    kept = Kept(server.port)
    with kept.socket:
        for _ in range(15):
            assert kept.ask(METRICS)[0] == 200
            time.sleep(0.1)
        assert judged == ["/metrics"]
        assert kept.socket.recv(1) == b"", "now it has stopped"
