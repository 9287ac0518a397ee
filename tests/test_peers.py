"""Messages that never end, and what holds them: who sends one is cut off, nobody else is."""

from __future__ import annotations

import socket as sockets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import zmq
from control_rig import rig
from result_packets import wait_until

from stages.local_sockets import bound, endpoint_of
from stages.peers import Peers
from stages.sinks.zmq_publisher import ZmqPublisher, ZmqPublisherConfig
from stages.sources import zmq_frames
from stages.sources.zmq_frames import FrameInbox, ZmqFramesConfig

ANY_PORT = "tcp://127.0.0.1:0"
ROOM = 4 << 20
PART = 1000
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)


@contextmanager
def raw_peer(endpoint: str, kind: bytes, more: bytes = b"") -> Iterator[sockets.socket]:
    """A socket of that kind, past its handshake (ZMTP 3.0, mechanism NULL), where it says ``more``
    of itself."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    ready = b"\x05READY\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind + more
    with sockets.create_connection((host, int(port)), timeout=10) as peer:
        peer.sendall(GREETING + b"\x04" + bytes([len(ready)]) + ready)
        heard = b""
        while b"Socket-Type" not in heard:
            got = peer.recv(4096)
            assert got
            heard += got
        time.sleep(0.05)  # the rest of what it says
        yield peer


def parts(size: int, *, more: bool) -> bytes:
    """About ``size`` bytes of frames that announce more, or of messages of one part."""
    frame = (b"\x03" if more else b"\x02") + PART.to_bytes(8, "big") + bytes([1] * PART)
    return frame * (size // len(frame))


def until_cut(peer: sockets.socket, step: Callable[[], object]) -> int:
    """Send parts without end; how many bytes went out before the connection was ended."""
    chunk, sent = parts(1 << 18, more=True), 0
    try:
        while sent < 50 * ROOM:
            peer.sendall(chunk)
            sent += len(chunk)
            step()
            time.sleep(0.005)
    except OSError:
        return sent
    raise AssertionError("it was not cut off")


def rss() -> int:
    return int(psutil.Process().memory_info().rss)


def test_at_the_results_socket() -> None:
    publisher = ZmqPublisher(ZmqPublisherConfig(endpoint=ANY_PORT), "cam1", ())
    try:
        with zmq.Context() as context, context.socket(zmq.SUB) as healthy:
            healthy.linger = 0
            healthy.subscribe(b"result/")
            healthy.connect(publisher.endpoint)
            wait_until(lambda: publisher.subscribers == 1, publisher.poll)
            before = rss()
            with raw_peer(publisher.endpoint, b"SUB") as peer:
                until_cut(peer, publisher.poll)
            wait_until(lambda: publisher.peers == 1, publisher.poll)
            assert publisher.heard["endless"] == 1
            assert publisher.subscribers == 1
            assert rss() - before < 150 << 20
    finally:
        publisher.close()


def test_at_the_control_channel(tmp_path: Path) -> None:
    with rig(tmp_path, endpoint=ANY_PORT) as live, live.controller() as controller:
        with raw_peer(live.channel.endpoint, b"DEALER") as peer:
            until_cut(peer, lambda: None)
        wait_until(lambda: live.channel.counts["endless"] == 1, lambda: time.sleep(0.02))
        assert controller.send("ping").applied


def test_where_frames_come_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq_frames, "_ROOM_BYTES", ROOM)
    inbox = FrameInbox(ZmqFramesConfig(endpoint=ANY_PORT))
    try:
        with raw_peer(inbox.endpoint, b"PUB") as peer:
            until_cut(peer, lambda: inbox.read(bytearray, 0.001))  # type: ignore[arg-type]
    finally:
        inbox.release()


@pytest.fixture
def router() -> Iterator[tuple[zmq.Socket[bytes], Peers]]:
    with zmq.Context() as context:
        socket = bound(context, zmq.ROUTER, "here", ANY_PORT, {zmq.LINGER: 0})
        peers = Peers(context, socket, ROOM)
        yield socket, peers
        peers.close()
        socket.close()


def test_who_sends_whole_messages_may_send_any_number(
    router: tuple[zmq.Socket[bytes], Peers],
) -> None:
    socket, peers = router

    def look() -> None:
        while socket.poll(0):
            peers.heard(socket.recv_multipart(copy=False)[-1])
        peers.read()

    with raw_peer(endpoint_of(socket), b"DEALER") as peer:
        for _ in range(5 * ROOM >> 18):
            peer.sendall(parts(1 << 18, more=False))
            look()
            time.sleep(0.01)
        assert peers.connected == 1
        assert peers.counts["endless"] == 0
        until_cut(peer, look)  # the same connection, the control
    wait_until(lambda: peers.connected == 0, look)
    assert peers.counts["endless"] == 1


def test_another_connection_under_the_same_descriptor_is_left_alone(
    router: tuple[zmq.Socket[bytes], Peers],
) -> None:
    """What libzmq closed meanwhile may be anybody's: a camera's, say."""
    _, peers = router
    with (
        sockets.create_server(("127.0.0.1", 0)) as server,
        sockets.create_connection(server.getsockname()) as other,
        server.accept()[0] as theirs,
    ):
        peers._connected.add(theirs.fileno())
        for _ in range(3 * ROOM >> 18):
            other.sendall(bytes(1 << 18))
            theirs.recv(1 << 18, sockets.MSG_WAITALL)
            peers._look_at = 0.0
            peers.read()
        assert peers.counts["endless"] == 0
        other.sendall(b"still there")
        assert theirs.recv(100) == b"still there"
