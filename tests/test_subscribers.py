"""Subscribers of every bad kind: what they do costs themselves, and the others nothing."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import random
import signal
import socket as sockets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import zmq
from result_packets import random_packet, wait_until
from test_client import big_packet, connected
from test_wire import mutate_bytes

from kpi.edge_events import PacketsSent, PeersConnected, SubscriberMessages
from kpi.emit import current_logger
from kpi.events import Event, SourceStateChanged
from pipeline.kpi_topic import KpiTopic
from pipeline.meter import Meter
from stages.client import Subscriber
from stages.packets import HostPacket
from stages.sinks.zmq_publisher import ZmqPublisher, ZmqPublisherConfig
from stages.wire import KpiMessage, ResultMessage, encode_kpi

ROOT = Path(__file__).parents[1]
SMALL, _ = random_packet(np.random.default_rng(0), 2, (20, 30))


@pytest.fixture
def publisher() -> Iterator[ZmqPublisher]:
    publisher = ZmqPublisher(ZmqPublisherConfig(endpoint="tcp://127.0.0.1:0"), "cam1", ("vessel",))
    yield publisher
    publisher.close()


def address(publisher: ZmqPublisher) -> tuple[str, int]:
    host, port = publisher.endpoint.removeprefix("tcp://").split(":")
    return host, int(port)


@contextmanager
def subscribing(publisher: ZmqPublisher) -> Iterator[subprocess.Popen[str]]:
    """A process that subscribes and says each `seq`."""
    program = (
        "import sys\nfrom stages.client import Subscriber\n"
        "for message in Subscriber(sys.argv[1], 'cam1'): print(message.seq, flush=True)\n"
    )
    before = publisher.subscribers
    process = subprocess.Popen(
        [sys.executable, "-c", program, publisher.endpoint],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_until(lambda: publisher.subscribers > before, publisher.poll)
        yield process
    finally:
        process.kill()
        process.communicate()


def rss() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def exchange(publisher: ZmqPublisher, healthy: Subscriber, packet: HostPacket) -> None:
    publisher.write(packet)
    publisher.poll()
    assert healthy.receive(10.0) is not None


def test_one_that_stopped_and_one_that_sleeps_cost_nobody_anything(
    publisher: ZmqPublisher,
) -> None:
    packet, begun = big_packet(), rss()
    with (
        Subscriber(publisher.endpoint, "cam1") as healthy,
        subscribing(publisher) as stopped,
        Subscriber(publisher.endpoint, "cam1") as sleeping,
    ):
        wait_until(lambda: publisher.subscribers == 3, publisher.poll)
        stopped.send_signal(signal.SIGSTOP)
        for _ in range(80):
            exchange(publisher, healthy, packet)
        assert (healthy.received, healthy.lost) == (80, 0)
        size = publisher.sent["result"].sent_bytes / 80
        # of both ends of the sleeping one, which lives in this process, too
        assert rss() - begun < 4 * size * (3 + 2) + (50 << 20)
        while sleeping.receive(0.3) is not None:
            pass
        exchange(publisher, healthy, packet)
        assert sleeping.receive(10.0) is not None
        assert sleeping.lost > 0
        assert sleeping.received + sleeping.lost == 81


def test_latest_only_that_never_receives(publisher: ZmqPublisher) -> None:
    with (
        Subscriber(publisher.endpoint, "cam1", latest_only=True) as latest,
        Subscriber(publisher.endpoint, "cam1") as healthy,
    ):
        wait_until(lambda: publisher.subscribers == 2, publisher.poll)
        packet = big_packet()
        exchange(publisher, healthy, packet)
        begun = rss()
        for _ in range(150):
            exchange(publisher, healthy, packet)
        assert healthy.lost == 0
        size = publisher.sent["result"].sent_bytes / 151
        assert rss() - begun < 10 * size + (50 << 20), "150 of them would be three times as much"
        newest: list[int] = []

        def look() -> None:
            exchange(publisher, healthy, SMALL)
            got = latest.receive(0.1)
            newest.append(-1 if got is None else got.seq)

        wait_until(lambda: bool(newest) and newest[-1] > 150, look)


def test_a_hundred_connects_and_disconnects(publisher: ZmqPublisher) -> None:
    with Subscriber(publisher.endpoint, "cam1") as healthy:
        connected(publisher)
        wait_until(lambda: publisher.peers == 1, publisher.poll)
        files = psutil.Process().num_fds()
        for _ in range(100):
            with zmq.Context() as context, context.socket(zmq.SUB) as brief:
                brief.setsockopt(zmq.LINGER, 0)
                brief.subscribe(b"")
                brief.connect(publisher.endpoint)
                exchange(publisher, healthy, SMALL)
        wait_until(lambda: (publisher.peers, publisher.subscribers) == (1, 1), publisher.poll)
        assert publisher.wants_masks
        assert not publisher.wants("kpi"), "those of the empty prefix are gone"
        assert (healthy.received, healthy.lost) == (100, 0)
        wait_until(lambda: psutil.Process().num_fds() <= files + 2, publisher.poll)


def words(*messages: bytes) -> bytes:
    """``messages`` as ZMTP frames."""
    return b"".join(b"\x00" + bytes([len(one)]) + one for one in messages)


READY = b"\x05READY\x0bSocket-Type\x00\x00\x00\x03SUB"
HELLO = (
    b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
    + b"\x04" + bytes([len(READY)]) + READY
)  # fmt: skip
"""What a SUB socket says first (ZMTP 3.0, mechanism NULL)."""


def dialled(publisher: ZmqPublisher) -> sockets.socket:
    if publisher.endpoint.startswith("tcp"):
        return sockets.create_connection(address(publisher), timeout=10)
    peer = sockets.socket(sockets.AF_UNIX)
    peer.settimeout(10)
    peer.connect(publisher.endpoint.removeprefix("ipc://"))
    return peer


@contextmanager
def raw_peer(publisher: ZmqPublisher) -> Iterator[sockets.socket]:
    """A SUB socket of our own, past its handshake."""
    with dialled(publisher) as peer:
        peer.sendall(HELLO)
        heard = b""
        while b"XPUB" not in heard:
            more = peer.recv(4096)
            assert more
            heard += more
        yield peer


def settled(publisher: ZmqPublisher, peer: sockets.socket) -> None:
    """Until all that ``peer`` has said was heard."""
    before = publisher.heard["refused"]
    peer.sendall(words(b"that is all"))
    wait_until(lambda: publisher.heard["refused"] > before, publisher.poll)


def long_word(dice: random.Random, size: int) -> bytes:
    """A random subscription as a ZMTP frame."""
    return b"\x02" + (size + 1).to_bytes(8, "big") + b"\x01" + dice.randbytes(size)


@pytest.mark.parametrize("size", [8, 1000])
@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_who_subscribes_without_end_is_cut_off(tmp_path: Path, transport: str, size: int) -> None:
    """libzmq keeps every prefix, also one of nothing that is sent: here 190 MB, were it to stay."""
    tmp_path.chmod(0o700)
    endpoint = "tcp://127.0.0.1:0" if transport == "tcp" else f"ipc://{tmp_path}/results"
    dice = random.Random(1)  # noqa: S311 (to be repeated)
    publisher = ZmqPublisher(ZmqPublisherConfig(endpoint=endpoint), "cam1", ())
    try:
        with Subscriber(publisher.endpoint, "cam1") as healthy, zmq.Context() as context:
            wait_until(lambda: publisher.subscribers == 1, publisher.poll)
            with context.socket(zmq.SUB) as modest:
                modest.linger = 0
                for _ in range(900 if size == 8 else 60):
                    modest.subscribe(dice.randbytes(size))
                modest.subscribe(b"result/")
                modest.connect(publisher.endpoint)
                wait_until(lambda: publisher.subscribers == 2, publisher.poll)
                before = rss()
                with raw_peer(publisher) as greedy, suppress(OSError):
                    for _ in range(80):
                        greedy.sendall(b"".join(long_word(dice, size) for _ in range(50)))
                        publisher.poll()
                    wait_until(lambda: publisher.peers == 2, publisher.poll)
                assert publisher.heard["greedy"] == 1
                assert rss() - before < 100 << 20
                assert publisher.subscribers == 2
            exchange(publisher, healthy, SMALL)
    finally:
        publisher.close()


def test_who_counts_twice_counts_once_and_is_forgotten_when_gone(publisher: ZmqPublisher) -> None:
    with raw_peer(publisher) as peer:
        peer.sendall(words(*[b"\x01result/"] * 3, b"\x01"))
        settled(publisher, peer)
        assert publisher.subscribers == 1
        peer.sendall(words(b"\x00result/"))
        settled(publisher, peer)
        assert publisher.subscribers == 1, "of everything, it is still subscribed"
        peer.sendall(words(b"\x01result/cam1\0"))
    wait_until(lambda: publisher.peers == publisher.subscribers == 0, publisher.poll)
    assert not publisher.wants_masks


LIES = (
    [b"\x00result/cam1\0"] * 3,  # what it never subscribed to
    [b"\x01result/cam1\0", b"\x00result/cam1\0", b"\x00result/cam1\0"],  # twice
    [b"\x01result/cam1\0"] * 2 + [b"\x00result/cam1\0"] * 3,
    [b"\x00", b"\x00result/", b"\x01", b"\x00", b"\x00"],
)


@pytest.mark.parametrize("lies", LIES)
def test_nobody_takes_back_what_another_holds(publisher: ZmqPublisher, lies: list[bytes]) -> None:
    with zmq.Context() as context, context.socket(zmq.SUB) as honest:
        honest.linger = 0
        honest.subscribe(b"result/cam1\0")
        honest.connect(publisher.endpoint)
        wait_until(lambda: publisher.subscribers == 1, publisher.poll)
        with raw_peer(publisher) as liar:
            liar.sendall(words(*lies))
            settled(publisher, liar)
            assert publisher.subscribers == 1
            assert publisher.wants_masks
        wait_until(lambda: publisher.peers == 1, publisher.poll)
        assert publisher.subscribers == 1
        honest.unsubscribe(b"result/cam1\0")  # the control: its own it may
        wait_until(lambda: publisher.subscribers == 0, publisher.poll)
        assert publisher.peers == 1


def test_liars_that_come_and_go_between_two_looks_take_nothing_from_others(
    publisher: ZmqPublisher,
) -> None:
    """Each descriptor is used many times before the publisher looks; those who come last, and
    stay, must all be counted, whatever who had their descriptors said."""
    hold, drop = words(b"\x01result/cam1\0"), words(*[b"\x00result/cam1\0"] * 2)
    for turn in range(10):
        for number in range(6):
            with raw_peer(publisher) as liar:
                liar.sendall(hold * (number % 2) + drop * (number % 3))
        with zmq.Context() as context, context.socket(zmq.SUB) as honest:
            honest.linger = 0
            honest.subscribe(b"result/cam1\0")
            honest.connect(publisher.endpoint)
            if turn % 2:
                time.sleep(0.05)  # it, too, was there before the next look
            wait_until(lambda: publisher.peers == publisher.subscribers == 1, publisher.poll)
        wait_until(lambda: publisher.peers == publisher.subscribers == 0, publisher.poll)


def test_one_that_subscribes_again_and_again_makes_nobody_lose_results(
    publisher: ZmqPublisher,
) -> None:
    """A state goes to all, through the queue that the results take."""
    with raw_peer(publisher) as peer:
        began, before = time.monotonic(), publisher.sent["state"].messages
        for _ in range(40):
            peer.sendall(words(b"\x00state/cam1\0", b"\x01state/cam1\0"))
            settled(publisher, peer)
        took_s = time.monotonic() - began
        assert publisher.sent["state"].messages - before <= 2 + took_s / 0.25


def test_as_many_prefixes_as_one_peer_may_ask_for(publisher: ZmqPublisher) -> None:
    with Subscriber(publisher.endpoint, "cam1") as healthy, zmq.Context() as context:
        connected(publisher)
        greedy = context.socket(zmq.SUB)
        greedy.setsockopt(zmq.LINGER, 0)
        for number in range(900):  # beyond its HWM a SUB socket does not send them
            greedy.subscribe(b"nothing/%d" % number)
        greedy.subscribe(b"result/")
        greedy.connect(publisher.endpoint)
        wait_until(lambda: publisher.subscribers == 2, publisher.poll)
        exchange(publisher, healthy, SMALL)
        greedy.close()
        wait_until(lambda: publisher.subscribers == 1, publisher.poll)
        exchange(publisher, healthy, SMALL)


def test_a_connection_that_never_says_who_it_is_is_counted_and_then_ended(
    publisher: ZmqPublisher,
) -> None:
    with sockets.create_connection(address(publisher)) as silent:
        wait_until(lambda: publisher.peers == 1, publisher.poll)
        assert publisher.subscribers == 0
        silent.settimeout(30)
        while silent.recv(4096):  # its own greeting, then, after HANDSHAKE_IVL, the end
            publisher.poll()
    wait_until(lambda: publisher.peers == 0, publisher.poll)


WANTED = [b"\x01result/cam1\0", b"\x01", b"\x01frame/", b"\x00state/", b"\x09SUBSCRIBEstate/"]


def test_ten_thousand_mutants_are_each_counted(publisher: ZmqPublisher) -> None:
    """Messages that are almost subscriptions, ten connections of a thousand each."""
    rng = random.Random(20_261_122)  # noqa: S311 (a seed is wanted)
    with Subscriber(publisher.endpoint, "cam1") as healthy:
        connected(publisher)
        wait_until(lambda: publisher.heard["heard"] == 2, publisher.poll)
        for total in range(1002, 10_003, 1000):
            spoilt = [mutate_bytes(rng, rng.choice(WANTED))[:255] for _ in range(1000)]
            with raw_peer(publisher) as peer:
                peer.sendall(words(*spoilt))
                wait_until(partial(heard_in_all, publisher, total), publisher.poll)
            if total == 2002:
                begun = rss()
            exchange(publisher, healthy, SMALL)
        wait_until(lambda: publisher.peers == 1, publisher.poll)
        assert heard_in_all(publisher, 10_002)
        assert min(publisher.heard["heard"], publisher.heard["refused"]) > 1000
        assert (healthy.received, healthy.lost) == (10, 0)
        assert publisher.subscribers == 1
        assert rss() - begun < 20 << 20


def heard_in_all(publisher: ZmqPublisher, messages: int) -> bool:
    return publisher.heard["heard"] + publisher.heard["refused"] == messages


def test_ten_thousand_mutants_on_the_port(publisher: ZmqPublisher) -> None:
    """As 500 connections of 20 each; of the handshake as many again. libzmq ends a connection whose
    bytes make no sense without a word of what they were: so what can be counted are connections."""
    rng = random.Random(20_261_121)  # noqa: S311 (a seed is wanted)
    with Subscriber(publisher.endpoint, "cam1") as healthy:
        connected(publisher)
        for turn in range(500):
            with raw_peer(publisher) as peer:
                spoilt = [mutate_bytes(rng, words(rng.choice(WANTED))) for _ in range(20)]
                peer.sendall(b"".join(spoilt))
            with sockets.create_connection(address(publisher), timeout=10) as peer:
                peer.sendall(mutate_bytes(rng, HELLO))
            exchange(publisher, healthy, SMALL)
            if turn == 50:
                begun = rss()
        wait_until(lambda: publisher.peers == 1, publisher.poll)
        assert publisher.heard["connected"] == 1001
        assert 501 <= publisher.heard["let_in"] <= 1001
        assert (healthy.received, healthy.lost) == (500, 0)
        assert publisher.subscribers == 1
        assert rss() - begun < 20 << 20


def test_a_publisher_that_was_killed_and_its_successor_are_told_apart(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "sys.path.insert(0, 'tests')\n"
        "from test_subscribers import SMALL, ZmqPublisher, ZmqPublisherConfig\n"
        "publisher = ZmqPublisher(ZmqPublisherConfig(endpoint=sys.argv[1]), 'cam1', ())\n"
        "while True: publisher.write(SMALL); publisher.poll(); time.sleep(0.02)\n"
    )
    endpoint = f"ipc://{tmp_path}/results"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", program, endpoint]
        return subprocess.Popen(command, cwd=ROOT, env=environment)

    first = start()
    with Subscriber(endpoint, "cam1", reconnect_ms=(20, 50)) as listener:
        try:
            wait_until(
                lambda: listener.received > 3 and "cam1" in listener.states,
                lambda: listener.receive(0.1),
            )
            run = listener.states["cam1"].run
        finally:
            first.kill()
            first.wait()
        while listener.receive(0.3) is not None:
            pass
        second = start()
        try:
            wait_until(lambda: listener.restarts == 1, lambda: listener.next_message(0.1))
            wait_until(
                lambda: listener.states["cam1"].run != run, lambda: listener.next_message(0.1)
            )
            got = listener.receive(10.0)
            assert got is not None
            assert got.run == listener.states["cam1"].run != run
            assert listener.restarts == 1
        finally:
            second.kill()
            second.wait()


# --- the other topics ------------------------------------------------------------------------


def test_what_others_offer_is_sent_by_the_next_poll(publisher: ZmqPublisher) -> None:
    with Subscriber(publisher.endpoint, "cam1", topics=("kpi",)) as listener:
        wait_until(lambda: publisher.wants("kpi"), publisher.poll)
        assert not publisher.wants("result")
        assert not publisher.wants_masks
        for number in range(1000):
            publisher.offer("kpi", encode_kpi("cam1", f"e{number}", b"{}"))
        publisher.offer("frame", b"frame/cam1\0nobody listens")
        publisher.poll()
        first = listener.next_message(5.0)
        assert isinstance(first, KpiMessage)
        assert first.event == "e744", "only so many wait; the oldest are let go"
        assert publisher.sent["kpi"].messages == 256
        assert publisher.sent["frame"].messages == 1


class Heard:
    """A logger that keeps what is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)


def test_events_go_out_where_somebody_listens(publisher: ZmqPublisher) -> None:
    topic, told = KpiTopic(publisher, "cam1"), SourceStateChanged("cam1", 0, "stale", "why")
    topic.write(1.0, told)
    publisher.poll()
    assert publisher.sent["kpi"].messages == 0
    with Subscriber(publisher.endpoint, "cam1", topics=("kpi",)) as listener:
        wait_until(lambda: publisher.wants("kpi"), publisher.poll)
        topic.write(2.5, told)
        publisher.poll()
        got = listener.next_message(5.0)
        assert isinstance(got, KpiMessage)
        assert json.loads(got.line) == {"ts": 2.5, **told.as_dict()}
        assert got.event == "source_state"


def test_what_was_sent_and_who_is_connected_is_told(publisher: ZmqPublisher) -> None:
    heard = Heard()
    token = current_logger.set(heard)
    try:
        meter = Meter(tuple, publisher)
        with Subscriber(publisher.endpoint, "cam1") as listener:
            connected(publisher)
            wait_until(lambda: publisher.peers == 1, publisher.poll)
            exchange(publisher, listener, SMALL)
            meter.close()
            size = publisher.sent["result"].sent_bytes
            assert PacketsSent(1, size, "result") in heard.events
            assert PeersConnected("results", 1) in heard.events
            states = publisher.sent["state"]
            assert PacketsSent(states.messages, states.sent_bytes, "state") in heard.events
            assert SubscriberMessages({"connected": 1, "let_in": 1, "heard": 2}) in heard.events
        heard.events.clear()
        wait_until(lambda: publisher.peers == 0, publisher.poll)
        meter.close()
        assert PeersConnected("results", 0) in heard.events
    finally:
        current_logger.reset(token)


def test_logits_only_where_they_are_asked_for() -> None:
    config = ZmqPublisherConfig(endpoint="tcp://127.0.0.1:0", masks="logits")
    publisher = ZmqPublisher(config, "cam1", (), mask_threshold=0.5)
    try:
        with Subscriber(publisher.endpoint, "cam1") as listener:
            assert not publisher.wants_logits
            connected(publisher)
            assert publisher.wants_logits
            assert not publisher.wants_masks
            publisher.write(SMALL)  # on its way before: it has none
            early = listener.receive(5.0)
            assert early is not None
            assert not early.has_masks
            logits = np.ones((2, 4, 4), np.float32)
            publisher.write(dataclasses.replace(SMALL, logits=logits))
            got = listener.receive(5.0)
            assert isinstance(got, ResultMessage)
            assert np.array_equal(got.logits(), logits)
            assert got.masks().all()
            assert got.logits_array is not None
            assert got.logits_array.threshold == 0.5
    finally:
        publisher.close()
