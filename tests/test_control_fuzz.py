"""Ten thousand messages that are almost commands, and raw bytes beside them: each is counted, a
ping is answered all the while, and memory does not grow."""

from __future__ import annotations

import json
import random
import socket as sockets
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import zmq
from control_rig import Rig, rig
from mutants import VALID, mutants
from result_packets import wait_until
from test_curve import Keys

from benchmarks.control import judged
from pipeline.control.reading import CommandError, read_command
from stages.control_client import Controller

SEED = 20261121
MUTANTS = 10_000
AT_ONCE = 32
"""Half of what the channel keeps for who does not read (ZMQ counts to within a half): were more
under way, answers would be dropped, as they should, whenever the sending thread gets no turn."""
JUNK = 300
PING_S = 2.0
"""Far more than it takes, for this machine may be busy; benchmarks/control.py measures it."""
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)


class Pinger:
    """Pings all the while, in a thread; the slowest answer counts."""

    def __init__(self, controller: Controller) -> None:
        self.slowest_s, self.count = 0.0, 0
        self._controller = controller
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go)

    def _go(self) -> None:
        while not self._over.wait(0.02):
            began = time.monotonic()
            assert self._controller.send("ping").applied
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            self.count += 1

    def __enter__(self) -> Pinger:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path, endpoint="tcp://127.0.0.1:0", rate_per_s=10_000, burst=100_000) as made:
        yield made


@contextmanager
def attacker(to: Rig) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.connect(to.channel.endpoint)
        yield socket


def fire(socket: zmq.Socket[bytes], messages: list[bytes]) -> list[bytes]:
    """Send all, never far ahead of the answers; the answers."""
    answers: list[bytes] = []
    for number, message in enumerate(messages, 1):
        socket.send(message)
        wanted = len(messages) if number == len(messages) else number - AT_ONCE
        while len(answers) < wanted and socket.poll(10_000):
            answers.append(socket.recv())
    return answers


def port_of(live: Rig) -> tuple[str, int]:
    host, _, port = live.channel.endpoint.removeprefix("tcp://").rpartition(":")
    return host, int(port)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_mutant_is_counted_and_answered_and_a_ping_too(live: Rig) -> None:
    messages = list(mutants(SEED, MUTANTS))
    with live.controller() as controller, attacker(live) as socket:
        fire(socket, list(mutants(SEED + 1, 2000)))  # what is made once, is made
        before, memory = live.heard, psutil.Process().memory_info().rss  # the channel's, too
        with Pinger(controller) as pinger:
            answers = fire(socket, messages)
        grown = psutil.Process().memory_info().rss - memory
        assert live.heard - before == MUTANTS + pinger.count
        assert len(answers) == MUTANTS, "each was answered"
        ends = [json.loads(answer)["outcome"] for answer in answers]
        counts = live.channel.counts
        assert min(ends.count("applied"), ends.count("refused")) > MUTANTS // 20
        assert min(counts["not_json"], counts["bad_command"], counts["applied"]) > 500, counts
        assert counts["failed"] == 0
        assert pinger.count > 5
        assert pinger.slowest_s < PING_S
        assert grown < 20 << 20
        assert controller.send("add", box=(1, 2, 30, 40)).applied


def test_the_mutants_are_the_same_each_time_and_some_are_good() -> None:
    first, again = list(mutants(1, 500)), list(mutants(1, 500))
    assert first == again != list(mutants(2, 500))

    def is_good(raw: bytes) -> bool:
        try:
            read_command(raw)
        except CommandError:
            return False
        return True

    assert 25 < sum(map(is_good, first)) < 475
    assert all(is_good(json.dumps(command).encode()) for command in VALID)


def test_the_benchmark_judges_the_slowest_ping() -> None:
    fine = {"ping_ms_p99": 2.0, "ping_ms_max": 99.0}
    assert judged({"alone": fine, "flood": fine}) == 0
    assert judged({"alone": fine, "flood": fine | {"ping_ms_max": 101.0}}) == 1


def junk(dice: random.Random) -> bytes:
    """Bytes that speak no ZMTP, or begin to and go astray."""
    match dice.randrange(6):
        case 0:
            return dice.randbytes(dice.randint(1, 2000))
        case 1:
            return GREETING[: dice.randrange(64)]
        case 2:
            return GREETING + dice.randbytes(dice.randint(1, 200))
        case 3:
            return GREETING + b"\x02" + struct.pack(">Q", 2**62)
        case 4:
            return b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        case _:
            return b"\xff" * 500


@pytest.mark.slow
@pytest.mark.parametrize("curve", [False, True])
def test_raw_bytes_hold_nobody_up_and_are_counted(tmp_path: Path, curve: bool) -> None:
    keys = Keys(tmp_path / "keys")
    dice = random.Random(SEED)  # noqa: S311 (to be repeated)
    held: list[sockets.socket] = []
    settings = {"endpoint": "tcp://127.0.0.1:0", "curve": keys.curve if curve else None}
    with rig(tmp_path, **settings) as live:
        own = keys.friend if curve else None
        with live.controller(keys=own) as controller, Pinger(controller) as pinger:
            for number in range(JUNK):
                one = sockets.create_connection(port_of(live), timeout=5)
                with suppress(OSError):  # it may have been cut off by now
                    one.sendall(junk(dice))
                held.append(one)
                if number % 3:
                    held.pop().close()
            wait_until(lambda: pinger.count > 5, lambda: time.sleep(0.05))
            for one in held:
                one.close()
            counts = live.channel.counts
            wait_until(lambda: counts["connected"] == JUNK + 1, lambda: time.sleep(0.05))
            assert counts["let_in"] == 1, "the controller"
            assert controller.send("ping").applied
        assert pinger.slowest_s < PING_S
        assert live.channel.counts["failed"] == 0


def test_half_a_message_that_never_ends_is_no_burden(live: Rig) -> None:
    with sockets.create_connection(port_of(live), timeout=5) as half:
        half.sendall(GREETING[:32])
        with live.controller() as controller:
            assert controller.send("ping").applied


def test_a_key_that_is_not_allowed_is_counted(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    with rig(tmp_path, endpoint="tcp://127.0.0.1:0", curve=keys.curve) as live:
        with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.linger = 0
            keys.stranger.give(socket)
            socket.connect(live.channel.endpoint)
            socket.send(b'{"id": "1", "verb": "ping"}')
            wait_until(lambda: live.channel.counts["uninvited"] > 0, lambda: time.sleep(0.02))
        assert live.heard == 0
