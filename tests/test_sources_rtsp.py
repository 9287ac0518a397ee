"""Network video from a real server: pictures, times, epochs, and what a broken network does."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import copy_context

import numpy as np
import pytest
import torch
from chaos_proxy import ChaosProxy
from numpy.typing import NDArray
from rtsp_peer import BARS, RtspServer, bars, require_rtsp_server

from kpi.emit import current_logger
from kpi.events import Event, SourceStateChanged
from stages.base import Picture
from stages.grab import Grab
from stages.sources.rtsp import RtspConfig, RtspSource

CUTS = 5
WAIT_S = 40.0


def memory(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.empty(shape, np.uint8)


class Log:
    """The events of a test."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    @property
    def changes(self) -> list[SourceStateChanged]:
        return [event for event in self.events if isinstance(event, SourceStateChanged)]

    @property
    def states(self) -> list[str]:
        return [change.state for change in self.changes]


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    token = current_logger.set(log)
    yield log
    current_logger.reset(token)


@pytest.fixture
def server() -> Iterator[RtspServer]:
    require_rtsp_server()
    with RtspServer() as server:
        yield server


@pytest.fixture
def open_source(log: Log) -> Iterator[Callable[..., RtspSource]]:
    made: list[RtspSource] = []

    def make(url: str, **options: object) -> RtspSource:
        made.append(RtspSource(RtspConfig.model_validate({"url": url, **options})))
        return made[-1]

    yield make
    for source in made:
        source.close()


def read(source: RtspSource, count: int = 1) -> list[Picture]:
    """The next pictures, each in memory of its own; fails where they do not come."""
    overdue = threading.Timer(WAIT_S, source.close)  # ends a read that waits
    overdue.start()
    try:
        got = [source.read(memory) for _ in range(count)]
    finally:
        overdue.cancel()
    pictures = [picture for picture in got if picture is not None]
    assert len(pictures) == count, "the source ended, or gave no picture in time"
    return pictures


def read_until(source: RtspSource, condition: Callable[[Picture], bool]) -> Picture:
    deadline = time.monotonic() + WAIT_S
    while True:
        (picture,) = read(source)
        if condition(picture):
            return picture
        assert time.monotonic() < deadline, "it never happened"


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def aside(what: Callable[[], object]) -> threading.Thread:
    """Does it in a thread that has this one's log."""
    thread = threading.Thread(target=copy_context().run, args=(what,))
    thread.start()
    return thread


def feed_threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("feed-")]


# What arrives


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_pictures_arrive_whole_in_rgb_order_and_in_time(
    server: RtspServer, open_source: Callable[..., RtspSource], log: Log, transport: str
) -> None:
    source = open_source(server.url, transport=transport)
    assert source.size_hw is None
    for picture in read(source, 30):
        assert picture.pixels.shape == (240, 320, 3)
        assert bars(picture.pixels) == BARS
        assert picture.epoch == 0
        assert picture.captured_ns <= time.monotonic_ns()
    assert log.states == ["connecting", "streaming"]


def test_the_check_of_colours_would_see_them_swapped(
    server: RtspServer, open_source: Callable[..., RtspSource]
) -> None:
    (picture,) = read(open_source(server.url))
    assert bars(picture.pixels[..., ::-1]) != BARS


def test_full_range_and_bt601_come_out_exact(
    server: RtspServer, open_source: Callable[..., RtspSource]
) -> None:
    (picture,) = read(open_source(server.url))
    row = picture.pixels[60].astype(int)
    for column, expected in ((20, (255, 255, 255)), (250, (255, 0, 0)), (300, (0, 0, 255))):
        assert np.abs(row[column] - expected).max() <= 4


def test_times_keep_the_rate_and_unix_time_is_the_senders(
    server: RtspServer, open_source: Callable[..., RtspSource]
) -> None:
    source = open_source(server.url)
    told = read_until(source, lambda picture: picture.captured_unix_ns is not None)
    assert told.captured_unix_ns is not None
    assert abs(time.time_ns() - told.captured_unix_ns) < 2e9, "the same clock, give or take"
    pictures = read(source, 25)
    stamps = [picture.captured_unix_ns for picture in pictures]
    assert all(stamps)
    steps = np.diff(np.array(stamps, np.int64)) / 1e6
    assert np.allclose(steps, 40.0, atol=1.0), "25 a second, by the sender's clock"
    age_ms = (time.monotonic_ns() - pictures[-1].captured_ns) / 1e6
    assert age_ms >= 40.0, "FFmpeg waits for the next to begin, and that counts"
    captured = [picture.captured_ns for picture in pictures]
    assert captured == sorted(captured)


# What changes on the way


def test_another_size_in_the_stream_is_an_epoch(
    server: RtspServer, open_source: Callable[..., RtspSource], log: Log
) -> None:
    source = open_source(server.url)
    read(source, 5)
    server.resize("480x360")
    changed = read_until(source, lambda picture: picture.pixels.shape[0] != 240)
    assert changed.pixels.shape == (360, 480, 3)
    assert changed.epoch == 1
    assert bars(changed.pixels) == BARS
    assert "reconnecting" not in log.states


def test_a_server_that_comes_back_otherwise_is_an_epoch(
    open_source: Callable[..., RtspSource], log: Log
) -> None:
    require_rtsp_server()
    with RtspServer() as first:
        port = first.port
        source = open_source(first.url)
        read(source, 5)
    threading.Timer(1.0, lambda: servers.append(RtspServer(port, size="480x360"))).start()
    servers: list[RtspServer] = []
    try:
        picture = read_until(source, lambda picture: picture.epoch > 0)
    finally:
        eventually(lambda: bool(servers))
        servers[0].close()
    assert picture.pixels.shape == (360, 480, 3)
    assert bars(picture.pixels) == BARS
    assert log.states[:3] == ["connecting", "streaming", "reconnecting"]


def test_the_first_picture_of_a_connection_is_a_whole_one(
    open_source: Callable[..., RtspSource],
) -> None:
    """Somebody else watches, so the second client comes in between two keyframes."""
    require_rtsp_server()
    with RtspServer(keyframes=50) as server:
        watching = open_source(server.url, source_id="first")
        read(watching, 8)
        (picture,) = read(open_source(server.url, source_id="second"))
        assert bars(picture.pixels) == BARS


def test_a_still_picture_is_told_to_be_frozen(
    open_source: Callable[..., RtspSource], log: Log
) -> None:
    require_rtsp_server()
    with RtspServer(pattern="smpte75") as server:
        source = open_source(server.url, frozen_after=10)
        deadline = time.monotonic() + WAIT_S
        while "frozen" not in log.states:
            read(source)
            assert time.monotonic() < deadline


# A network that breaks


def test_cuts_at_random_bytes_cost_an_epoch_each_and_leave_nothing(
    server: RtspServer, log: Log
) -> None:
    rng = np.random.default_rng(5)
    with ChaosProxy("127.0.0.1", server.port) as proxy:
        config = RtspConfig.model_validate({"url": f"rtsp://127.0.0.1:{proxy.port}/test"})
        grab = Grab(RtspSource(config), torch.device("cpu"))
        before = len(os.listdir("/proc/self/fd")), threading.active_count()
        grab.start()
        taken = []
        for cut in range(CUTS + 1):
            frame = None
            deadline = time.monotonic() + WAIT_S
            while frame is None or frame.epoch < cut:
                assert time.monotonic() < deadline, "it did not come back"
                frame = grab.get(1.0)
                taken += [] if frame is None else [frame]
                assert frame is None or bars(np.moveaxis(frame.rgb.numpy(), 0, -1)) == BARS
            if cut < CUTS:
                proxy.faults.cut_at = int(rng.integers(1, 60_000))
        grab.stop()
    assert [frame.frame_id for frame in taken] == sorted({frame.frame_id for frame in taken})
    assert [frame.epoch for frame in taken] == sorted(frame.epoch for frame in taken)
    assert taken[-1].epoch == CUTS
    assert grab.grabbed == len(taken) + sum(grab.dropped.values())
    assert log.states.count("streaming") == CUTS + 1
    eventually(lambda: not feed_threads())
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= before[0])
    assert threading.active_count() <= before[1]


def test_a_stall_is_told_and_ended_by_a_new_connection(
    server: RtspServer, open_source: Callable[..., RtspSource], log: Log
) -> None:
    with ChaosProxy("127.0.0.1", server.port) as proxy:
        source = open_source(
            f"rtsp://127.0.0.1:{proxy.port}/test", stale_after_s=0.5, reconnect_after_s=2.0
        )
        last = read(source, 3)[-1]
        proxy.stall()
        got: list[Picture] = []
        reader = aside(lambda: got.append(read_until(source, lambda one: one.epoch > last.epoch)))
        eventually(lambda: "reconnecting" in log.states)
        proxy.resume()
        reader.join(WAIT_S)
        assert bars(got[0].pixels) == BARS
    # What was on its way before the stall may have ended an earlier staleness.
    lost = log.states.index("reconnecting")
    assert log.states[lost - 1] == "stale"
    assert log.states[-1] == "streaming"
    eventually(lambda: len(feed_threads()) <= 1)


def test_a_server_that_hangs_is_stale_and_goes_on_where_it_was(
    server: RtspServer, open_source: Callable[..., RtspSource], log: Log
) -> None:
    source = open_source(server.url, stale_after_s=0.4, reconnect_after_s=30.0)
    read(source, 3)
    server.stop()
    threading.Timer(1.5, server.go_on).start()
    read_until(source, lambda picture: log.states[-2:] == ["stale", "streaming"])
    assert "reconnecting" not in log.states


def test_a_drip_of_small_pieces_arrives_whole(
    server: RtspServer, open_source: Callable[..., RtspSource]
) -> None:
    with ChaosProxy("127.0.0.1", server.port) as proxy:
        proxy.faults.split_every, proxy.faults.pause_s = 400, 0.0
        for picture in read(open_source(f"rtsp://127.0.0.1:{proxy.port}/test"), 10):
            assert bars(picture.pixels) == BARS


@pytest.mark.parametrize("when", ["opening", "streaming"])
def test_close_ends_a_read_that_waits_for_a_stalled_server(
    server: RtspServer, open_source: Callable[..., RtspSource], log: Log, when: str
) -> None:
    with ChaosProxy("127.0.0.1", server.port) as proxy:
        source = open_source(f"rtsp://127.0.0.1:{proxy.port}/test", connect_within_s=3.0)
        if when == "streaming":
            read(source, 2)
        proxy.stall()
        got: list[Picture | None] = []
        reader = aside(lambda: got.append(source.read(memory)))
        eventually(lambda: len(feed_threads()) == 1)
        time.sleep(0.5)
        begin = time.monotonic()
        source.close()
        reader.join(WAIT_S)
        assert time.monotonic() - begin < 1.0
        while got and got[0] is not None:  # what was on its way before the stall
            got[:] = [source.read(memory)]
        assert got == [None]
        eventually(lambda: not feed_threads())


def test_no_descriptor_is_left_by_attempts_that_fail(
    open_source: Callable[..., RtspSource], log: Log
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with ChaosProxy("127.0.0.1", 1) as proxy:  # takes in, finds nobody, resets
        source = open_source(f"rtsp://127.0.0.1:{proxy.port}/test")
        reader = aside(lambda: source.read(memory))
        eventually(lambda: proxy.connections >= 4)
        source.close()
        reader.join(WAIT_S)
    eventually(lambda: not feed_threads())
    assert len(os.listdir("/proc/self/fd")) <= before
    assert log.states[:2] == ["connecting", "reconnecting"]


def test_the_password_of_the_environment_opens_the_stream(
    open_source: Callable[..., RtspSource], log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_rtsp_server()
    word = "p@ss:w/rd%41"
    monkeypatch.setenv("CAMERA_WORD", word)
    with RtspServer(user="operator", password=word) as server:
        source = open_source(server.url, username="operator", password_env="CAMERA_WORD")  # noqa: S106
        (picture,) = read(source)
        assert bars(picture.pixels) == BARS
        inline = server.url.replace("://", "://operator:p@ss:w%2Frd%2541@")
        assert read(open_source(inline, source_id="inline"))
        source = open_source(server.url, source_id="nobody")
        reader = aside(lambda: source.read(memory))
        eventually(lambda: any("401" in (one.reason or "") for one in log.changes))
        source.close()
        reader.join(WAIT_S)
