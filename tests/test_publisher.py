"""ZmqPublisher over real sockets."""

from __future__ import annotations

import dataclasses
import socket as sockets
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq
from pydantic import ValidationError
from result_packets import random_packet, wait_until

from kpi.edge_events import SubscriberState
from kpi.emit import current_logger
from kpi.events import Event, SourceState
from stages.client import Subscriber
from stages.errors import ConfigError
from stages.packets import HostPacket
from stages.sinks.announced import Announced
from stages.sinks.zmq_publisher import PublishError, ZmqPublisher, ZmqPublisherConfig
from stages.wire import ResultMessage, StateMessage, decode, topic

ANY_PORT = "tcp://127.0.0.1:0"


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as context:
        yield context
        context.destroy(linger=0)


@pytest.fixture
def publisher() -> Iterator[ZmqPublisher]:
    publisher = ZmqPublisher(ZmqPublisherConfig(endpoint=ANY_PORT), "cam1", ("vessel",))
    yield publisher
    publisher.close()


def listen(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str, *prefixes: bytes
) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.RCVTIMEO, 5000)
    for prefix in prefixes:
        socket.subscribe(prefix)
    socket.connect(endpoint)
    return socket


def write(publisher: ZmqPublisher, seq: int, source_id: str = "cam1") -> None:
    rng = np.random.default_rng(seq)
    masks = publisher.wants_masks
    packet, _ = random_packet(rng, 2, (20, 30), frame_id=seq, source_id=source_id, with_masks=masks)
    publisher.write(packet)


def test_results_arrive_and_masks_only_once_someone_listens(
    publisher: ZmqPublisher, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    write(publisher, 0)
    publisher.poll()
    assert not publisher.wants_masks
    socket = listen(context, publisher.endpoint, topic("result", "cam1"))
    wait_until(lambda: publisher.wants_masks, publisher.poll)
    write(publisher, 1)
    got = decode(socket.recv())
    assert isinstance(got, ResultMessage)
    assert (got.seq, got.frame_id) == (1, 1)  # the packet nobody heard was counted too
    assert got.masks().shape == (2, 20, 30)
    assert publisher.sent["result"].messages == 2
    socket.close()
    wait_until(lambda: not publisher.wants_masks, publisher.poll)
    assert publisher.subscribers == 0


def test_bytes_sent_counts_the_messages(
    publisher: ZmqPublisher, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    socket = listen(context, publisher.endpoint, b"result/")
    wait_until(lambda: publisher.subscribers == 1, publisher.poll)
    for seq in range(3):
        write(publisher, seq)
    assert publisher.sent["result"].sent_bytes == sum(len(socket.recv()) for _ in range(3))


@pytest.mark.parametrize(
    ("prefix", "counts"),
    [
        (b"", True),
        (b"res", True),
        (b"result/", True),
        (b"result/cam1", True),
        (b"result/cam1\0", True),
        (b"result/cam10\0", False),
        (b"result/cam\0", False),
        (b"state/cam1\0", False),
    ],
)
def test_which_subscriptions_count(
    publisher: ZmqPublisher,
    context: zmq.Context[zmq.Socket[bytes]],
    prefix: bytes,
    counts: bool,
) -> None:
    socket = listen(context, publisher.endpoint, prefix)
    wait_until(lambda: publisher.heard["heard"] == 1, publisher.poll)
    socket.subscribe(b"kpi/")  # the first one has been taken in where this one has
    wait_until(lambda: publisher.heard["heard"] == 2, publisher.poll)
    assert publisher.subscribers == counts
    socket.close()
    wait_until(lambda: publisher.subscribers == 0, publisher.poll)


def test_several_subscribers_are_counted_and_told(
    publisher: ZmqPublisher, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    events: list[Event] = []

    class Logger:
        def emit(self, event: Event) -> None:
            events.append(event)

    token = current_logger.set(Logger())
    try:
        listeners = [
            listen(context, publisher.endpoint, b"result/cam1\0", b"state/cam1\0") for _ in range(3)
        ]
        wait_until(lambda: publisher.subscribers == 3, publisher.poll)
        for socket in listeners:
            socket.close()
        wait_until(lambda: publisher.subscribers == 0, publisher.poll)
        wait_until(lambda: SubscriberState("state/cam1", 0) in events, publisher.poll)
    finally:
        current_logger.reset(token)
    assert SubscriberState("result/cam1", 3) in events
    assert SubscriberState("result/cam1", 0) in events
    assert SubscriberState("state/cam1", 3) in events


def test_masks_none_never_wants_masks(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    config = ZmqPublisherConfig(endpoint=ANY_PORT, masks="none")
    publisher = ZmqPublisher(config, "cam1", ())
    socket = listen(context, publisher.endpoint, b"result/cam1\0")
    wait_until(lambda: publisher.subscribers == 1, publisher.poll)
    assert not publisher.wants_masks
    # Another sink may have asked for masks: this one still leaves them out.
    publisher.write(random_packet(np.random.default_rng(0), 2, (20, 30))[0])
    got = decode(socket.recv())
    assert isinstance(got, ResultMessage)
    assert got.mask_rows is None
    publisher.close()


def heard_states(publisher: ZmqPublisher, socket: zmq.Socket[bytes], count: int) -> StateMessage:
    """The first state, once `count` of them came."""
    states: list[StateMessage] = []

    def hear() -> None:
        publisher.poll()
        if socket.poll(0):
            state = decode(socket.recv())
            assert isinstance(state, StateMessage)
            states.append(state)

    wait_until(lambda: len(states) >= count, hear)
    return states[0]


def test_a_late_joiner_hears_the_state_at_once(
    publisher: ZmqPublisher,
    context: zmq.Context[zmq.Socket[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stages.sinks.announced.STATE_EVERY_S", 1e9)
    for seq in range(5):
        write(publisher, seq)
    publisher.poll()  # nobody hears this one
    socket = listen(context, publisher.endpoint, topic("state", "cam1"))
    state = heard_states(publisher, socket, 1)
    assert (state.state, state.last_seq, state.class_names) == ("streaming", 4, ("vessel",))
    later = listen(context, publisher.endpoint, b"state/")
    assert heard_states(publisher, later, 1) == dataclasses.replace(
        state, published_unix_ns=decode(socket.recv()).published_unix_ns
    )


def test_the_state_is_repeated(
    publisher: ZmqPublisher,
    context: zmq.Context[zmq.Socket[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stages.sinks.announced.STATE_EVERY_S", 0.05)
    socket = listen(context, publisher.endpoint, topic("state", "cam1"))
    heard_states(publisher, socket, 4)


def test_changes_of_state_are_published(
    publisher: ZmqPublisher, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    socket = listen(context, publisher.endpoint, b"state/")
    seen: list[tuple[str, int, int | None]] = []

    def hear() -> None:
        publisher.poll()
        while socket.poll(0):
            state = decode(socket.recv())
            assert isinstance(state, StateMessage)
            seen.append((state.state, state.epoch, state.last_seq))

    wait_until(lambda: ("connecting", 0, None) in seen, hear)
    write(publisher, 0)
    wait_until(lambda: ("streaming", 0, 0) in seen, hear)
    publisher.announce("connecting", 1)
    wait_until(lambda: ("connecting", 1, 0) in seen, hear)
    publisher.close()
    last = decode(socket.recv())
    assert isinstance(last, StateMessage)
    assert (last.state, last.epoch, last.last_seq) == ("ended", 1, 0)
    publisher.close()  # twice is fine


@pytest.mark.parametrize("state", ["stale", "frozen", "reconnecting"])
def test_a_result_of_before_does_not_hide_what_the_source_says(
    publisher: ZmqPublisher, context: zmq.Context[zmq.Socket[bytes]], state: SourceState
) -> None:
    socket = listen(context, publisher.endpoint, b"state/")
    publisher.announce(state, 0)
    write(publisher, 0)
    seen = heard_states(publisher, socket, 1)
    assert (seen.state, seen.last_seq) == (state, 0)


def test_a_run_that_hangs_while_its_source_streams_is_stale(
    publisher: ZmqPublisher, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    """The frame loop hangs, egress polls on."""
    socket = listen(context, publisher.endpoint, b"state/")

    def heard(state: SourceState) -> bool:
        return heard_states(publisher, socket, 1).state == state

    write(publisher, 0)
    wait_until(lambda: heard("streaming"), publisher.poll)
    wait_until(lambda: heard("stale"), publisher.poll)
    wait_until(lambda: heard("streaming"), lambda: write(publisher, 1))


def test_only_a_stream_whose_results_ended_is_stuck() -> None:
    now_s = 100.0
    announced = Announced(1.0, 1.5, clock=lambda: now_s)
    announced.set("streaming", 0)
    now_s += 60
    assert (announced.stuck, announced.stale) == (False, False), "no result came yet"
    made = random_packet(np.random.default_rng(0), 1, (4, 4))[0].info

    def result(age_s: float, epoch: int = 0) -> bool:
        captured_ns = int((now_s - age_s) * 1e9)
        return announced.result(dataclasses.replace(made, captured_ns=captured_ns, epoch=epoch))

    assert not result(0.9)
    now_s += 1.4
    assert (announced.stuck, announced.stale) == (False, False)
    now_s += 0.2
    assert (announced.stuck, announced.stale) == (True, True)
    announced.set("reconnecting", 0)
    assert (announced.stuck, announced.stale) == (False, True)
    announced.set("streaming", 1)
    assert (announced.stuck, announced.stale) == (False, True), "it has just begun again"
    assert not result(0.1, epoch=1)
    assert not announced.stale
    assert result(0.1, epoch=0)
    assert announced.stale
    assert result(1.1, epoch=1)
    assert not result(0.1, epoch=1)
    announced.set("streaming", 2)
    assert (announced.stuck, announced.stale) == (False, True), "its epoch is over"


def stale_of(packet: HostPacket, publisher: ZmqPublisher, socket: zmq.Socket[bytes]) -> bool:
    publisher.write(packet)
    got = decode(socket.recv())
    assert isinstance(got, ResultMessage)
    return got.stale


def test_what_is_old_or_of_an_epoch_that_is_over_says_so(
    publisher: ZmqPublisher, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    socket = listen(context, publisher.endpoint, topic("result", "cam1"))
    wait_until(lambda: publisher.subscribers == 1, publisher.poll)

    def packet(age_s: float = 0.0, epoch: int = 0) -> HostPacket:
        made, _ = random_packet(np.random.default_rng(0), 1, (20, 30))
        captured = time.monotonic_ns() - int(age_s * 1e9)
        info = dataclasses.replace(made.info, captured_ns=captured, epoch=epoch)
        return dataclasses.replace(made, info=info)

    assert not stale_of(packet(), publisher, socket)
    assert stale_of(packet(age_s=1.1), publisher, socket)
    assert not stale_of(packet(), publisher, socket)
    publisher.announce("streaming", 1)
    assert stale_of(packet(), publisher, socket), "the source is in epoch 1 by now"
    assert not stale_of(packet(epoch=1), publisher, socket)
    assert not stale_of(packet(epoch=2), publisher, socket)
    assert stale_of(packet(epoch=1), publisher, socket)


def test_a_failure_is_the_last_word(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    publisher = ZmqPublisher(ZmqPublisherConfig(endpoint=ANY_PORT), "cam1", ())
    socket = listen(context, publisher.endpoint, b"state/")
    wait_until(lambda: bool(socket.poll(0)), publisher.poll)
    publisher.announce("failed", 0)
    publisher.announce("streaming", 0)
    publisher.close()
    states = []
    while socket.poll(500):
        states.append(decode(socket.recv()))
    assert isinstance(states[-1], StateMessage)
    assert states[-1].state == "failed"


def test_every_publisher_is_a_run_of_its_own() -> None:
    def run() -> int:
        publisher = ZmqPublisher(ZmqPublisherConfig(endpoint=ANY_PORT), "cam1", ())
        with Subscriber(publisher.endpoint, "cam1") as listener:
            wait_until(lambda: publisher.subscribers == 1, publisher.poll)
            write(publisher, 0)
            got = listener.receive(5.0)
            assert got is not None
            publisher.poll()
            wait_until(lambda: "cam1" in listener.states, lambda: listener.next_message(0.1))
            assert listener.states["cam1"].run == got.run
        publisher.close()
        return got.run

    assert len({run() for _ in range(3)}) == 3


def test_cam1_does_not_hear_cam10(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    ten = ZmqPublisher(ZmqPublisherConfig(endpoint=ANY_PORT), "cam10", ())
    everything = listen(context, ten.endpoint, b"")
    only_one = listen(context, ten.endpoint, topic("result", "cam1"))
    careless = listen(context, ten.endpoint, b"result/cam1")
    wait_until(lambda: ten.subscribers == 2, ten.poll)
    write(ten, 0, "cam10")
    assert everything.recv()
    assert careless.recv()  # the control: without the zero byte it does match
    assert not only_one.poll(200)
    ten.close()


def test_conflate_keeps_the_newest_of_one_topic(
    publisher: ZmqPublisher, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    latest = context.socket(zmq.SUB)
    latest.setsockopt(zmq.CONFLATE, 1)
    latest.subscribe(topic("result", "cam1"))
    latest.connect(publisher.endpoint)
    probe = listen(context, publisher.endpoint, topic("result", "cam1"))
    wait_until(lambda: publisher.subscribers == 2, publisher.poll)
    for seq in range(20):
        write(publisher, seq)
        probe.recv()  # paces the writer, so that no queue overflows
    time.sleep(0.2)
    got = decode(latest.recv())
    assert isinstance(got, ResultMessage)
    assert got.seq == 19
    assert not latest.poll(100)
    latest.close()


def test_junk_from_a_peer_changes_nothing(publisher: ZmqPublisher) -> None:
    with zmq.Context() as context:
        peer = context.socket(zmq.XSUB)
        peer.connect(publisher.endpoint)
        peer.send(b"\x01result/cam1\0")
        wait_until(lambda: publisher.subscribers == 1, publisher.poll)
        for junk in (b"", b"\x02", b"junk", b"\x00nothing/like/it", b"\x01" + b"x" * 500):
            peer.send(junk)
        peer.send(b"\x01state/cam1\0")
        wait_until(lambda: publisher.wants("state"), publisher.poll)
        assert publisher.subscribers == 1
        peer.send(b"\x01" + b"x" * 5000)  # over MAXMSGSIZE: libzmq drops the connection
        wait_until(lambda: publisher.subscribers == 0, publisher.poll)
        peer.close(linger=0)
    host, port = publisher.endpoint.removeprefix("tcp://").split(":")
    with sockets.create_connection((host, int(port))) as raw:
        raw.sendall(bytes(range(256)) * 8)
        publisher.poll()
    write(publisher, 0)


@pytest.mark.parametrize(
    "endpoint",
    [
        *("tcp://0.0.0.0:5556", "tcp://*:5556", "tcp://192.168.1.2:5556", "tcp://[::]:5556"),
        *("tcp://localhost:5556", "tcp://lo:5556", "tcp://127.0.0.1", "tcp://127.0.0.1:x"),
        *("inproc://x", "udp://127.0.0.1:5556", "ipc://", "5556", ""),
        *("tcp://127.0.0.1:1;tcp://0.0.0.0:5556", "tcp://10.0.0.1;127.0.0.1:5556"),
    ],
)
def test_beyond_this_host_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="expected an address of this host alone") as caught:
        ZmqPublisher(ZmqPublisherConfig(endpoint=endpoint), "cam1", ())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("endpoint", [ANY_PORT, "tcp://127.0.0.1:*"])
def test_a_free_port_is_named_and_then_taken(endpoint: str) -> None:
    publisher = ZmqPublisher(ZmqPublisherConfig(endpoint=endpoint), "cam1", ())
    assert int(publisher.endpoint.rpartition(":")[2]) > 0
    with pytest.raises(PublishError) as caught:
        ZmqPublisher(ZmqPublisherConfig(endpoint=publisher.endpoint), "cam1", ())
    assert str(caught.value) == (
        f"results: cannot bind {publisher.endpoint}: address already in use "
        "(expected a free port; port 0 takes any)"
    )
    assert caught.value.exit_code == 1
    publisher.close()


def test_ipc(tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    path = tmp_path / "results"
    config = ZmqPublisherConfig(endpoint=f"ipc://{path}")
    publisher = ZmqPublisher(config, "cam1", ())
    socket = listen(context, publisher.endpoint, b"result/")
    wait_until(lambda: publisher.subscribers == 1, publisher.poll)
    write(publisher, 0)
    assert decode(socket.recv())
    with pytest.raises(PublishError, match="already in use"):
        ZmqPublisher(config, "cam1", ())
    publisher.close()

    path.unlink(missing_ok=True)
    path.write_text("a file of the user's")
    with pytest.raises(ConfigError, match="is a file"):
        ZmqPublisher(config, "cam1", ())
    assert path.read_text() == "a file of the user's"
    with pytest.raises(PublishError, match="cannot bind"):
        ZmqPublisher(ZmqPublisherConfig(endpoint=f"ipc://{tmp_path}/no/such/folder"), "cam1", ())


def test_a_socket_left_by_a_killed_run_does_not_hinder_the_next(tmp_path: Path) -> None:
    path = tmp_path / "results"
    with sockets.socket(sockets.AF_UNIX) as dead:
        dead.bind(str(path))
    ZmqPublisher(ZmqPublisherConfig(endpoint=f"ipc://{path}"), "cam1", ()).close()


@pytest.mark.parametrize(
    ("source_id", "names"), [("cam\n1", ()), ("x" * 200, ()), ("c", ("\ud800",)), ("ü", ())]
)
def test_names_that_no_reader_would_take_are_refused(
    source_id: str, names: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError, match="source id or class names"):
        ZmqPublisher(ZmqPublisherConfig(endpoint=ANY_PORT), source_id, names)


def test_the_configuration_is_bounded() -> None:
    for wrong in ({"hwm": 0}, {"hwm": 1001}, {"masks": "png"}, {"linger_ms": -1}, {"port": 1}):
        with pytest.raises(ValidationError):
            ZmqPublisherConfig.model_validate(wrong)
