"""Whatever strangers send to a real run's HTTP port, it costs no frames and it still answers."""

from __future__ import annotations

import json
import random
import signal
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
from conftest import cli_starter
from prometheus_client.parser import text_string_to_metric_families
from test_signals import write_config
from tiny_sam2 import write_model

from kpi.http_connections import CONNECTIONS

pytestmark = pytest.mark.timeout(180)

START_S = 100.0
JUNK = 2000
CALM_S = 5.0
MOST_LOST = 0.1
"""Of the frames, more than in calm: the strangers also take processor time of this machine."""
LIVE = b'{"live":true}\n'
HALF = b"GET /metrics HTTP/1.1\r\nX: "
GOOD = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
MAY_STOP = 8
"""Frames that may be under way when the run is told to end."""


@dataclass(slots=True)
class Frames:
    """What became of those of a while."""

    published: int = 0
    lost: int = 0
    """Replaced by a newer one, because the frame loop was late."""

    @property
    def lost_share(self) -> float:
        """1 where no frame came through at all."""
        came = self.published + self.lost
        return self.lost / came if came else 1.0


class Attacked:
    """A run in a process of its own."""

    def __init__(self, process: Popen[str], folder: Path) -> None:
        self._process = process
        self._out = folder / "out"
        self.port = self._await_frames()

    def _await_frames(self) -> int:
        deadline = time.monotonic() + START_S
        log = self._out / "kpi.jsonl"
        while not (log.exists() and '"frame_published"' in log.read_text()):
            assert self._process.poll() is None, self._process.communicate()
            assert time.monotonic() < deadline, "the run does not start"
            time.sleep(0.05)
        endpoints = json.loads((self._out / "endpoints.json").read_text())
        return int(endpoints["http"].rpartition(":")[2])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def send(self, junk: bytes) -> bytes:
        """The first bytes of what comes back."""
        with suppress(OSError), self.connect() as client:
            client.sendall(junk)
            client.shutdown(socket.SHUT_WR)
            return client.recv(64)
        return b""

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return bytes(answer.read())

    def status(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.get("/status"))
        return told

    @contextmanager
    def counted(self) -> Iterator[Frames]:
        """What became of the frames meanwhile, once it is over."""
        before, frames = self.status(), Frames()
        yield frames
        after = self.status()
        frames.published = after["published"] - before["published"]
        frames.lost = after["dropped"].get("mailbox", 0) - before["dropped"].get("mailbox", 0)

    def names(self) -> set[str]:
        """Every series, by name and labels, once those that are rates are there."""
        while b"\nmaskstream_process_cpu_cores " not in self.get("/metrics"):
            time.sleep(0.1)
        families = text_string_to_metric_families(self.get("/metrics").decode())
        return {f"{one.name}{one.labels}" for family in families for one in family.samples}

    def end(self) -> dict[str, Any]:
        """The summary."""
        self._process.send_signal(signal.SIGTERM)
        _, stderr = self._process.communicate(timeout=START_S)
        assert self._process.returncode == 0, stderr
        assert "Traceback" not in stderr
        summary: dict[str, Any] = json.loads((self._out / "summary.json").read_text())
        return summary


@pytest.fixture
def attack(tmp_path: Path) -> Iterator[Callable[..., Attacked]]:
    """Starts a run whose loop must be back within 0.1 s, or a picture that waits is lost."""
    write_config(tmp_path, write_model(tmp_path))
    settings = ("grab.mailbox=latest", "source.fps=10", "preview=null")
    options = [word for setting in settings for word in ("--set", setting)]
    with cli_starter() as start:

        def begin(module: str = "pipeline.cli") -> Attacked:
            out = ("--out", "out", *options)
            return Attacked(start("run", "c.yaml", *out, cwd=tmp_path, module=module), tmp_path)

        yield begin


def junk(number: int) -> bytes:
    """Bytes at random, or a good request with some of them wrong."""
    drawn = random.Random(number)  # noqa: S311 (no secret)
    if number % 4 == 0:
        return drawn.randbytes(drawn.randint(0, 3000))
    if number % 4 == 1:
        return GOOD[: drawn.randint(0, len(GOOD) - 1)]
    if number % 4 == 2:
        return b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + drawn.randbytes(2000)
    wrong = bytearray(GOOD)
    for _ in range(drawn.randint(1, 20)):
        wrong[drawn.randrange(len(wrong))] = drawn.randrange(256)
    return bytes(wrong)


def huge(number: int) -> bytes:
    """More headers than fit, or one that is too long."""
    many = b"".join(b"X-%d: y\r\n" % n for n in range(5000))
    one = b"X: " + b"y" * 1_000_000 + b"\r\n"
    return GOOD[:-2] + (many if number % 2 else one) + b"\r\n"


class Slow:
    """Clients who drip their requests, as many at any time; who is cut comes again."""

    def __init__(self, attacked: Attacked, count: int, stack: ExitStack) -> None:
        self._connect = lambda: stack.enter_context(attacked.connect())
        self._clients = [self._connect() for _ in range(count)]
        self.cut = 0
        for client in self._clients:
            client.sendall(HALF)

    def drip(self) -> None:
        """One more byte from each."""
        for index, client in enumerate(self._clients):
            try:
                client.send(b"a")
            except OSError:
                client.close()
                self.cut += 1
                self._clients[index] = self._connect()
                with suppress(OSError):
                    self._clients[index].send(HALF)


def storm(attacked: Attacked, slow_clients: int) -> set[bytes]:
    """All there is to fear, while probes and scrapes are answered; the other answers."""
    answers = set()
    with ExitStack() as stack:
        slow = Slow(attacked, slow_clients, stack)
        for number in range(JUNK):
            answers.add(attacked.send(junk(number))[9:12])
            if number % 20 == 0:
                slow.drip()
                attacked.send(huge(number // 20))
            if number % 100 == 0:
                assert attacked.get("/livez") == LIVE
                assert attacked.get("/metrics").startswith(b"# HELP maskstream_")
    if slow_clients > CONNECTIONS:
        assert slow.cut > 0, "they do fill it"
    return answers


@pytest.mark.parametrize("slow_clients", [50, 200])
def test_no_stranger_costs_a_frame(attack: Callable[..., Attacked], slow_clients: int) -> None:
    attacked = attack()
    names = attacked.names()
    with attacked.counted() as calm:
        time.sleep(CALM_S)
    with attacked.counted() as stormed:
        answers = storm(attacked, slow_clients)
    assert {b"400", b"405", b"421"} <= answers
    assert stormed.published > 0
    assert stormed.lost_share <= calm.lost_share + MOST_LOST
    after = attacked.status()
    assert (after["not_ready"], after["not_live"]) == (None, None)
    assert after["source_state"] == "streaming"
    assert attacked.names() == names
    frames = attacked.end()["frames"]
    assert frames["grabbed"] == frames["published"] + sum(frames["dropped"].values())
    assert set(frames["dropped"]) <= {"stopped", "mailbox"}
    assert frames["dropped"].get("stopped", 0) <= MAY_STOP


def test_it_would_show_that_scrapes_cost_frames(attack: Callable[..., Attacked]) -> None:
    attacked = attack("tests.costly_cli")
    with attacked.counted() as calm:
        time.sleep(CALM_S)
    with attacked.counted() as stormed:
        for _ in range(8):
            attacked.get("/metrics")
    assert stormed.lost_share > calm.lost_share + MOST_LOST
