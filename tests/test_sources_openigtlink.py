"""OpenIGTLinkSource: its configuration, and what it does whatever its peer does."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from chaos_proxy import ChaosProxy
from conftest import Outcome
from igtl_messages import image, message, picture, transform_body
from igtl_peers import WAIT_S, until
from igtl_senders import Broadcaster, number, numbered

from kpi.emit import current_logger
from kpi.events import ErrorRaised, Event, SourceStateChanged
from pipeline.config import load_config
from stages.base import ListeningSource, Picture
from stages.errors import ConfigError, SourceError
from stages.grab import Grab
from stages.records import Frame
from stages.sources.openigtlink import OpenIGTLinkConfig, OpenIGTLinkSource

CPU = torch.device("cpu")
MESSAGE_BYTES = len(image(numbered(0)))


class Events:
    """A logger that keeps what it is told."""

    def __init__(self) -> None:
        self.all: list[Event] = []

    def emit(self, event: Event) -> None:
        self.all.append(event)

    @property
    def states(self) -> list[str]:
        return [e.state for e in self.all if isinstance(e, SourceStateChanged)]

    @property
    def errors(self) -> list[str]:
        return [e.message for e in self.all if isinstance(e, ErrorRaised)]


@pytest.fixture
def events() -> Iterator[Events]:
    kept = Events()
    token = current_logger.set(kept)
    yield kept
    current_logger.reset(token)


def configured(**given: Any) -> OpenIGTLinkConfig:
    return OpenIGTLinkConfig.model_validate({"kind": "openigtlink", **given})


@contextmanager
def grabbed(**given: Any) -> Iterator[Grab]:
    """A running Grab over a source."""
    grab = Grab(OpenIGTLinkSource(configured(**given)), CPU, mailbox="every", depth=8)
    grab.start()
    try:
        yield grab
    finally:
        began = time.monotonic()
        grab.stop()
        assert time.monotonic() - began < 1.0


def frames(grab: Grab, count: int) -> list[Frame]:
    found: list[Frame] = []
    deadline = time.monotonic() + WAIT_S
    while len(found) < count and time.monotonic() < deadline:
        frame = grab.get(0.1)
        if frame is not None:
            found.append(frame)
    assert len(found) == count, "too few frames came"
    return found


def number_of(frame: Frame) -> int:
    pixels = frame.rgb[0].numpy()
    index = number(pixels)
    assert np.array_equal(pixels, numbered(index)), "not the picture that was sent"
    return index


def port_of(source: OpenIGTLinkSource) -> int:
    assert isinstance(source, ListeningSource)
    return int(source.endpoint.rsplit(":", 1)[1])


# Configuration


def test_the_shipped_configuration_is_one() -> None:
    source = load_config("openigtlink").source
    assert isinstance(source, OpenIGTLinkConfig)
    assert (source.host, source.port, source.listen) == ("127.0.0.1", 18944, False)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("port", "65536", "source.port: got 65536"),
        ("port", "0", "port: got 0, expected 1 to 65535"),
        ("port", "18944.5", "source.port: got 18944.5"),
        ("host", "'a b'", "source.host: got 'a b'"),
        ("device", "'a name that is too long'", "source.device"),
        ("device", '"caf\\xe9"', "source.device"),
        ("max_pose_skew_ms", ".nan", "source.max_pose_skew_ms"),
        ("max_pose_skew_ms", "0", "source.max_pose_skew_ms: got 0"),
        ("stored_bits", "8", "source.stored_bits: got 8"),
        ("password", "x", "source.password"),
    ],
)
def test_a_wrong_value_is_told(key: str, value: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_config("openigtlink", [f"source.{key}={value}"])


def test_listening_beyond_this_machine_wants_to_be_asked_for() -> None:
    beyond = ["source.listen=true", "source.host=0.0.0.0"]
    with pytest.raises(ConfigError, match=r"got 0\.0\.0\.0, expected 127\.0\.0\.1, localhost"):
        load_config("openigtlink", beyond)
    assert load_config("openigtlink", [*beyond, "source.insecure_bind=true"])
    assert load_config("openigtlink", ["source.host=0.0.0.0"])  # somebody else's door


def test_an_address_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SourceError, match=f"cannot listen on 127.0.0.1 port {port}: Address"):
            OpenIGTLinkSource(configured(listen=True, port=port))


# Pictures


def test_pictures_become_frames_in_order(events: Events) -> None:
    with Broadcaster() as sender, grabbed(port=sender.port) as grab:
        found = frames(grab, 20)
    assert [number_of(frame) for frame in found] == list(range(20))
    assert [frame.frame_id for frame in found] == list(range(20))
    assert {frame.epoch for frame in found} == {0}
    assert found[0].spacing_mm == (1.0, 1.0)
    assert events.states[:2] == ["connecting", "streaming"]
    assert events.errors == []


def test_as_a_server_it_tells_where_and_takes_senders_in_turn(events: Events) -> None:
    source = OpenIGTLinkSource(configured(listen=True, port=0))
    port = port_of(source)
    grab = Grab(source, CPU, mailbox="every", depth=8)
    grab.start()
    for index in range(3):
        with socket.create_connection(("127.0.0.1", port), WAIT_S) as sender:
            sender.sendall(image(numbered(index)))
            frame = frames(grab, 1)[0]
            assert (number_of(frame), frame.epoch, frame.frame_id) == (index, index, index)
    grab.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), WAIT_S)
    assert not isinstance(OpenIGTLinkSource(configured()), ListeningSource)


def test_a_sender_that_comes_late_has_the_whole_time_for_its_first_picture(
    events: Events,
) -> None:
    limits = {"stale_after_s": 0.5, "reconnect_after_s": 1.5, "connect_within_s": 1.5}
    source = OpenIGTLinkSource(configured(listen=True, port=0, **limits))
    grab = Grab(source, CPU, mailbox="every", depth=8)
    grab.start()
    assert grab.get(1.2) is None  # nobody is there yet
    data = image(numbered(7))
    with socket.create_connection(("127.0.0.1", port_of(source)), WAIT_S) as sender:
        sender.sendall(data[:1000])
        time.sleep(0.8)  # the first picture is under way when connect_within_s has passed
        sender.sendall(data[1000:])
        assert number_of(frames(grab, 1)[0]) == 7
    grab.stop()
    assert events.states[:2] == ["connecting", "streaming"]


def test_a_server_that_nobody_calls_has_nothing_to_tell(events: Events) -> None:
    limits = {"stale_after_s": 0.1, "reconnect_after_s": 0.2, "connect_within_s": 0.2}
    with grabbed(listen=True, port=0, **limits) as grab:
        assert grab.get(1.0) is None
        assert events.states == ["connecting"]


def test_a_sender_without_pictures_is_given_up_when_its_time_is_over(events: Events) -> None:
    source = OpenIGTLinkSource(configured(listen=True, port=0, connect_within_s=0.5))
    grab = Grab(source, CPU)
    grab.start()
    with socket.create_connection(("127.0.0.1", port_of(source)), WAIT_S) as sender:
        sender.sendall(message("TRANSFORM", transform_body(np.eye(4)), device="Tool"))
        sender.settimeout(WAIT_S)
        assert sender.recv(1) == b""
    grab.stop()
    assert events.states[:2] == ["connecting", "reconnecting"]


def test_the_transform_asked_for_is_the_pose_of_the_frame() -> None:
    source = OpenIGTLinkSource(configured(listen=True, port=0, pose_device="Tool"))
    grab = Grab(source, CPU)
    grab.start()
    tool = np.eye(4)
    tool[:3, 3] = (1, 2, 3)
    with socket.create_connection(("127.0.0.1", port_of(source)), WAIT_S) as sender:
        sender.sendall(message("TRANSFORM", transform_body(tool), device="Tool"))
        sender.sendall(image(picture(0, (1, 1))))
        pose = frames(grab, 1)[0].pose
    grab.stop()
    assert pose is not None
    assert np.array_equal(pose, tool)


CROWD = 500


def test_a_crowd_at_the_door_disturbs_nobody_and_leaves_nothing() -> None:
    source = OpenIGTLinkSource(configured(listen=True, port=0))
    grab = Grab(source, CPU, mailbox="every", depth=8)
    grab.start()
    port, us, over = port_of(source), psutil.Process(), threading.Event()
    calls = sent = 0

    def crowd() -> None:
        nonlocal calls
        while calls < CROWD and not over.is_set():
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 0.2).close()
                calls += 1

    thread = threading.Thread(target=crowd)
    try:
        with socket.create_connection(("127.0.0.1", port), WAIT_S) as sender:

            def send_one() -> None:
                nonlocal sent
                sender.sendall(image(numbered(sent)))
                assert number_of(frames(grab, 1)[0]) == sent
                sent += 1

            send_one()
            files = us.num_fds()
            thread.start()
            deadline = time.monotonic() + WAIT_S
            while thread.is_alive() or (us.num_fds() > files and time.monotonic() < deadline):
                send_one()  # a sender that fell silent would be given up, and its place be free
            assert us.num_fds() <= files
            assert source.troubles.counts["turned away"] > CROWD // 2
    finally:
        over.set()
        thread.join(WAIT_S)
        grab.stop()
    assert calls == CROWD, "as many came as wanted to"
    assert grab.grabbed == sent > 10


def test_a_flipped_bit_costs_its_picture_and_nothing_else(events: Events) -> None:
    with Broadcaster() as sender, ChaosProxy("127.0.0.1", sender.port) as proxy:
        proxy.faults.flip_bits = {8 * (3 * MESSAGE_BYTES + 1000) + 5}
        with grabbed(port=proxy.port) as grab:
            found = [number_of(frame) for frame in frames(grab, 8)]
        assert proxy.connections == 1
    assert found == [0, 1, 2, 4, 5, 6, 7, 8]
    assert events.errors == ["IMAGE damaged: its check sum is wrong (refused: 1)"]


def test_cuts_at_random_bytes_are_survived(events: Events) -> None:
    rng = random.Random(7)  # noqa: S311 (no secret)
    with (
        Broadcaster() as sender,
        ChaosProxy("127.0.0.1", sender.port) as proxy,
        grabbed(port=proxy.port) as grab,
    ):
        found = frames(grab, 2)
        us = psutil.Process()
        threads, files = us.num_threads(), us.num_fds()
        for cut in range(5):
            proxy.faults.cut_at = rng.randrange(1, 3 * MESSAGE_BYTES)
            while found[-1].epoch == cut:
                found += frames(grab, 1)
            assert found[-1].epoch == cut + 1
        found += frames(grab, 5)
        assert us.num_threads() <= threads
        assert us.num_fds() <= files + 1  # the proxy closes its side in its own time
    assert grab.grabbed == len(found) + sum(grab.dropped.values())
    assert set(grab.dropped) <= {"stopped"}, "what was read and not taken at the end"
    numbers = [number_of(frame) for frame in found]
    assert numbers == sorted(set(numbers))
    assert [frame.frame_id for frame in found] == list(range(len(found)))
    assert events.states.count("reconnecting") == 5


def test_no_processor_time_goes_by_after_the_peer_has_left() -> None:
    sender = Broadcaster()
    with grabbed(port=sender.port) as grab:
        with sender:
            frames(grab, 2)
        until(lambda: grab.get(0.0) is None)
        time.sleep(0.5)
        began, spent = time.monotonic(), time.process_time()
        time.sleep(3.0)
        share = (time.process_time() - spent) / (time.monotonic() - began)
    assert share < 0.05


def test_no_processor_time_goes_by_while_nobody_sends() -> None:
    with grabbed(listen=True, port=0):
        time.sleep(0.3)
        began, spent = time.monotonic(), time.process_time()
        time.sleep(2.0)
        share = (time.process_time() - spent) / (time.monotonic() - began)
    assert share < 0.05


# Stopping


Begin = Callable[[], tuple[dict[str, Any], list[socket.socket]]]
"""Gives the configuration, and sockets to close in the end."""


def stalls(sent: bytes) -> Begin:
    """A server that sends so much and no more."""

    def begin() -> tuple[dict[str, Any], list[socket.socket]]:
        server = socket.create_server(("127.0.0.1", 0))
        kept = [server]

        def serve() -> None:
            peer, _ = server.accept()
            kept.append(peer)
            peer.sendall(sent)

        threading.Thread(target=serve, daemon=True).start()
        return {"port": server.getsockname()[1]}, kept

    return begin


STATES: dict[str, Begin] = {
    "connected, nothing sent": stalls(b""),
    "within a header": stalls(image(picture())[:20]),
    "within pixels": stalls(image(picture())[:-1]),
    "streaming, then silent": stalls(image(picture())),
    "listening": lambda: ({"listen": True, "port": 0}, []),
    "no route": lambda: ({"host": "192.0.2.1"}, []),
    "looking up a name": lambda: ({"host": "no-such-host.invalid"}, []),
    "refused, waiting for the next attempt": lambda: ({"port": 1}, []),
}


@pytest.mark.parametrize("begin", STATES.values(), ids=STATES.keys())
def test_it_stops_from_every_state(begin: Begin) -> None:
    given, kept = begin()
    source = OpenIGTLinkSource(configured(**given))
    ended: list[Picture | None] = []

    def read() -> None:
        while (one := source.read(lambda shape: np.empty(shape, np.uint8))) is not None:
            ended.append(one)
        ended.append(None)

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.7)
    began = time.monotonic()
    source.close()
    thread.join(5.0)
    assert time.monotonic() - began < 1.0
    assert ended[-1] is None
    for one in kept:
        one.close()


# The commands


def test_a_probe_shows_what_comes(call_main: Callable[..., Outcome]) -> None:
    with Broadcaster() as sender:
        target = f"igtl://127.0.0.1:{sender.port}"
        outcome = call_main("sources", "probe", target, "--seconds", "0.5")
    assert outcome.code == 0, outcome.stderr
    assert "OpenIGTLink version 1, IMAGE 'Probe', 8 bit grey, RAS" in outcome.stdout
    assert "64" in outcome.stdout
