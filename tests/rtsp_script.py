"""A small RTSP server of our own that sends what no proper server would: `ScriptedServer`.

It answers OPTIONS, DESCRIBE, SETUP and PLAY for one H.264 stream over the same connection, and then
sends the RTP packets that it is given. A script may answer anything else instead.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from types import TracebackType

import av
import numpy as np

CLOCK_HZ = 90_000
FPS = 25
STEP = CLOCK_HZ // FPS
SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nt=0 0\r\n"
    "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\n"
    "a=control:track1\r\n"
)
AUDIO_SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nt=0 0\r\n"
    "m=audio 0 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\na=control:track1\r\n"
)
Script = Callable[[socket.socket], None]
"""Serves one connection."""


@dataclass(frozen=True, slots=True)
class Rtp:
    """One RTP packet, to be sent so many seconds after the one before."""

    payload: bytes
    sequence: int
    stamp: int
    marker: bool
    wait_s: float = 0.0
    source: int = 0x1234

    def framed(self) -> bytes:
        """Interleaved, as RTSP carries it over TCP."""
        second = 96 | (0x80 if self.marker else 0)
        header = struct.pack(
            ">BBHII", 0x80, second, self.sequence & 0xFFFF, self.stamp & 0xFFFFFFFF, self.source
        )
        return struct.pack(">cBH", b"$", 0, len(header + self.payload)) + header + self.payload


def nals(
    count: int, size: tuple[int, int] = (64, 48), keyframes: int = 10, slices: int = 1
) -> list[list[bytes]]:
    """`count` encoded pictures of (width, height), each a brighter grey, as their NAL units."""
    made = av.CodecContext.create("libx264", "w")
    made.width, made.height, made.pix_fmt = *size, "yuv420p"
    made.framerate, made.time_base = FPS, Fraction(1, FPS)
    made.options = {
        "preset": "ultrafast",
        "tune": "zerolatency",
        "x264-params": f"keyint={keyframes}:repeat-headers=1:annexb=1:threads=1:sliced-threads=0"
        f":slices={slices}",
    }
    pictures = []
    for index in range(count):
        grey = np.full((size[1], size[0], 3), 40 + index % 100, np.uint8)
        frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
        frame.pts = index
        pictures += [bytes(packet) for packet in made.encode(frame)]
    return [[nal for nal in re.split(b"\0\0\0?\1", one) if nal] for one in pictures]


def packets(
    pictures: Sequence[Sequence[bytes]], stamps: Iterable[int] | None = None, sequence: int = 0
) -> list[Rtp]:
    """An RTP packet a NAL unit, in real time."""
    times = iter(stamps) if stamps is not None else iter(range(0, STEP * len(pictures), STEP))
    made = []
    for picture in pictures:
        stamp = next(times)
        for place, nal in enumerate(picture):
            assert len(nal) < 1 << 15
            last = place == len(picture) - 1
            made.append(Rtp(nal, sequence, stamp, last, 0.0 if place else 1 / FPS))
            sequence += 1
    return made


def lossy(sent: Sequence[Rtp], share: float, seed: int = 3) -> list[Rtp]:
    """Some packets lost, some swapped with the one after."""
    rng = np.random.default_rng(seed)
    kept = [one for one in sent if rng.random() >= share]
    for place in range(len(kept) - 1):
        if rng.random() < share:
            kept[place], kept[place + 1] = kept[place + 1], kept[place]
    return kept


def new_sender(sent: Sequence[Rtp], at: int) -> list[Rtp]:
    """From packet ``at`` on, another SSRC with sequence numbers of its own."""
    return [
        *sent[:at],
        *(replace(one, source=99, sequence=one.sequence + 777) for one in sent[at:]),
    ]


def requests(client: socket.socket) -> Iterator[tuple[str, str]]:
    """(method, CSeq) of what the client asks, to the end."""
    waiting = b""
    while True:
        while b"\r\n\r\n" not in waiting:
            data = client.recv(4096)
            if not data:
                return
            waiting += data
        head, _, waiting = waiting.partition(b"\r\n\r\n")
        text = head.decode("latin-1")
        found = re.search(r"CSeq: *(\d+)", text, re.IGNORECASE)
        yield text.partition(" ")[0], found[1] if found else "0"


def answer(
    client: socket.socket, number: str, status: str = "200 OK", *more: str, body: str = ""
) -> None:
    lines = [f"RTSP/1.0 {status}", f"CSeq: {number}", *more]
    if body:
        lines += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
    client.sendall(("\r\n".join(lines) + "\r\n\r\n" + body).encode())


def serve(sent: Sequence[Rtp | bytes], sdp: str = SDP, then: Script | None = None) -> Script:
    """Plays `sent` (raw bytes as they are), then does `then`, or waits for the client to go."""

    def script(client: socket.socket) -> None:
        for method, number in requests(client):
            match method:
                case "DESCRIBE":
                    answer(client, number, body=sdp)
                case "SETUP":
                    answer(
                        client,
                        number,
                        "200 OK",
                        "Transport: RTP/AVP/TCP;unicast;interleaved=0-1",
                        "Session: 1",
                    )
                case "PLAY":
                    answer(client, number, "200 OK", "Session: 1")
                    break
                case _:
                    answer(client, number, "200 OK", "Public: DESCRIBE, SETUP, PLAY")
        play(client, sent)
        if then is not None:
            then(client)
        while client.recv(4096):
            pass

    return script


def play(client: socket.socket, sent: Sequence[Rtp | bytes]) -> None:
    pause = threading.Event()
    for one in sent:
        if isinstance(one, Rtp):
            pause.wait(one.wait_s)
            client.sendall(one.framed())
        else:
            client.sendall(one)


class ScriptedServer:
    """Serves each connection by the next script, those after by the last."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = scripts
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._clients: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/test"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._clients.append(client)
            script = self._scripts[min(self.connections, len(self._scripts) - 1)]
            self.connections += 1
            threading.Thread(target=self._serve, args=(script, client), daemon=True).start()

    def _serve(self, script: Script, client: socket.socket) -> None:
        try:
            script(client)
        except OSError:
            pass
        finally:
            client.close()

    def __enter__(self) -> ScriptedServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for client in self._clients:
            with suppress(OSError):  # gone already
                client.shutdown(socket.SHUT_RDWR)  # a thread that still reads it holds it open
            client.close()
