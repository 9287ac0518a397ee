"""Network video that is no RTSP: real senders, and addresses that lead elsewhere."""

from __future__ import annotations

import http.server
import io
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rtsp_peer import BARS, RGB, bars
from services import require
from test_sources_rtsp import Log, aside, eventually, feed_threads, log, memory, open_source

from stages.base import Picture
from stages.errors import SourceError
from stages.sources.av_open import knows
from stages.sources.feed import Arrival
from stages.sources.rtsp import RtspSource

__all__ = ["log", "open_source"]  # fixtures

Open = Callable[..., RtspSource]
H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "12")
MPEG2 = ("-c:v", "mpeg2video", "-b:v", "4M", "-g", "12")
SIZE = (112, 32)


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def sending(*output: str, codec: tuple[str, ...] = H264, rate: int = 25) -> Iterator[None]:
    """FFmpeg, which sends bars in real time."""
    source = ("-re", "-f", "lavfi", "-i", f"smptebars=size=336x240:rate={rate}")
    command = [require("ffmpeg"), "-v", "error", *source, *codec, "-f", "mpegts", *output]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_a_stream_over_udp(open_source: Open, log: Log) -> None:
    port = free_port(socket.SOCK_DGRAM)
    with sending(f"udp://127.0.0.1:{port}?pkt_size=1316"):
        source = open_source(f"udp://127.0.0.1:{port}", connect_within_s=30, frozen_after=None)
        for _ in range(20):
            picture = source.read(memory)
            assert picture is not None
            assert bars(picture.pixels) == BARS
        source.close()
        eventually(lambda: not feed_threads())  # which the next packet ends, or silence of 30 s
    assert log.states == ["connecting", "streaming"]


def test_what_was_read_ahead_is_not_shown_as_fresh(
    open_source: Open, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the sender's clock, each picture is as old as it is told to be, from the first one on."""
    url = f"http://127.0.0.1:{free_port()}/stream.ts"
    source = open_source(url, connect_within_s=30)
    delays_s: list[float] = []
    follow = source._picture

    def tapped(arrival: Arrival) -> Picture:
        assert arrival.sender_ns is not None
        delays_s.append((arrival.captured_ns - arrival.sender_ns) / 1e9)
        return follow(arrival)

    monkeypatch.setattr(source, "_picture", tapped)
    with sending("-listen", "1", url, codec=(*H264, "-g", "100"), rate=10):
        for _ in range(15):
            assert source.read(memory) is not None
    assert max(delays_s) - min(delays_s) < 0.7, "FFmpeg would read two seconds ahead"


@pytest.mark.parametrize(
    "codecs", [(H264, H264), (H264, MPEG2)], ids=["as before", "another codec"]
)
def test_a_stream_over_http_that_ends_is_asked_for_again(
    open_source: Open, log: Log, codecs: tuple[tuple[str, ...], ...]
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/stream.ts"
    source = open_source(url, connect_within_s=30, frozen_after=None)
    for epoch, codec in enumerate(codecs):
        with sending("-listen", "1", url, codec=codec):
            while (picture := source.read(memory)) is not None and picture.epoch < epoch:
                pass
            assert picture is not None
            assert bars(picture.pixels) == BARS
    assert log.states.count("streaming") == 2


class Web(http.server.BaseHTTPRequestHandler):
    """What each path of a web server does."""

    asked: list[str]
    clip: Path

    def do_GET(self) -> None:
        self.asked.append(self.path)
        {
            "/camera": self._camera,
            "/page": lambda: self._say(200, b"<html>hello</html>", "text/html"),
            "/moved": lambda: self._say(302, b"", Location=self.clip.as_uri()),
            "/list": lambda: self._say(200, self._list(), "application/vnd.apple.mpegurl"),
            "/concat": lambda: self._say(
                200, f"ffconcat version 1.0\nfile '{self.clip}'\n".encode(), "text/plain"
            ),
        }.get(self.path, lambda: self._say(404, b""))()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def _say(self, status: int, body: bytes, kind: str = "text/plain", **more: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _list(self) -> bytes:
        return f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{self.clip.as_uri()}\n".encode()

    def _camera(self) -> None:
        """One JPEG after another, as simple cameras do."""
        row = np.repeat(np.array([RGB[name] for name in BARS], np.uint8), SIZE[0] // 7, axis=0)
        out = io.BytesIO()
        Image.fromarray(np.tile(row, (SIZE[1], 1, 1))).save(out, "JPEG", quality=95, subsampling=0)
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
        self.end_headers()
        try:
            while True:
                head = (
                    f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {len(out.getvalue())}"
                )
                self.wfile.write(head.encode() + b"\r\n\r\n" + out.getvalue() + b"\r\n")
                time.sleep(0.04)
        except OSError:
            return


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of the server and what it was asked for; its clip is one that plays."""
    clip = tmp_path / "clip.ts"
    source = ("-f", "lavfi", "-i", "smptebars=size=336x240:rate=25:duration=2")
    command = [require("ffmpeg"), "-v", "error", *source, *H264, str(clip)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    handler = type("OurWeb", (Web,), {"asked": [], "clip": clip})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", handler.asked
        server.shutdown()


def test_jpegs_one_after_another_over_http(
    open_source: Open, log: Log, web: tuple[str, list[str]]
) -> None:
    source = open_source(f"{web[0]}/camera", frozen_after=None, connect_within_s=30)
    for _ in range(20):
        picture = source.read(memory)
        assert picture is not None
        assert bars(picture.pixels) == BARS
    source.close()
    eventually(lambda: not feed_threads())


@pytest.mark.parametrize("path", ["/moved", "/list", "/concat", "/page", "/none"])
def test_no_answer_leads_to_a_file_or_another_address(
    open_source: Open, log: Log, web: tuple[str, list[str]], path: str
) -> None:
    source = open_source(f"{web[0]}{path}")
    reader = aside(lambda: source.read(memory))
    eventually(lambda: web[1].count(path) >= 2)
    source.close()
    reader.join(20)
    assert set(web[1]) == {path}
    assert log.states[:2] == ["connecting", "reconnecting"]
    assert "streaming" not in log.states
    assert "clip" not in str(log.changes)


def test_the_clip_would_play(web: tuple[str, list[str]], tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "clip.ts")) as clip:
        assert sum(1 for _ in clip.decode(video=0)) > 10


def test_what_this_ffmpeg_cannot_is_told_at_once(open_source: Open, log: Log) -> None:
    assert knows("tcp")
    assert knows("tls")
    assert not knows("carrierpigeon")
    if knows("srt"):
        pytest.skip("this FFmpeg has srt")
    with pytest.raises(SourceError, match=r"this FFmpeg was built without srt, expected an"):
        open_source(f"srt://127.0.0.1:{free_port()}")
    assert log.states == []
