"""The proxy that the tests of live sources rely on breaks what it says, and nothing else."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from chaos_proxy import ChaosProxy

PAYLOAD = bytes(range(256)) * 40


class Sender:
    """Accepts clients and sends each the payload, then ends the stream."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                client.sendall(PAYLOAD)
                client.shutdown(socket.SHUT_WR)
            except OSError:
                client.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def proxy() -> Iterator[ChaosProxy]:
    sender = Sender()
    with ChaosProxy("127.0.0.1", sender.port) as proxy:
        yield proxy
    sender.close()


def reads(proxy: ChaosProxy, timeout_s: float = 20.0) -> list[bytes]:
    """What each read got, to the end of the stream."""
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=timeout_s) as client:
        got = []
        while data := client.recv(1 << 16):
            got.append(data)
        return got


def test_it_passes_everything_as_it_is(proxy: ChaosProxy) -> None:
    assert b"".join(reads(proxy)) == PAYLOAD
    assert proxy.passed == len(PAYLOAD)
    assert proxy.connections == 1


@pytest.mark.parametrize("at", [1, 100, 5000])
def test_a_cut_comes_after_exactly_so_many_bytes_and_once(proxy: ChaosProxy, at: int) -> None:
    proxy.faults.cut_at = at
    with pytest.raises(ConnectionResetError):
        reads(proxy)
    assert proxy.passed == at
    assert b"".join(reads(proxy)) == PAYLOAD


def test_a_flip_is_one_bit(proxy: ChaosProxy) -> None:
    proxy.faults.flip_bits = {8 * 300 + 2}
    got = b"".join(reads(proxy))
    assert got[300] == PAYLOAD[300] ^ 4
    assert got[:300] + got[301:] == PAYLOAD[:300] + PAYLOAD[301:]


def test_a_split_begins_a_read(proxy: ChaosProxy) -> None:
    proxy.faults.split_at, proxy.faults.pause_s = {777}, 0.2
    got = reads(proxy)
    edges = [sum(map(len, got[:n])) for n in range(1, len(got))]
    assert 777 in edges
    assert b"".join(got) == PAYLOAD


def test_a_drip_comes_in_many_reads(proxy: ChaosProxy) -> None:
    proxy.faults.split_every, proxy.faults.pause_s = 512, 0.01
    got = reads(proxy)
    assert len(got) > 5
    assert b"".join(got) == PAYLOAD


def test_a_stall_keeps_the_connection_and_gives_nothing(proxy: ChaosProxy) -> None:
    proxy.stall()
    threading.Timer(0.5, proxy.resume).start()
    begin = time.monotonic()
    assert b"".join(reads(proxy)) == PAYLOAD
    assert time.monotonic() - begin >= 0.4


def test_refused_until_accepted(proxy: ChaosProxy) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        reads(proxy)
    proxy.accept()
    assert b"".join(reads(proxy)) == PAYLOAD


def test_a_server_that_is_not_there_is_a_reset(proxy: ChaosProxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = taken.getsockname()[1]
    with ChaosProxy("127.0.0.1", nobody) as dead, pytest.raises(ConnectionResetError):
        reads(dead)
