"""Frames over real sockets: what a sender says arrives, and what else comes does no harm."""

from __future__ import annotations

import os
import pickle
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import zmq
from numpy.typing import NDArray
from pydantic import ValidationError

from kpi.emit import current_logger
from kpi.events import ErrorRaised, Event, SourceStateChanged
from stages.base import ListeningSource, Picture, SelfTelling
from stages.errors import ConfigError, SourceError
from stages.frame_sender import FrameSender
from stages.sources import zmq_frames
from stages.sources.region import Region
from stages.sources.troubles import Troubles
from stages.sources.zmq_frames import ZmqFramesConfig, ZmqFrameSource
from stages.wire_frames import FrameMessage, decode_frame, encode_frame

SHAPE = (24, 32, 3)
COLOURS = np.zeros((4, 4, 3), np.uint8)
COLOURS[0, 0], COLOURS[1, 1], COLOURS[2, 2] = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def memory(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.empty(shape, np.uint8)


def grey(value: int, shape: tuple[int, ...] = SHAPE) -> NDArray[np.uint8]:
    return np.full(shape, value, np.uint8)


class Listening:
    """A source on a path of its own, its events remembered."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.config = ZmqFramesConfig(endpoint=f"ipc://{folder}/frames", **config)
        self.source = ZmqFrameSource(self.config)
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def read(self) -> Picture:
        """The next picture; the test's time limit ends the wait."""
        token = current_logger.set(self)
        try:
            picture = self.source.read(memory)
        finally:
            current_logger.reset(token)
        assert picture is not None
        return picture

    def listen_until(self, done: Callable[[], bool]) -> None:
        """libzmq greets whoever connects while the socket is used, and only then."""
        while not done():
            assert self.source.inbox.read(memory, 0.01) is None

    def values(self, count: int) -> list[int]:
        return [int(self.read().pixels.flat[0]) for _ in range(count)]

    @property
    def told(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, ErrorRaised)]

    @property
    def counts(self) -> dict[str, int]:
        return dict(self.source.inbox.troubles.counts)


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Callable[..., Listening]]:
    made: list[Listening] = []

    def make(**config: Any) -> Listening:
        made.append(Listening(tmp_path, **config))
        return made[-1]

    yield make
    for one in made:
        one.source.close()


@contextmanager
def sending(to: Listening, **more: Any) -> Iterator[FrameSender]:
    with FrameSender(to.source.endpoint, high_water_mark=1000, **more) as sender:
        to.listen_until(lambda: sender.wait(0.01))
        yield sender


@contextmanager
def raw(to: Listening, kind: int = zmq.XPUB) -> Iterator[zmq.Socket[bytes]]:
    """A socket that sends whatever it is told, once the source has subscribed to it."""
    with zmq.Context() as context, context.socket(kind) as socket:
        socket.setsockopt(zmq.SNDHWM, 0)
        if kind == zmq.XPUB:
            socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        socket.connect(to.source.endpoint)
        if kind == zmq.XPUB:
            to.listen_until(lambda: socket.poll(10) > 0)
            socket.recv()
        yield socket


def message(seq: int, session: int = 1, value: int = 0, **more: Any) -> bytes:
    return encode_frame("zmq", FrameMessage(session, seq, grey(value), **more))


def test_everything_that_is_sent_arrives(listening: Callable[..., Listening]) -> None:
    at = listening()
    assert isinstance(at.source, ListeningSource)
    assert isinstance(at.source, SelfTelling)
    pose = np.eye(4)
    pose[0, 3] = 12.5
    before_ns = time.monotonic_ns()
    with sending(at) as sender:
        sender.send(COLOURS, spacing_mm=(0.2, 0.3), pose=pose, captured_unix_ns=1_700_000_000)
        sender.send(grey(9, (5, 7)), captured_ns=before_ns, captured_unix_ns=1_700_000_001)
        first, second = at.read(), at.read()
    assert np.array_equal(first.pixels, COLOURS)  # red is the first of three
    assert (first.spacing_mm, first.captured_unix_ns) == ((0.2, 0.3), 1_700_000_000)
    assert first.pose is not None
    assert np.array_equal(first.pose, pose)
    assert before_ns <= first.captured_ns <= time.monotonic_ns()
    assert second.pixels.shape == (5, 7)
    assert (second.pixels == 9).all()
    assert (second.captured_ns, second.pose, second.spacing_mm) == (before_ns, None, None)
    assert (first.epoch, second.epoch) == (0, 1), "another size"


def test_it_fills_the_array_that_it_is_given(listening: Callable[..., Listening]) -> None:
    at = listening(roi=Region(y=2, x=3, height=10, width=20), spacing_mm=(1.0, 2.0))
    assert at.source.size_hw == (10, 20)
    asked: list[NDArray[np.uint8]] = []
    picture = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)

    def buffer(shape: tuple[int, ...]) -> NDArray[np.uint8]:
        asked.append(memory(shape))
        return asked[-1]

    with sending(at) as sender:
        sender.send(picture, spacing_mm=(5.0, 5.0))
        got = at.source.read(buffer)
    assert got is not None
    assert got.pixels is asked[0]
    assert np.array_equal(got.pixels, picture[2:12, 3:23])
    assert (got.origin_yx, got.full_hw, got.spacing_mm) == ((2, 3), SHAPE[:2], (1.0, 2.0))


def test_a_time_that_lies_ahead_is_not_believed(listening: Callable[..., Listening]) -> None:
    at = listening()
    with sending(at) as sender:
        sender.send(grey(0), captured_ns=time.time_ns())  # another clock altogether
        assert at.read().captured_ns <= time.monotonic_ns()


def test_another_hosts_clock_is_not_taken_for_this_ones() -> None:
    """It may have booted at any time; a queue on the way shows by its Unix time."""
    config = ZmqFramesConfig(endpoint="tcp://0.0.0.0:0", insecure_bind=True)
    inbox = zmq_frames.FrameInbox(config)
    ages_s = []
    for seq, (uptime_s, unix_s) in enumerate(((-3600, 5_000), (3600, 5_010), (0, 5_011))):
        told_ns = time.monotonic_ns() + uptime_s * 10**9
        frame = FrameMessage(1, seq, grey(0), told_ns, unix_s * 10**9)
        with patch("time.monotonic_ns", return_value=(100 + 12 * seq) * 10**9):
            captured_ns = inbox._arrival(frame, memory).captured_ns
        ages_s.append(100 + 12 * seq - captured_ns / 1e9)
    inbox.release()
    assert ages_s == pytest.approx([0, 2, 13], abs=0.1)


@pytest.mark.parametrize("beyond", [False, True])
def test_a_sender_tells_its_monotonic_clock_to_its_own_host_alone(beyond: bool) -> None:
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        port = socket.bind_to_random_port("tcp://0.0.0.0")
        socket.subscribe(b"")
        host = "0.0.0.0" if beyond else "127.0.0.1"  # noqa: S104 (both lead here)
        with FrameSender(f"tcp://{host}:{port}") as sender:
            while not sender.wait(0.01):
                socket.poll(10)  # greets it
            taken_ns, unix_ns = time.monotonic_ns() - 10**9, time.time_ns() - 10**9
            sender.send(grey(0), captured_ns=taken_ns)
            frame = decode_frame(memoryview(socket.recv()))
    assert frame.captured_ns == (None if beyond else taken_ns)
    assert frame.captured_unix_ns == pytest.approx(unix_ns, abs=5e8)


class TestSequence:
    def test_what_is_missing_is_told(self, listening: Callable[..., Listening]) -> None:
        at = listening()
        with raw(at) as socket:
            for seq in (5, 6, 9, 10):
                socket.send(message(seq, value=seq))
            assert at.values(4) == [5, 6, 9, 10]
        assert at.counts == {"lost": 2}
        assert at.told == ["2 pictures before 9 are missing (lost: 2)"]

    def test_what_comes_twice_or_late_is_skipped(self, listening: Callable[..., Listening]) -> None:
        at = listening()
        with raw(at) as socket:
            for seq in (5, 6, 6, 4, 7):
                socket.send(message(seq, value=seq))
            assert at.values(3) == [5, 6, 7]
        assert at.counts == {"out of order": 2}
        assert len(at.told) == 1

    def test_in_order_nothing_is_told(self, listening: Callable[..., Listening]) -> None:
        at = listening()
        with sending(at) as sender:
            for value in range(30):
                sender.send(grey(value))
            assert at.values(30) == list(range(30))
        assert (at.counts, at.told) == ({}, [])
        states = [event.state for event in at.events if isinstance(event, SourceStateChanged)]
        assert states == ["connecting", "streaming"]


class TestSenders:
    def test_a_second_one_of_the_same_id_is_told_and_not_heard(
        self, listening: Callable[..., Listening]
    ) -> None:
        at = listening()
        with raw(at) as socket:
            for seq in range(6):
                socket.send(message(seq, session=1, value=10 + seq))
                socket.send(message(seq, session=2, value=20 + seq))
            assert at.values(6) == [10, 11, 12, 13, 14, 15]
            socket.send(message(6, session=1, value=16))
            picture = at.read()
        assert (int(picture.pixels.flat[0]), picture.epoch) == (16, 0)
        assert at.counts == {"other sender": 6}
        assert len(at.told) == 1
        assert "another sender" in at.told[0]

    def test_one_that_restarts_begins_an_epoch(
        self, listening: Callable[..., Listening], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(zmq_frames, "TAKEOVER_S", 0.0)
        at = listening()
        epochs = []
        for _ in range(3):
            with sending(at) as sender:
                for _ in range(2):
                    sender.send(grey(0))
                    epochs.append(at.read().epoch)
        assert epochs == [0, 0, 1, 1, 2, 2]
        assert at.counts == {}

    def test_one_that_restarts_with_its_old_session_is_heard_after_a_second(
        self, listening: Callable[..., Listening], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As a program does that makes its session from its name. It does not fall silent."""
        monkeypatch.setattr(zmq_frames, "TAKEOVER_S", 0.2)
        at = listening()
        with raw(at) as socket:
            for seq in range(1_000_000, 1_000_003):
                socket.send(message(seq))
            assert [at.read().epoch for _ in range(3)] == [0, 0, 0]
            deadline, seq = time.monotonic() + 10, 0
            while at.source.inbox.read(memory, 0.01) is None:
                assert time.monotonic() < deadline, "it is skipped for ever"
                socket.send(message(seq))
                seq += 1
                time.sleep(0.005)
            assert at.counts["out of order"] > 0
            socket.send(message(seq))
            assert at.read().epoch == 1

    def test_one_that_pauses_does_not(self, listening: Callable[..., Listening]) -> None:
        at = listening(stale_after_s=0.1)
        with sending(at) as sender:
            sender.send(grey(1))
            first = at.read()
            timer = threading.Timer(0.5, sender.send, (grey(2),))
            timer.start()
            second = at.read()
            timer.join()
        assert (first.epoch, second.epoch) == (0, 0)
        states = [event.state for event in at.events if isinstance(event, SourceStateChanged)]
        assert states == ["connecting", "streaming", "stale", "streaming"]

    def test_a_clock_that_falls_back_begins_an_epoch(
        self, listening: Callable[..., Listening]
    ) -> None:
        at = listening()
        with raw(at) as socket:
            for seq, unix_ns in enumerate((100, 200, 50, 60)):
                socket.send(message(seq, captured_unix_ns=unix_ns))
            assert [at.read().epoch for _ in range(4)] == [0, 0, 1, 1]

    def test_another_id_is_not_heard(self, listening: Callable[..., Listening]) -> None:
        at = listening()
        with raw(at) as socket:
            for source_id in ("zmq2", "zm", "zmq"):
                frame = FrameMessage(1, 0, grey(len(source_id)))
                socket.send(encode_frame(source_id, frame))
            assert at.values(1) == [3]
        assert at.counts == {}


def test_a_sender_of_another_id_waits_in_vain(listening: Callable[..., Listening]) -> None:
    at = listening()
    with FrameSender(at.source.endpoint, "cam2") as sender:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            assert at.source.inbox.read(memory, 0.01) is None
            assert not sender.wait(0.01)


def oversized() -> bytes:
    return message(0) + bytes(zmq_frames.MAX_FRAME_BYTES)


def test_what_cannot_be_read_is_skipped_and_told_once(listening: Callable[..., Listening]) -> None:
    at = listening()
    topic = b"frame/zmq\0"
    bad = [topic, topic + b"\xff" * 40, topic + pickle.dumps([1]), message(0)[:-1], message(0)[:40]]
    with raw(at) as socket:
        for content in bad * 20:
            socket.send(content)
        socket.send_multipart([message(0), b"more", b"and more"])
        socket.send(message(1, value=8))
        assert at.values(1) == [8]
    assert at.counts == {"refused": 101}
    assert len(at.told) == 1


def test_a_flood_of_spoilt_messages_harms_nobody(listening: Callable[..., Listening]) -> None:
    """Of another sender, whose few good ones are not heard; memory stays as it is."""
    at, rng = listening(), np.random.default_rng(11)
    good = np.frombuffer(message(0, session=5), np.uint8)
    head = len(b"frame/zmq\0")
    with raw(at) as socket, sending(at) as sender:
        sender.send(grey(99))
        assert at.values(1) == [99]
        before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(40):
            for _ in range(50):
                bad = good.copy()
                places = rng.integers(head, len(bad) // 5, rng.integers(1, 5))
                bad[places] = rng.integers(0, 256, len(places))
                cut = int(rng.integers(head, len(bad))) if rng.random() < 0.3 else len(bad)
                socket.send(bad[:cut].tobytes())
            sender.send(grey(100 + number))
            assert at.values(1) == [100 + number]
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 20_000
        at.listen_until(lambda: sum(at.counts.values()) == 2000)
    assert set(at.counts) == {"refused", "other sender"}
    assert at.counts["refused"] > 1000
    assert len(at.told) == 2


def test_nothing_is_left_open(tmp_path: Path) -> None:
    def open_and_close() -> None:
        source = ZmqFrameSource(ZmqFramesConfig(endpoint=f"ipc://{tmp_path}/f"))
        with FrameSender(source.endpoint):
            source.inbox.read(memory, 0.05)
        source.close()

    open_and_close()
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(10):
        open_and_close()
    assert len(os.listdir("/proc/self/fd")) <= files
    assert threading.active_count() <= threads


def test_one_above_the_limit_costs_its_sender_the_connection_and_nobody_else(
    listening: Callable[..., Listening],
) -> None:
    at = listening()
    with raw(at) as strange, sending(at) as sender:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        big = oversized()
        own_kb = 2 * len(big) // 1024  # ours, and that of the sending side in this process
        strange.send(big)
        sender.send(grey(3))
        assert at.values(1) == [3]
        at.listen_until(lambda: strange.poll(10) > 0)  # it subscribes again: it was cut off
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < own_kb + 40_000
    assert at.counts == {}


def test_a_peer_of_another_kind_is_turned_away(listening: Callable[..., Listening]) -> None:
    at = listening()
    with raw(at, zmq.PUSH) as stranger, sending(at) as sender:
        with suppress(zmq.Again):  # it may have been turned away already
            stranger.send(message(0, value=99), zmq.NOBLOCK)
        for value in range(5):
            sender.send(grey(value))
        assert at.values(5) == [0, 1, 2, 3, 4]
        stranger.close(0)  # what it could not get rid of
    assert at.counts == {}


class TestEndpoint:
    def test_port_0_takes_a_free_one(self) -> None:
        source = ZmqFrameSource(ZmqFramesConfig(endpoint="tcp://127.0.0.1:0"))
        try:
            port = int(source.endpoint.rsplit(":", 1)[1])
            assert 0 < port < 65536
            with pytest.raises(SourceError, match="already in use"):
                ZmqFrameSource(ZmqFramesConfig(endpoint=source.endpoint))
        finally:
            source.close()
        ZmqFrameSource(ZmqFramesConfig(endpoint=source.endpoint)).close()

    @pytest.mark.parametrize(
        "endpoint",
        [
            "tcp://0.0.0.0:5558",
            "tcp://*:5558",
            "tcp://192.168.1.5:5558",
            "udp://127.0.0.1:1",
            "x",
            "",
        ],
    )
    def test_nobody_beyond_this_host_can_reach_it(self, endpoint: str) -> None:
        with pytest.raises(ConfigError, match=r"source zmq: endpoint: got .* this host alone"):
            ZmqFrameSource(ZmqFramesConfig(endpoint=endpoint))

    def test_a_file_is_not_destroyed(self, tmp_path: Path) -> None:
        (tmp_path / "precious").write_text("x")
        with pytest.raises(ConfigError, match="is a file"):
            ZmqFrameSource(ZmqFramesConfig(endpoint=f"ipc://{tmp_path}/precious"))
        assert (tmp_path / "precious").read_text() == "x"

    def test_a_sender_refuses_what_is_no_endpoint(self) -> None:
        with pytest.raises(ConfigError, match="cannot connect to 'nowhere'"):
            FrameSender("nowhere")


def test_a_region_that_the_first_picture_does_not_have_ends_it(
    listening: Callable[..., Listening],
) -> None:
    at = listening(roi=Region(y=20, x=0, height=10, width=10))
    with sending(at) as sender:
        sender.send(grey(0))
        with pytest.raises(SourceError, match="roi reaches to row 30"):
            at.read()


def test_a_later_picture_too_small_for_the_region_does_not(
    listening: Callable[..., Listening],
) -> None:
    at = listening(roi=Region(y=0, x=0, height=20, width=10))
    with sending(at) as sender:
        sender.send(grey(1))
        sender.send(grey(2, (8, 8)))
        sender.send(grey(3))
        assert at.values(2) == [1, 3]
    states = [event.state for event in at.events if isinstance(event, SourceStateChanged)]
    assert states == ["connecting", "streaming", "reconnecting", "streaming"]


@pytest.mark.parametrize("heard", [False, True])
def test_it_stops_within_a_second_while_it_waits(
    listening: Callable[..., Listening], heard: bool
) -> None:
    at = listening()
    with ThreadPoolExecutor(1) as pool, sending(at) as sender:
        if heard:
            sender.send(grey(0))
            at.read()
        reading = pool.submit(at.source.read, memory)
        time.sleep(0.3)
        assert not reading.done()
        start = time.monotonic()
        at.source.close()
        assert reading.result(5) is None
        assert time.monotonic() - start < 1
    at.source.close()
    assert at.source.read(memory) is None


PROGRAM = """
import sys
import numpy as np
from stages.frame_sender import FrameSender
with FrameSender(sys.argv[1], "zmq", high_water_mark=100) as sender:
    assert sender.wait(20)
    for n in range(5):
        sender.send(np.full((24, 32), n, np.uint8), spacing_mm=(0.2, 0.2))
assert not {"torch", "pydantic", "av"} & set(sys.modules)
"""


def test_a_sender_notices_that_the_run_has_gone(listening: Callable[..., Listening]) -> None:
    at = listening()
    with sending(at) as sender:
        assert sender.wait(0.0)
        at.source.close()
        deadline = time.monotonic() + 20
        while sender.wait(0.0):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_program_without_torch_can_send(listening: Callable[..., Listening]) -> None:
    at = listening()
    command = [sys.executable, "-c", PROGRAM, at.source.endpoint]
    with subprocess.Popen(command) as program:
        assert at.values(5) == [0, 1, 2, 3, 4]
        assert program.wait(20) == 0


def test_a_trouble_is_told_at_once_and_then_seldom() -> None:
    now = [0.0]
    heard: list[ErrorRaised] = []

    class Log:
        def emit(self, event: ErrorRaised) -> None:
            heard.append(event)

    token = current_logger.set(Log())  # type: ignore[arg-type]
    try:
        troubles = Troubles("cam", lambda: now[0])
        for tenth in range(151):
            now[0] = tenth / 10
            troubles.add("lost", "some")
        troubles.add("late", "one")
    finally:
        current_logger.reset(token)
    assert [event.message for event in heard] == [
        "some (lost: 1)",
        "some (lost: 101)",
        "one (late: 1)",
    ]
    assert troubles.counts == {"lost": 151, "late": 1}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("endpoint", 5),
        ("source_id", "a/b"),
        ("stale_after_s", 0),
        ("stale_after_s", 4000),
        ("x", 1),
    ],
)
def test_what_cannot_be_configured(key: str, value: object) -> None:
    with pytest.raises(ValidationError, match=key):
        ZmqFramesConfig(**{key: value})  # type: ignore[arg-type]
