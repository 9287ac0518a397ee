"""Whatever strangers send to a real run's HTTP port, no frame is lost and it still answers."""

from __future__ import annotations

import json
import random
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
from conftest import cli_starter
from prometheus_client.parser import text_string_to_metric_families
from test_signals import write_config
from tiny_sam2 import write_model

pytestmark = pytest.mark.timeout(180)

START_S = 100.0
JUNK = 2000
SLOW = 50
GOOD = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
MAY_STOP = 8
"""Frames that may be under way when the run is told to end."""


class Attacked:
    """A run in a process of its own."""

    def __init__(self, process: Popen[str], out: Path) -> None:
        self._process = process
        self._out = out
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
def attacked(tmp_path: Path) -> Iterator[Attacked]:
    write_config(tmp_path, write_model(tmp_path))
    with cli_starter() as start:
        yield Attacked(start("run", "c.yaml", "--out", "out", cwd=tmp_path), tmp_path / "out")


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


def test_no_stranger_costs_a_frame(attacked: Attacked) -> None:
    before, names = attacked.status(), attacked.names()
    with ExitStack() as held:
        slow = [held.enter_context(attacked.connect()) for _ in range(SLOW)]
        for client in slow:
            client.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        answers = set()
        for number in range(JUNK):
            answers.add(attacked.send(junk(number))[9:12])
            if number % 20 == 0:
                drip(slow)
                attacked.send(huge(number // 20))
            if number % 500 == 0:
                assert attacked.status()["not_live"] is None
    assert {b"400", b"405", b"421"} <= answers
    after = attacked.status()
    assert (after["not_ready"], after["source_state"]) == (None, "streaming")
    assert after["published"] > before["published"]
    assert attacked.get("/livez") == b'{"live":true}\n'
    assert attacked.names() == names
    frames = attacked.end()["frames"]
    assert frames["grabbed"] == frames["published"] + sum(frames["dropped"].values())
    assert set(frames["dropped"]) <= {"stopped"}
    assert frames["dropped"].get("stopped", 0) <= MAY_STOP


def drip(slow: list[socket.socket]) -> None:
    """One more byte from each of those who never come to an end."""
    for client in slow:
        with suppress(OSError):  # cut, its time was over
            client.send(b"a")
