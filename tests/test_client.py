"""Subscriber and `maskstream subscribe` against a real publisher."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zmq
from PIL import Image
from result_packets import random_packet, wait_until

from pipeline.subscribe import subscribe
from stages.client import StaleError, Subscriber
from stages.errors import ConfigError
from stages.packets import HostPacket
from stages.sinks.zmq_publisher import ZmqPublisher, ZmqPublisherConfig
from stages.wire import ResultMessage, StateMessage, WireError, encode_result, encode_state

ROOT = Path(__file__).parents[1]
SIZE = (20, 33)


def publish(endpoint: str = "tcp://127.0.0.1:0", hwm: int = 1000) -> ZmqPublisher:
    """With room for every packet of a test, whatever else keeps the machine busy."""
    return ZmqPublisher(ZmqPublisherConfig(endpoint=endpoint, hwm=hwm), "cam1", ("vessel",))


@pytest.fixture
def publisher() -> Iterator[ZmqPublisher]:
    publisher = publish(hwm=4)
    yield publisher
    publisher.close()


@pytest.fixture
def roomy() -> Iterator[ZmqPublisher]:
    """Drops nothing of a burst, however late the other end is."""
    publisher = publish(hwm=100)
    yield publisher
    publisher.close()


def write(publisher: ZmqPublisher, frame: int) -> None:
    publisher.write(random_packet(np.random.default_rng(frame), 2, SIZE, frame_id=frame)[0])


def big_packet() -> HostPacket:
    """Full masks: over 1 MB as a message."""
    packet, _ = random_packet(np.random.default_rng(0), 4, (1500, 1600), with_masks=False)
    full = np.full((4, 1500, 200), 255, np.uint8)
    boxes = np.tile(np.array([0, 0, 1600, 1500], np.int32), (4, 1))
    return dataclasses.replace(packet, masks=full, mask_boxes_xyxy=boxes)


def connected(publisher: ZmqPublisher) -> None:
    wait_until(lambda: publisher.subscribers == 1 and publisher.wants("state"), publisher.poll)


def test_results_in_order_with_masks_and_state(publisher: ZmqPublisher) -> None:
    with Subscriber(publisher.endpoint, "cam1") as subscriber:
        connected(publisher)
        for frame in range(4):
            write(publisher, frame)
            got = subscriber.receive(5.0)
            assert got is not None
            assert got.seq == got.frame_id == frame
            _, masks = random_packet(np.random.default_rng(frame), 2, SIZE, frame_id=frame)
            assert np.array_equal(got.masks(), masks)
        assert subscriber.receive(0.05) is None
        publisher.poll()
        assert subscriber.receive(0.2) is None
        assert subscriber.states["cam1"].class_names == ("vessel",)
        assert (subscriber.received, subscriber.gaps, subscriber.lost) == (4, 0, 0)


def test_iterating(publisher: ZmqPublisher) -> None:
    with Subscriber(publisher.endpoint, topics=("result",)) as subscriber:
        wait_until(lambda: publisher.subscribers == 1, publisher.poll)
        for frame in range(3):
            write(publisher, frame)
        seen = [message.seq for _, message in zip(range(3), subscriber, strict=False)]
        assert seen == [0, 1, 2]


def test_a_subscriber_that_sleeps_loses_packets_and_says_so(publisher: ZmqPublisher) -> None:
    packet = big_packet()
    with Subscriber(publisher.endpoint, "cam1") as subscriber:
        connected(publisher)
        # More than the queues of both ends and the kernel's buffers hold together.
        for _ in range(60):
            publisher.write(packet)
            publisher.poll()
        seen = []
        while (message := subscriber.receive(0.5)) is not None:
            seen.append(message.seq)
        assert seen[0] == 0
        assert len(seen) < 60
        publisher.write(packet)
        last = subscriber.receive(5.0)
        assert last is not None
        assert last.seq == 60
        assert subscriber.gaps >= 1
        assert subscriber.received + subscriber.lost == 61
        assert subscriber.received == len(seen) + 1


def test_a_subscriber_that_keeps_up_loses_nothing(publisher: ZmqPublisher) -> None:
    packet = big_packet()
    with Subscriber(publisher.endpoint, "cam1") as subscriber:
        connected(publisher)
        for _ in range(60):
            publisher.write(packet)
            assert subscriber.receive(5.0) is not None
        assert (subscriber.received, subscriber.gaps, subscriber.lost) == (60, 0, 0)


@contextmanager
def bare_publisher() -> Iterator[tuple[zmq.Socket[bytes], str]]:
    """A PUB socket that sends whatever it is given."""
    with zmq.Context() as context:
        socket = context.socket(zmq.XPUB)
        socket.setsockopt(zmq.RCVTIMEO, 5000)
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        yield socket, f"tcp://127.0.0.1:{port}"
        socket.close(linger=0)


def message(seq: int, source_id: str = "cam1") -> bytes:
    rng = np.random.default_rng(0)
    return encode_result(random_packet(rng, 1, (5, 5), source_id=source_id)[0], seq)


def test_losses_are_counted_per_source_from_seq_and_from_the_state() -> None:
    with bare_publisher() as (socket, endpoint), Subscriber(endpoint) as subscriber:
        assert {socket.recv(), socket.recv()} == {b"\x01result/", b"\x01state/"}

        def counts_after(*sent: bytes) -> tuple[int, int, int]:
            for one in sent:
                socket.send(one)
                assert subscriber.next_message(5.0) is not None
            return subscriber.gaps, subscriber.lost, subscriber.restarts

        def state(last_seq: int | None) -> bytes:
            return encode_state("cam1", 0, "streaming", last_seq, ())

        assert counts_after(state(5)) == (0, 0, 0)  # before the first packet nothing was ours
        assert counts_after(message(10), message(11)) == (0, 0, 0)
        assert counts_after(message(3, "cam2"), message(4, "cam2")) == (0, 0, 0)
        assert counts_after(message(14)) == (1, 2, 0)
        assert counts_after(message(6, "cam2")) == (2, 3, 0)
        assert counts_after(state(14), state(None)) == (2, 3, 0)
        assert counts_after(state(17)) == (3, 6, 0)  # 15, 16 and 17 will not come any more
        assert counts_after(message(18)) == (3, 6, 0)
        assert counts_after(message(0), message(1)) == (3, 6, 1)  # the publisher began again
        assert counts_after(message(3)) == (4, 7, 1)


def test_what_cannot_be_read_is_an_error_and_the_next_message_is_not() -> None:
    with bare_publisher() as (socket, endpoint), Subscriber(endpoint, "cam1") as subscriber:
        socket.recv()
        socket.recv()
        socket.send(b"result/cam1\0junk")
        socket.send(message(0).replace(b'"version":1', b'"version":9'))
        socket.send(message(0))
        with pytest.raises(WireError):
            subscriber.receive(5.0)
        with pytest.raises(WireError, match="message version 9; this reader knows version 1"):
            subscriber.receive(5.0)
        assert subscriber.receive(5.0) is not None


def test_only_the_latest(publisher: ZmqPublisher) -> None:
    with (
        Subscriber(publisher.endpoint, "cam1", topics=("result",), latest_only=True) as latest,
        Subscriber(publisher.endpoint, "cam1", topics=("result",)) as every,
    ):
        wait_until(lambda: publisher.subscribers == 2, publisher.poll)
        for frame in range(20):
            write(publisher, frame)
            assert every.receive(5.0) is not None
        # Both got all of them over the same kind of connection; give the slower one a moment.
        threading.Event().wait(0.2)
        got = latest.receive(5.0)
        assert got is not None
        assert got.seq == 19
        assert latest.receive(0.05) is None


def test_the_latest_and_the_state_by_sockets_of_their_own(roomy: ZmqPublisher) -> None:
    with Subscriber(roomy.endpoint, "cam1", latest_only=True) as latest:
        connected(roomy)
        for frame in range(20):
            write(roomy, frame)
            roomy.poll()
        wait_until(lambda: "cam1" in latest.states, lambda: latest.next_message(0.05))
        threading.Event().wait(0.2)
        got = latest.receive(5.0)
        while (newer := latest.receive(0.1)) is not None:
            got = newer
        assert got is not None
        assert got.seq == 19
        roomy.announce("stale", 0)
        roomy.poll()
        wait_until(
            lambda: latest.states["cam1"].state == "stale", lambda: latest.next_message(0.05)
        )
        assert latest.restarts == 0, "a state that overtakes results is no restart"


# --- never an old result as new ---------------------------------------------------------------


def aged(frame: int, age_s: float) -> HostPacket:
    packet, _ = random_packet(np.random.default_rng(frame), 1, SIZE, frame_id=frame)
    captured = time.monotonic_ns() - int(age_s * 1e9)
    return dataclasses.replace(packet, info=dataclasses.replace(packet.info, captured_ns=captured))


def test_a_result_that_is_old_is_an_error_and_the_next_is_not(publisher: ZmqPublisher) -> None:
    with (
        Subscriber(publisher.endpoint, "cam1", stale_after_s=20.0) as wary,
        Subscriber(publisher.endpoint, "cam1", topics=("result",)) as careless,
    ):
        wait_until(lambda: publisher.subscribers == 2, publisher.poll)
        publisher.write(aged(0, 30.0))
        with pytest.raises(StaleError, match=r"frame 0 is 3\d\.\d+ s old, and says so") as caught:
            wary.receive(5.0)
        assert caught.value.message is not None
        assert caught.value.message.frame_id == 0
        publisher.write(aged(1, 0.0))
        got = wary.receive(5.0)
        assert got is not None
        assert (got.frame_id, got.stale) == (1, False)
        control = careless.receive(5.0)
        assert control is not None
        assert control.stale, "who asks for nothing is given it, and can see"


def test_a_result_of_an_epoch_that_is_over_is_none_to_act_on(publisher: ZmqPublisher) -> None:
    """By two sockets the state of the new epoch may be heard before the last result of the old."""
    with Subscriber(publisher.endpoint, "cam1", latest_only=True, stale_after_s=20.0) as wary:
        connected(publisher)
        publisher.write(aged(0, 0.0))
        publisher.announce("reconnecting", 1)
        publisher.poll()
        wait_until(
            lambda: "cam1" in wary.states and wary.states["cam1"].epoch == 1,
            lambda: _next_state(wary),
        )
        with pytest.raises(StaleError, match=r"frame 0 is [\d.]+ s old, of epoch 0, which is over"):
            wary.receive(10.0)
        new = aged(2, 0.0)
        publisher.write(dataclasses.replace(new, info=dataclasses.replace(new.info, epoch=1)))
        wait_until(lambda: _is_live(wary, 2), lambda: None)


def _next_state(subscriber: Subscriber) -> None:
    """Take in what is there, but no result: its socket comes after the state's."""
    if subscriber._poller.poll(50) and dict(subscriber._poller.poll(0)).get(subscriber._sockets[1]):
        subscriber.next_message(0.0)


def _is_live(subscriber: Subscriber, frame_id: int) -> bool:
    try:
        got = subscriber.receive(5.0)
    except StaleError:
        return False
    return got is not None and got.frame_id == frame_id


def test_age_counts_up_to_the_reading() -> None:
    old = time.time_ns() - 30 * 10**9
    with (
        bare_publisher() as (socket, endpoint),
        Subscriber(endpoint, "cam1", stale_after_s=20.0) as subscriber,
    ):
        socket.recv()
        socket.recv()
        packet, _ = random_packet(np.random.default_rng(0), 1, SIZE)
        socket.send(encode_result(packet, 0, published_unix_ns=old))
        with pytest.raises(StaleError, match=r"frame 0 is 3\d\.\d+ s old \("):
            subscriber.receive(5.0)


def test_silence_is_stale_and_says_what_the_state_is(publisher: ZmqPublisher) -> None:
    with Subscriber(publisher.endpoint, "cam1", stale_after_s=0.3) as subscriber:
        assert subscriber.receive(0.01) is None, "not yet"
        with pytest.raises(StaleError, match=r"no live result for 0\.3 s: no publisher answered"):
            subscriber.receive()
        connected(publisher)
        publisher.announce("stale", 0)
        publisher.poll()
        wait_until(lambda: "cam1" in subscriber.states, lambda: subscriber.next_message(0.05))
        with pytest.raises(StaleError, match=r"for 0\.3 s: cam1 is stale$"):
            subscriber.receive(5.0)
        publisher.write(aged(0, 30.0))
        with pytest.raises(StaleError, match="says so"):
            subscriber.receive(5.0)


def test_a_publisher_that_is_gone_is_not_said_to_stream(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    streaming = encode_state("cam1", 0, "streaming", None, ())

    def greet(socket: zmq.Socket[bytes]) -> None:
        assert socket.recv() + socket.recv()
        socket.send(streaming)

    with (
        bare_publisher() as (socket, endpoint),
        Subscriber(endpoint, "cam1", stale_after_s=0.2) as subscriber,
    ):
        assert subscriber.told == ""
        greet(socket)
        wait_until(lambda: "cam1" in subscriber.states, lambda: subscriber.next_message(0.05))
        with pytest.raises(StaleError, match=r"cam1 is streaming$"):
            subscriber.receive()
        monkeypatch.setattr("stages.client.SILENT_AFTER_S", 0.1)
        with pytest.raises(StaleError, match=r"cam1 is silent \(nothing came for \d s\)$"):
            subscriber.receive()
        socket.send(encode_state("cam1", 0, "ended", None, ()))
        wait_until(lambda: "ended" in subscriber.told, lambda: subscriber.next_message(0.05))
        time.sleep(0.15)
        assert subscriber.told == "cam1 is ended", "nothing is expected of it"
    with bare_publisher() as (socket, endpoint):
        greeting = threading.Thread(target=greet, args=(socket,))
        greeting.start()
        assert subscribe(endpoint, "cam1", timeout_s=0.5) == 1
        greeting.join()
    assert "for 0.5 s: cam1 is silent (nothing came for " in capsys.readouterr().err


def test_it_may_come_first_and_finds_a_publisher_that_came_back(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/results"
    with Subscriber(endpoint, "cam1", reconnect_ms=(20, 50)) as subscriber:
        assert subscriber.receive(0.05) is None
        for _ in range(2):
            publisher = publish(endpoint)
            # libzmq renews subscriptions from within the subscriber's own calls.
            wait_until(
                lambda publisher=publisher: publisher.subscribers == 1 and publisher.wants("state"),
                lambda publisher=publisher: (publisher.poll(), subscriber.receive(0.0)),
            )
            for frame in range(3):
                write(publisher, frame)
                assert subscriber.receive(5.0) is not None
            publisher.close()
        assert (subscriber.received, subscriber.lost, subscriber.restarts) == (6, 0, 1)


def test_another_run_is_a_restart_though_its_seq_has_gone_further() -> None:
    def sent(seq: int, run: int) -> bytes:
        packet, _ = random_packet(np.random.default_rng(0), 1, (5, 5))
        return encode_result(packet, seq, run=run)

    with bare_publisher() as (socket, endpoint), Subscriber(endpoint, "cam1") as subscriber:
        socket.recv()
        socket.recv()
        state = encode_state("cam1", 0, "streaming", 70, (), run=3)
        for one in (sent(4, 1), sent(5, 1), sent(60, 2), sent(61, 2), state, sent(71, 3)):
            socket.send(one)
            assert subscriber.next_message(5.0) is not None
        assert (subscriber.received, subscriber.lost, subscriber.restarts) == (5, 0, 2)
        socket.send(sent(73, 3))
        assert subscriber.receive(5.0) is not None
        assert (subscriber.lost, subscriber.restarts) == (1, 2)


@pytest.mark.parametrize("endpoint", ["nonsense", "tcp://127.0.0.1", "udp://127.0.0.1:5", ""])
def test_an_endpoint_that_is_none(endpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="expected tcp://HOST:PORT"):
        Subscriber(endpoint)
    assert subscribe(endpoint) == ConfigError.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "cannot connect to" in err


# --- maskstream subscribe ---------------------------------------------------------------------


@contextmanager
def running(publisher: ZmqPublisher, run: Callable[[], None]) -> Iterator[None]:
    """`run` in a thread once someone subscribed, then close the publisher."""
    errors: list[BaseException] = []

    def go() -> None:
        try:
            connected(publisher)
            run()
        except BaseException as error:
            errors.append(error)
        finally:
            publisher.close()

    thread = threading.Thread(target=go)
    thread.start()
    yield
    thread.join()
    assert not errors


def paced(publisher: ZmqPublisher, frames: range) -> Callable[[], None]:
    def run() -> None:
        for frame in frames:
            write(publisher, frame)
            threading.Event().wait(0.01)

    return run


def test_subscribe_prints_and_saves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publisher, folder = publish(), tmp_path / "masks"
    with running(publisher, paced(publisher, range(5))):
        assert subscribe(publisher.endpoint, "cam1", save_dir=folder, timeout_s=30.0) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("cam1 frame 0  age ")
    assert lines[-1] == "5 packets, 0 lost"

    pictures = sorted(folder.iterdir())
    assert len(pictures) == 10
    for frame in range(5):
        packet, masks = random_packet(np.random.default_rng(frame), 2, SIZE, frame_id=frame)
        for object_id, mask in zip(packet.object_ids, masks, strict=True):
            with Image.open(folder / f"frame_{frame:08d}_obj_{object_id}.png") as picture:
                assert picture.mode == "L"
                assert np.array_equal(np.asarray(picture), mask * np.uint8(255))


def test_subscribe_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    publisher = publish()
    with running(publisher, paced(publisher, range(8))):
        code = subscribe(publisher.endpoint, None, count=3, as_json=True, timeout_s=30.0)
    assert code == 0
    out, err = capsys.readouterr()
    packets = [json.loads(line) for line in out.splitlines()]
    assert [packet["frame_id"] for packet in packets] == [0, 1, 2]
    assert packets[0]["age_ms"] > 0
    assert packets[0]["masks"] is True
    want, _ = random_packet(np.random.default_rng(0), 2, SIZE)
    assert [item["id"] for item in packets[0]["objects"]] == want.object_ids.tolist()
    assert [item["area_px"] for item in packets[0]["objects"]] == want.area_px.tolist()
    assert err == "3 packets, 0 lost\n"


def test_subscribe_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    publisher = publish()
    with running(publisher, paced(publisher, range(5))):
        assert subscribe(publisher.endpoint, "cam1", timeout_s=30.0, table=True) == 0
    shown = capsys.readouterr().out
    assert "cam1 epoch 0 frame 4" in shown
    for item in random_packet(np.random.default_rng(4), 2, SIZE, frame_id=4)[0].area_px:
        assert f"{item} px" in shown
    assert shown.endswith("5 packets, 0 lost\n")


def test_subscribe_tells_what_troubles_the_source(capsys: pytest.CaptureFixture[str]) -> None:
    publisher = publish()

    def run() -> None:
        for state in ("streaming", "stale", "stale", "reconnecting", "streaming"):
            publisher.announce(state, 0)
            publisher.poll()
        write(publisher, 0)

    with running(publisher, run):
        assert subscribe(publisher.endpoint, "cam1", timeout_s=30.0) == 0
    err = capsys.readouterr().err
    assert err == "cam1 is stale\ncam1 is reconnecting\n"


def test_subscribe_reports_losses(capsys: pytest.CaptureFixture[str]) -> None:
    def run() -> None:
        for frame in range(6):
            write(publisher, frame)
            publisher._seq += 2 * (frame == 3)  # as if two packets had been dropped

    publisher = publish()
    with running(publisher, run):
        assert subscribe(publisher.endpoint, timeout_s=30.0) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "6 packets, 2 lost in 1 gap"


def test_the_end_is_heard_though_the_queue_was_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.sinks.zmq_publisher.LAST_STATE_AGAIN_S", (0.05,) * 20)
    publisher, packet = publish(hwm=4), big_packet()
    with Subscriber(publisher.endpoint, "cam1") as subscriber:
        connected(publisher)
        for _ in range(40):
            publisher.write(packet)
        closing = threading.Thread(target=publisher.close)
        closing.start()
        while closing.is_alive() or subscriber.next_message(0.5) is not None:
            subscriber.next_message(0.05)
        assert subscriber.states["cam1"].state == "ended"
        assert 0 < subscriber.received < 40
        assert subscriber.received + subscriber.lost == 40


def test_subscribe_says_when_packets_came_without_masks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publisher = publish()

    def run() -> None:
        rng = np.random.default_rng(0)
        publisher.write(random_packet(rng, 1, SIZE, with_masks=False)[0])
        write(publisher, 1)

    with running(publisher, run):
        assert subscribe(publisher.endpoint, save_dir=tmp_path, timeout_s=30.0) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "2 packets, 0 lost, 1 came without masks"


def test_subscribe_to_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    with bare_publisher() as (socket, endpoint):
        assert subscribe(endpoint, timeout_s=0.2) == 1
        assert socket.recv()
    out, err = capsys.readouterr()
    assert out == "0 packets, 0 lost\n"
    assert err == (
        f"no packet from {endpoint} for 0.2 s: no publisher answered (expected a run that "
        "publishes there, and keys that it allows)\n"
    )


def test_subscribe_to_a_source_that_is_silent_failed_or_ended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for state, says in (
        ("connecting", "for 0.5 s: cam1 is connecting\n"),
        ("failed", "failed; see its run's log"),
        ("ended", "ended without a packet"),
    ):
        with bare_publisher() as (socket, endpoint):

            def greet(socket: zmq.Socket[bytes] = socket, state: str = state) -> None:
                socket.recv()
                socket.recv()
                socket.send(encode_state("cam1", 0, state, None, ()))

            thread = threading.Thread(target=greet)
            thread.start()
            assert subscribe(endpoint, "cam1", timeout_s=0.5) == 1
            thread.join()
        err = capsys.readouterr().err
        assert says in err
        assert err.count("\n") == 1


def test_subscribe_where_nothing_can_be_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    publisher = publish()
    with running(publisher, paced(publisher, range(2))):
        assert subscribe(publisher.endpoint, save_dir=tmp_path / "file", timeout_s=30.0) == 1
    err = capsys.readouterr().err
    assert err.startswith("cannot save masks: ")
    assert err.count("\n") == 1


def test_subscribing_never_imports_torch() -> None:
    program = (
        "import sys\n"
        "from pipeline.subscribe import subscribe\n"
        "code = subscribe(sys.argv[1], count=2, timeout_s=20)\n"
        "sys.exit(f'{code} torch imported' if 'torch' in sys.modules else code)\n"
    )
    publisher = publish()
    with running(publisher, paced(publisher, range(3))):
        command = [sys.executable, "-c", program, publisher.endpoint]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "2 packets, 0 lost"


def test_a_reader_that_goes_away_is_no_error(publisher: ZmqPublisher) -> None:
    program = (
        "import sys; from pipeline.subscribe import subscribe; sys.exit(subscribe(sys.argv[1]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, publisher.endpoint],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    connected(publisher)

    def step() -> None:
        write(publisher, 0)
        threading.Event().wait(0.02)

    wait_until(lambda: process.poll() is not None, step)
    assert (process.returncode, process.stderr.read()) == (0, b"")
    process.stderr.close()


def test_messages_of_both_kinds(publisher: ZmqPublisher) -> None:
    with Subscriber(publisher.endpoint, "cam1") as subscriber:
        connected(publisher)
        write(publisher, 0)
        kinds: set[type] = set()
        wait_until(
            lambda: kinds == {ResultMessage, StateMessage},
            lambda: kinds.add(type(subscriber.next_message(5.0))),
        )
