"""How often the HTTP server answers, and whom it lets wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from http_served import Run, ask

import kpi.http_gate
from kpi.http import HttpServer
from kpi.http_gate import Turns

TOKEN = "a-token-for-a-test"  # noqa: S105
KNOWN = {"Authorization": f"Bearer {TOKEN}"}
Serve = Callable[..., HttpServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:

        def make(**changes: object) -> HttpServer:
            server = Run().serve(**changes)
            stack.callback(server.close)
            return server

        yield make


@pytest.fixture
def one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server answers once and then, for this test, never again."""
    monkeypatch.setattr(kpi.http_gate, "REQUESTS_PER_S", 0.001)
    monkeypatch.setattr(kpi.http_gate, "BURST", 1)


def test_turns_are_given_out_at_a_rate() -> None:
    now = 100.0
    turns = Turns(10, 3, 9.0, clock=lambda: now)
    waits = [turns.wait_s() for _ in range(5)]
    assert waits == pytest.approx([0, 0, 0, 0.1, 0.2])
    now = 100.25
    assert turns.wait_s() == pytest.approx(0.05)
    now = 200.0
    assert [turns.wait_s() for _ in range(4)] == pytest.approx([0, 0, 0, 0.1])


def test_there_are_turns_for_so_long_ahead_only() -> None:
    now = 100.0
    turns = Turns(10, 1, 0.15, clock=lambda: now)
    assert [turns.wait_s() for _ in range(2)] == pytest.approx([0, 0.1])
    assert [turns.wait_s() for _ in range(50)] == [None] * 50
    now = 100.1
    assert turns.wait_s() == pytest.approx(0.1), "who was sent away took no turn"


def test_a_storm_waits_and_is_answered(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kpi.http_gate, "REQUESTS_PER_S", 20.0)
    monkeypatch.setattr(kpi.http_gate, "BURST", 2)
    server = serve()
    began = time.monotonic()
    assert {ask(server, "/metrics")[0] for _ in range(8)} == {200}
    assert time.monotonic() - began >= 6 / 20 - 0.05


@pytest.mark.usefixtures("one_turn")
def test_who_would_wait_for_long_is_told_to_come_again(serve: Serve) -> None:
    server = serve()
    assert ask(server, "/status")[0] == 200
    status, headers, _ = ask(server, "/metrics")
    assert status == 429
    assert (headers["Retry-After"], headers["Connection"]) == ("1", "close")


@pytest.mark.usefixtures("one_turn")
def test_probes_need_no_turn(serve: Serve) -> None:
    server = serve()
    assert [ask(server, "/metrics")[0] for _ in range(2)] == [200, 429], "none is left"
    for _ in range(10):
        assert [ask(server, path)[0] for path in ("/livez", "/readyz")] == [200, 200]


@pytest.mark.usefixtures("one_turn")
def test_what_is_refused_costs_no_turn(serve: Serve) -> None:
    server = serve(token=TOKEN)
    assert {ask(server, "/metrics")[0] for _ in range(10)} == {401}
    assert {ask(server, "/livez")[0] for _ in range(5)} == {401}
    assert {ask(server, "/metrics", "POST", **KNOWN)[0] for _ in range(5)} == {405}
    assert [ask(server, "/metrics", **KNOWN)[0] for _ in range(2)] == [200, 429], "there was one"


def test_refusals_have_turns_too(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kpi.http_gate, "REFUSALS_PER_S", 0.001)
    server = serve(token=TOKEN)
    burst = kpi.http_gate.BURST
    assert [ask(server, "/metrics")[0] for _ in range(burst + 3)] == [401] * burst + [429] * 3
    assert ask(server, "/metrics", **KNOWN)[0] == 200
