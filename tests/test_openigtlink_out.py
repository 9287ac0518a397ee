"""Results over OpenIGTLink: who receives what, and who cannot disturb whom."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from igtl_messages import image
from igtl_out import NS, SIZE_HW, Served
from igtl_receivers import Receiver
from pydantic import ValidationError

from kpi.edge_events import SubscriberState
from kpi.emit import current_logger
from kpi.events import Event
from stages.packets import HostPacket
from stages.sinks.label_image import label_image
from stages.sinks.openigtlink_server import (
    OpenIGTLinkOutError,
    OpenIGTLinkServer,
    OpenIGTLinkServerConfig,
)

LARGE = (600, 800)


def labels_of(packet: HostPacket) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return (packet.object_ids % 255 + 1).astype(np.uint8)


def index_of(unix_ns: int) -> int:
    """Which packet was stamped so."""
    return round((unix_ns - NS) / 1_000_000)


# What is sent


def test_who_comes_is_told_the_state_and_gets_the_next_result() -> None:
    with Served() as served, Receiver(served.endpoint) as receiver:
        assert receiver.until("STATUS").code == 13  # not ready
        served.until(lambda: served.server.wants_masks)
        packet = served.write()
        found = receiver.until("IMAGE")
        assert found.device == "Masks"
        assert found.unix_ns == packet.info.captured_unix_ns
        assert np.array_equal(found.pixels, label_image(packet, labels_of(packet)))
        assert receiver.next().device == "Centroids"
        assert receiver.next().device == "Boxes"
        assert receiver.until("STATUS").code == 1


def test_masks_are_wanted_only_while_someone_is_connected() -> None:
    with Served() as served:
        assert not served.server.wants_masks
        served.write()
        with Receiver(served.endpoint) as receiver:
            served.until(lambda: served.server.wants_masks)
            served.write()
            assert index_of(receiver.until("IMAGE").unix_ns) == 1  # the one before came too early
        served.until(lambda: not served.server.wants_masks)
        served.write()
        with Receiver(served.endpoint) as receiver:
            served.until(lambda: served.server.wants_masks)
            served.write()
            assert index_of(receiver.until("IMAGE").unix_ns) == 3


def test_a_packet_without_masks_makes_no_empty_picture() -> None:
    """One that was on its way when the first receiver came."""
    from dataclasses import replace

    with Served() as served, Receiver(served.endpoint) as receiver:
        served.until(lambda: served.server.wants_masks)
        served.server.write(replace(served.packet(), masks=None))
        receiver.until_code(1)
        served.write(frame_id=7)
        assert receiver.until("IMAGE").pixels.any()


def test_several_receivers_get_all_of_it() -> None:
    with Served() as served:
        receivers = [Receiver(served.endpoint) for _ in range(4)]
        for receiver in receivers:
            receiver.until("STATUS")
        for index in range(10):
            served.write()
            for receiver in receivers:
                assert index_of(receiver.until("IMAGE").unix_ns) == index
        assert not served.server.troubles
        for receiver in receivers:
            receiver.close()


# How the stream is


def test_a_stream_without_results_is_told_to_be_stale() -> None:
    with Served(stale_after_s=0.3) as served, Receiver(served.endpoint) as receiver:
        served.until(lambda: served.server.wants_masks)
        served.write()
        assert receiver.until_code(1)
        assert b"no live result comes" in receiver.until_code(7).content
        served.write()
        assert receiver.until_code(1)


def test_what_the_source_says_is_passed_on() -> None:
    with Served() as served, Receiver(served.endpoint) as receiver:
        served.until(lambda: served.server.wants_masks)
        served.write()
        for state, code in (
            ("stale", 7),
            ("streaming", 1),
            ("frozen", 18),
            ("reconnecting", 16),
            ("streaming", 1),
        ):
            served.server.announce(state, 0)  # type: ignore[arg-type]
            assert state.encode() in receiver.until_code(code).content
        served.write(stale=True)
        receiver.until_code(7)


def test_masks_that_are_old_or_of_an_epoch_that_is_over_are_not_shown_as_live() -> None:
    with Served(version=2) as served, Receiver(served.endpoint) as receiver:
        served.until(lambda: served.server.wants_masks)

        def shown(age_s: float = 0.0, epoch: int = 0) -> str:
            served.write(captured_ns=time.monotonic_ns() - int(age_s * 1e9), epoch=epoch)
            return receiver.until("IMAGE").metadata["stale"]

        assert shown() == "0"
        receiver.until_code(1)
        assert shown(age_s=30.0) == "1"
        assert b"the last masks are old" in receiver.until_code(7).content
        assert shown() == "0"
        receiver.until_code(1)
        served.server.announce("streaming", 1)
        receiver.until_code(7)
        assert shown() == "1"
        assert shown(epoch=1) == "0"
        receiver.until_code(1)


def test_the_end_is_told_after_the_last_result() -> None:
    with Served() as served, Receiver(served.endpoint) as receiver:
        served.until(lambda: served.server.wants_masks)
        served.write()
        served.server.close()
        rest = receiver.rest()
        assert [each.type for each in rest if each.type == "IMAGE"] == ["IMAGE"]
        assert rest[-1].code == 19
        served.server.close()  # twice does nothing


def test_a_failure_is_not_told_as_an_end() -> None:
    with Served() as served, Receiver(served.endpoint) as receiver:
        receiver.until("STATUS")
        served.server.announce("failed", 0)
        served.server.close()
        assert receiver.until_code(2)


def test_the_state_is_said_again_and_again() -> None:
    with Served() as served, Receiver(served.endpoint) as receiver:
        began = time.monotonic()
        for _ in range(3):
            receiver.until("STATUS")
        assert time.monotonic() - began < 10.0


# Slow, stopped, gone, too many, too loud


def test_a_slow_receiver_misses_results_and_nobody_else_does() -> None:
    with Served() as served, Receiver(served.endpoint) as healthy:
        slow = Receiver(served.endpoint, window=4096)
        slow.until("STATUS")
        healthy.until("STATUS")
        longest_s = 0.0
        for index in range(40):
            began = time.monotonic()
            served.write(LARGE)
            longest_s = max(longest_s, time.monotonic() - began)
            assert index_of(healthy.until("IMAGE").unix_ns) == index
        assert served.server.troubles["missed"] > 20
        assert longest_s < 1.0
        seen = [index_of(slow.until("IMAGE").unix_ns)]
        while seen[-1] < 39:
            seen.append(index_of(slow.until("IMAGE").unix_ns))
        assert seen == sorted(set(seen))
        assert len(seen) < 20
        slow.close()


def test_a_slow_receiver_that_keeps_up_misses_nothing() -> None:
    """The control: it is not the small window that loses."""
    with Served() as served, Receiver(served.endpoint, window=4096) as receiver:
        receiver.until("STATUS")
        for index in range(10):
            served.write(LARGE)
            assert index_of(receiver.until("IMAGE").unix_ns) == index
        assert not served.server.troubles


def test_one_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.sinks.igtl_client.GIVE_UP_S", 0.5)
    with Served() as served, Receiver(served.endpoint) as healthy:
        stopped = Receiver(served.endpoint, window=4096)
        stopped.until("STATUS")
        healthy.until("STATUS")
        while not served.server.troubles["given up"]:
            served.write(LARGE)
            healthy.until("IMAGE")
        served.write()
        assert healthy.until("IMAGE")
        stopped.close()


def test_a_hundred_connections_a_second_disturb_nobody() -> None:
    with Served() as served, Receiver(served.endpoint) as healthy:
        healthy.until("STATUS")
        before = len(os.listdir("/proc/self/fd"))
        for index in range(200):
            with socket.create_connection(("127.0.0.1", served.port), 5.0) as caller:
                if index % 3 == 0:  # and leave as rudely as can be
                    caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if index % 10 == 0:
                served.write()
                assert index_of(healthy.until("IMAGE").unix_ns) == index // 10
            time.sleep(0.005)
        served.until(lambda: len(os.listdir("/proc/self/fd")) <= before)
        assert served.server.wants_masks


def test_more_than_there_is_room_for_are_turned_away() -> None:
    with Served(max_clients=2) as served:
        inside = [Receiver(served.endpoint) for _ in range(2)]
        for receiver in inside:
            receiver.until("STATUS")
        with Receiver(served.endpoint) as outside, pytest.raises((EOFError, ConnectionError)):
            outside.next()
        served.until(lambda: served.server.troubles["turned away"] == 1)
        inside[0].close()
        served.until(lambda: _gets_in(served))
        inside[1].close()


def _gets_in(served: Served) -> bool:
    try:
        with Receiver(served.endpoint) as receiver:
            return receiver.next().type == "STATUS"
    except (EOFError, ConnectionError):
        return False


def test_junk_is_thrown_away() -> None:
    rng = np.random.default_rng(0)
    with Served() as served, Receiver(served.endpoint) as loud:
        loud.until("STATUS")
        good = image(np.zeros((4, 4), np.uint8))
        for index in range(50):
            mutant = bytearray(good)
            for _ in range(rng.integers(4)):
                mutant[rng.integers(len(mutant))] = rng.integers(256)
            loud.socket.sendall(bytes(mutant[: rng.integers(1, len(mutant))]))
            loud.socket.sendall(rng.bytes(int(rng.integers(100))))
            served.write()
            assert index_of(loud.until("IMAGE").unix_ns) == index
        assert not served.server.troubles


def test_a_flood_is_given_up() -> None:
    with Served() as served, Receiver(served.endpoint) as healthy:
        healthy.until("STATUS")
        with Receiver(served.endpoint) as flood, pytest.raises(ConnectionError):
            _send_for_ever(flood.socket)
        served.until(lambda: served.server.troubles["given up"] == 1)
        served.write()
        assert healthy.until("IMAGE")


def _send_for_ever(loud: socket.socket) -> None:
    while True:
        loud.sendall(bytes(1 << 20))


def test_a_pose_without_a_number_costs_that_result_alone() -> None:
    with Served() as served, Receiver(served.endpoint) as receiver:
        receiver.until("STATUS")
        served.write(pose=np.eye(4) * 1e39)
        served.until(lambda: served.server.troubles["left out"] == 1)
        served.write()
        assert index_of(receiver.until("IMAGE").unix_ns) == 1


def test_writing_never_waits_for_the_thread_that_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoding that hangs costs results, counted, not time."""
    begun, go_on = threading.Event(), threading.Event()
    with Served() as served, Receiver(served.endpoint) as receiver:
        receiver.until("STATUS")
        made = served.server._service.messages.of

        def hang(packet: HostPacket) -> bytes:
            begun.set()
            go_on.wait(20.0)
            return made(packet)

        monkeypatch.setattr(served.server._service.messages, "of", hang)
        served.write()
        assert begun.wait(20.0)
        for _ in range(5):
            served.write()
        assert served.server.unsent == 4
        go_on.set()
        seen = [index_of(receiver.until("IMAGE").unix_ns)]
        if seen == [0]:
            seen.append(index_of(receiver.until("IMAGE").unix_ns))
        assert seen[-1] == 5
        assert len(seen) + served.server.unsent == 6


# Where it listens, and for whom


def test_a_taken_port_is_told_in_one_line() -> None:
    with Served() as served, pytest.raises(OpenIGTLinkOutError) as error:
        Served(port=served.port)
    assert str(error.value) == (
        f"openigtlink_out: cannot listen on 127.0.0.1 port {served.port}: "
        "Address already in use (expected an address of this machine and a free port; "
        "port 0 takes any)"
    )
    with pytest.raises(
        OpenIGTLinkOutError, match=r"cannot listen on no-such-host\.invalid port 0: \S"
    ):
        Served(host="no-such-host.invalid", insecure_bind=True)


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.5", "::", "example.org"])  # noqa: S104
def test_beyond_this_machine_only_with_care(host: str) -> None:
    with pytest.raises(ValidationError, match="insecure_bind: true"):
        OpenIGTLinkServerConfig(host=host)
    assert OpenIGTLinkServerConfig(host=host, insecure_bind=True).open_to_all


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_this_machine_needs_none(host: str) -> None:
    assert not OpenIGTLinkServerConfig(host=host).open_to_all


@pytest.mark.parametrize(
    "wrong",
    [
        {"image": "a name of more than 20"},
        {"image": ""},
        {"image": "näme"},
        {"image": "Boxes"},
        {"status": "Masks"},
        {"port": 65536},
        {"version": 3},
        {"max_clients": 0},
        {"stale_after_s": float("nan")},
    ],
)
def test_what_the_protocol_cannot_carry_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        OpenIGTLinkServerConfig(**wrong)


def test_over_ipv6() -> None:
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 here")
    with Served(host="::1") as served, Receiver(served.endpoint) as receiver:
        assert served.endpoint.startswith("tcp://[::1]:")
        assert receiver.until("STATUS")


def test_a_server_that_was_never_started_closes() -> None:
    server = OpenIGTLinkServer(OpenIGTLinkServerConfig(port=0), "cam1", ())
    port = int(server.endpoint.rpartition(":")[2])
    server.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5.0)


def test_how_many_are_connected_is_told_from_its_thread() -> None:
    events: list[Event] = []

    class Logger:
        def emit(self, event: Event) -> None:
            events.append(event)

    token = current_logger.set(Logger())
    try:
        with Served() as served:
            with Receiver(served.endpoint):
                served.until(lambda: SubscriberState("openigtlink/cam1", 1) in events)
            served.until(lambda: SubscriberState("openigtlink/cam1", 0) in events)
    finally:
        current_logger.reset(token)


def test_nothing_is_left_behind() -> None:
    def now() -> int:
        """Descriptors, once the threads of all servers have ended."""
        deadline = time.monotonic() + 20.0
        while any(each.name.startswith("openigtlink") for each in threading.enumerate()):
            assert time.monotonic() < deadline, "a thread did not end"
            time.sleep(0.01)
        return len(os.listdir("/proc/self/fd"))

    with Served() as served, Receiver(served.endpoint) as receiver:
        receiver.until("STATUS")
        assert any(each.name == "openigtlink-send" for each in threading.enumerate())
    before = now()
    for _ in range(5):
        with Served() as served, Receiver(served.endpoint) as receiver:
            receiver.until("STATUS")
            served.write(SIZE_HW)
    assert now() == before
