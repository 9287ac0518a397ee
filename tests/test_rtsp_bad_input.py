"""What a broken or hostile RTSP server sends: told in one line, survived, and forgotten when the
next connection is good."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import av
import numpy as np
import psutil
import pytest
from rtsp_script import (
    AUDIO_SDP,
    STEP,
    Rtp,
    Script,
    ScriptedServer,
    answer,
    lossy,
    nals,
    new_sender,
    packets,
    play,
    requests,
    serve,
)
from test_sources_rtsp import (
    Log,
    aside,
    eventually,
    feed_threads,
    log,
    memory,
    open_source,
    read_until,
)

from stages.base import Picture
from stages.sources.av_feed import TURNS
from stages.sources.rtsp import RtspSource
from stages.sources.stream_url import StreamUrl

__all__ = ["log", "open_source"]  # fixtures

PICTURES = nals(200)
OPTIONS = {"reconnect_after_s": 1.5, "connect_within_s": 2.5, "stale_after_s": 0.5}
MANY_MB = 60
Open = Callable[..., RtspSource]


def reply(status: str, *more: str, body: str = "", to: str = "DESCRIBE") -> Script:
    """Answers like this to one method, and well before."""

    def script(client: socket.socket) -> None:
        for method, number in requests(client):
            if method == to:
                answer(client, number, status, *more, body=body)
            else:
                answer(client, number)

    return script


def raw(data: bytes, *, stay: bool = False) -> Script:
    """Says this before it is asked anything."""

    def script(client: socket.socket) -> None:
        client.sendall(data)
        while stay and client.recv(4096):
            pass

    return script


def endless(piece: bytes) -> Script:
    def script(client: socket.socket) -> None:
        while True:
            client.sendall(piece)

    return script


def garbage(count: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(count)


def unkeyed() -> list[Rtp]:
    """A picture that refers to one before it, again and again."""
    return packets([picture for picture in PICTURES if len(picture) == 1][:100])


BAD: dict[str, tuple[Script, str]] = {
    "goes at once": (raw(b""), ""),
    "says nothing": (raw(b"", stay=True), "for 2."),
    "half a header and goes": (raw(b"RTSP/1.0 200 O"), ""),
    "half a header and stays": (raw(b"RTSP/1.0 200 O", stay=True), "for 2."),
    "noise": (raw(garbage(100_000, 1), stay=True), ""),
    "a web page": (raw(b"HTTP/1.1 200 OK\r\n\r\n<html>hello</html>", stay=True), ""),
    "a web page as description": (reply("200 OK", body="<html><body>hello</body></html>"), ""),
    "endless header": (endless(b"X-More: more\r\n"), ""),
    "endless line": (endless(b"x" * 4096), ""),
    "401": (reply("401 Unauthorized", 'WWW-Authenticate: Basic realm="x"'), "401"),
    "403": (reply("403 Forbidden"), "403"),
    "404": (reply("404 Not Found"), "404"),
    "500": (reply("500 Internal Server Error"), "5XX"),
    "moved to a file": (reply("301 Moved", "Location: file:///etc/passwd", to="OPTIONS"), ""),
    "description without video": (serve([], AUDIO_SDP), "no video"),
    "description of noise": (reply("200 OK", body=garbage(2000, 2).decode("latin-1")), ""),
    "description of nothing": (reply("200 OK", body="v=0\r\n"), ""),
    "endless description": (reply("200 OK", "Content-Length: 2000000000", body="v=0\r\n"), ""),
    "no picture after all": (serve([]), "for 2."),
    "noise between the packets": (serve([garbage(50_000, 4)]), ""),
    "packets of noise": (
        serve([Rtp(garbage(900, n), n, n * STEP, True, 0.01) for n in range(100)]),
        "",
    ),
    "never a keyframe": (serve(unkeyed()), "no picture for"),
}


@pytest.mark.parametrize(("bad", "why"), BAD.values(), ids=BAD.keys())
def test_it_is_told_and_the_next_good_connection_works(
    open_source: Open, log: Log, bad: Script, why: str
) -> None:
    before_mb = psutil.Process().memory_info().rss / 1e6
    descriptors = len(os.listdir("/proc/self/fd"))
    with ScriptedServer(bad, serve(packets(PICTURES))) as server:
        source = open_source(server.url, **OPTIONS)
        picture = source.read(memory)
        assert picture is not None
        assert picture.pixels.shape == (48, 64, 3)
        source.close()
    assert log.states == ["connecting", "reconnecting", "streaming"]
    reason = log.changes[1].reason
    assert reason
    assert why in reason
    assert "\n" not in reason
    assert "://" not in reason.removeprefix(f"{StreamUrl(server.url).place}: "), "no path"
    assert psutil.Process().memory_info().rss / 1e6 - before_mb < MANY_MB
    eventually(lambda: not feed_threads())
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)


def test_a_server_that_moves_to_itself_for_ever_is_given_up(open_source: Open, log: Log) -> None:
    good, until = serve(packets(PICTURES)), time.monotonic() + 3.0

    def turn(client: socket.socket) -> None:
        here = f"rtsp://127.0.0.1:{client.getsockname()[1]}/test"
        moved = reply("301 Moved Permanently", f"Location: {here}", to="OPTIONS")
        (moved if time.monotonic() < until else good)(client)

    with ScriptedServer(turn) as server:
        source = open_source(server.url, **OPTIONS)
        assert source.read(memory) is not None
        source.close()
    assert log.states[0] == "connecting"
    assert log.states[-1] == "streaming"
    eventually(lambda: not feed_threads())


def cut_off() -> list[Rtp | bytes]:
    """Ten pictures, and of the eleventh, a keyframe, a slice in three."""
    return [*packets(nals(11, keyframes=10, slices=3))[:-2]]


def hang_up(client: socket.socket) -> None:
    client.shutdown(socket.SHUT_RDWR)


def test_half_a_picture_at_the_end_is_not_shown(open_source: Open, log: Log) -> None:
    with ScriptedServer(serve(cut_off(), then=hang_up), serve(packets(PICTURES))) as server:
        source = open_source(server.url, **OPTIONS)
        shown = 0
        while (picture := source.read(memory)) is not None and picture.epoch == 0:
            shown += 1
    assert shown == 10


def test_ffmpeg_would_show_it() -> None:
    with (
        ScriptedServer(serve(cut_off(), then=hang_up)) as server,
        av.open(server.url, options={"rtsp_transport": "tcp", "probesize": "32"}) as stream,
    ):
        assert sum(1 for _ in stream.decode(video=0)) == 11


def test_a_stream_that_stays_late_shows_its_age_and_is_connected_to_anew(
    open_source: Open, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.sources.lag._LATE_FOR_S", 0.5)
    slow = [replace(one, wait_s=2 * one.wait_s) for one in packets(PICTURES)]
    with ScriptedServer(serve(slow)) as server:
        source = open_source(server.url, max_lag_s=0.3, **OPTIONS)
        ages_s = []

        def new_epoch(picture: Picture) -> bool:
            ages_s.append((time.monotonic_ns() - picture.captured_ns) / 1e9)
            return picture.epoch == 1

        read_until(source, new_epoch)
        assert server.connections == 2
    assert max(ages_s) > 0.3
    reason = str(log.changes[2].reason)
    assert "late by the sender's clock and does not catch up" in reason
    assert "max_lag_s: null" in reason


def test_a_clock_that_is_not_to_be_believed_makes_nothing_late(
    open_source: Open, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.sources.lag._LATE_FOR_S", 0.5)
    slow = [replace(one, wait_s=2 * one.wait_s) for one in packets(PICTURES[:60])]
    with ScriptedServer(serve(slow)) as server:
        source = open_source(server.url, max_lag_s=None, **OPTIONS)
        for _ in range(50):
            assert source.read(memory) is not None
        assert server.connections == 1


# Streams that come slowly, or never


def test_a_server_that_takes_longer_to_answer_than_a_silence_may_last_is_waited_for(
    open_source: Open, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.sources.second_try.ANSWER_S", 60.0)  # however busy the machine is

    def slow(client: socket.socket) -> None:
        time.sleep(2.5)
        serve(packets(PICTURES))(client)

    def late(client: socket.socket) -> None:
        serve([], then=lambda client: (time.sleep(2.5), play(client, packets(PICTURES))))(client)  # type: ignore[func-returns-value]

    for script in (slow, late):
        log.events.clear()
        with ScriptedServer(script) as server:
            source = open_source(
                server.url, stale_after_s=0.5, reconnect_after_s=1.0, connect_within_s=30
            )
            assert source.read(memory) is not None
            assert server.connections == 1
            source.close()
        assert log.states == ["connecting", "streaming"]


def test_a_call_that_got_lost_is_made_again_while_it_is_waited_for(
    open_source: Open, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.sources.second_try.ANSWER_S", 0.3)
    lost = raw(b"", stay=True)
    with ScriptedServer(lost, serve(packets(PICTURES))) as server:
        source = open_source(server.url, connect_within_s=60)
        began = time.monotonic()
        assert source.read(memory) is not None
        assert time.monotonic() - began < 30, "not after 60"
        assert "h264" in source.description
        assert server.connections == 2
    assert log.states == ["connecting", "streaming"]
    source.close()
    eventually(lambda: not feed_threads())


def test_attempts_that_were_given_up_stay_few_and_end(
    open_source: Open, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wait in ("FIRST_S", "LAST_S"):
        monkeypatch.setattr(f"stages.sources.backoff.{wait}", 0.1)
    limits = {"stale_after_s": 0.1, "reconnect_after_s": 30, "connect_within_s": 0.2}
    with ScriptedServer(serve([])) as server:  # a stream without a picture: the read goes on
        source = open_source(server.url, **limits)
        reader = aside(lambda: source.read(memory))
        eventually(lambda: server.connections >= TURNS)
        most = 0
        for _ in range(40):
            time.sleep(0.05)
            most = max(most, len(feed_threads()))
        # On a busy machine the opening itself may be given up, and its turn goes to the next.
        assert most <= TURNS + 2, "those that wait for a turn end when they are given up"
        source.close()
        reader.join(20)
    eventually(lambda: not feed_threads())


def test_a_server_that_never_answers_is_let_go_soon_after_the_close(
    open_source: Open, log: Log
) -> None:
    limits = {"reconnect_after_s": 30, "connect_within_s": 0.5}
    with ScriptedServer(raw(b"", stay=True)) as server:
        source = open_source(server.url, **limits)
        reader = aside(lambda: source.read(memory))
        eventually(lambda: server.connections >= 2)
        source.close()
        reader.join(20)
        began = time.monotonic()
        eventually(lambda: not feed_threads())
        assert time.monotonic() - began < 10, "not after 30"


# Streams that are odd, and go on

ODD: dict[str, list[Rtp | bytes]] = {
    "as it should be": [*packets(PICTURES)],
    "sequence numbers wrap": [*packets(PICTURES, sequence=65_500)],
    "time stamps wrap": [*packets(PICTURES, range(2**32 - 20 * STEP, 2**33, STEP))],
    "one in ten lost, one in ten swapped": [*lossy(packets(PICTURES), 0.1)],
    "another sender": [*new_sender(packets(PICTURES), 60)],
    "time stamps stand still": [*packets(PICTURES, [0] * len(PICTURES))],
    "an hour passes at once": [
        *packets(PICTURES, [n * STEP + (n >= 20) * 3600 * 90_000 for n in range(200)])
    ],
}


@pytest.mark.parametrize("sent", ODD.values(), ids=ODD.keys())
def test_an_odd_stream_gives_pictures_on_one_connection(
    open_source: Open, log: Log, sent: list[Rtp | bytes]
) -> None:
    with ScriptedServer(serve(sent)) as server:
        source = open_source(server.url, **OPTIONS)
        begin = time.monotonic()
        shown = 0
        while time.monotonic() - begin < 3.0:
            picture = source.read(memory)
            assert picture is not None
            assert picture.pixels.std() < 3, "one grey, not half another"
            shown += 1
        assert server.connections == 1
    assert shown >= 10
    assert "reconnecting" not in log.states


def test_time_that_runs_backwards_begins_an_epoch(open_source: Open, log: Log) -> None:
    stamps = [n * STEP for n in range(50, 90)] + [n * STEP for n in range(160)]
    with ScriptedServer(serve(packets(PICTURES, stamps))) as server:
        source = open_source(server.url, **OPTIONS)
        captured: list[int] = []

        def new_epoch(picture: Picture) -> bool:
            captured.append(picture.captured_ns)
            return picture.epoch == 1

        read_until(source, new_epoch)
        assert server.connections == 1
        assert captured == sorted(captured), "our own clock does not"
        for _ in range(10):
            picture = source.read(memory)
            assert picture is not None
            assert picture.epoch == 1


@pytest.mark.parametrize("size", [(128, 96), (32, 16)])
def test_another_size_begins_an_epoch(open_source: Open, log: Log, size: tuple[int, int]) -> None:
    first, second = PICTURES[:30], nals(100, size)
    with ScriptedServer(serve(packets([*first, *second]))) as server:
        source = open_source(server.url, **OPTIONS)
        picture = read_until(source, lambda picture: picture.epoch == 1)
        assert picture.pixels.shape == (size[1], size[0], 3)
        assert server.connections == 1


def test_a_size_above_the_limit_is_never_taken_in(
    open_source: Open, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.sources.av_open.SIZE_LIMIT", {"max_pixels": "2000"})
    with ScriptedServer(serve(packets(PICTURES))) as server:
        source = open_source(server.url, **OPTIONS)
        threading.Timer(4.5, source.close).start()
        assert source.read(memory) is None
    assert "streaming" not in log.states
