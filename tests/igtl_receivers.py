"""Receivers of OpenIGTLink messages: a plain one that checks every byte, and others' own."""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyigtl
from fastcrc.crc64 import ecma_182
from numpy.typing import NDArray

from stages.closing import Closing

WAIT_S = 20.0


@dataclass(frozen=True)
class Received:
    """A message whose check sum is right."""

    type: str
    device: str
    version: int
    unix_ns: int
    content: bytes
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """(H, W) of an IMAGE of one slice of uint8."""
        assert struct.unpack(">HBB", self.content[:4]) == (1, 1, 3)
        width, height, slices = struct.unpack(">3H", self.content[6:12])
        assert slices == 1
        return np.frombuffer(self.content, np.uint8, offset=72).reshape(height, width)

    @property
    def numbers(self) -> NDArray[np.float64]:
        """(12,): vectors i, j, k and the centre of an IMAGE."""
        return np.array(struct.unpack(">12f", self.content[12:60]))

    @property
    def code(self) -> int:
        """Of a STATUS."""
        return int(struct.unpack(">H", self.content[:2])[0])


def parse(data: bytes) -> Received:
    """One whole message."""
    head = struct.unpack(">H12s20sIIQQ", data[:58])
    version, kind, device, seconds, fraction, size, crc = head
    body = data[58:]
    assert len(body) == size
    assert ecma_182(body) == crc, "a wrong check sum"
    ns = seconds * 1_000_000_000 + round(fraction * 1e9 / 2**32)
    metadata: dict[str, str] = {}
    if version > 1:
        own, header, rest, _ = struct.unpack(">HHII", body[:12])
        end = len(body) - header - rest
        metadata = _metadata(body[end : end + header], body[end + header :])
        body = body[own:end]
    return Received(_text(kind), _text(device), version, ns, body, metadata)


def messages(data: bytes) -> Iterator[Received]:
    """Messages that lie one behind the other."""
    while data:
        size = 58 + struct.unpack(">Q", data[42:50])[0]
        yield parse(data[:size])
        data = data[size:]


def _text(padded: bytes) -> str:
    return padded.rstrip(b"\0").decode()


def _metadata(header: bytes, body: bytes) -> dict[str, str]:
    found = {}
    for at in range(struct.unpack(">H", header[:2])[0]):
        key, _, value = struct.unpack(">HHI", header[2 + 8 * at : 10 + 8 * at])
        found[body[:key].decode()] = body[key : key + value].decode()
        body = body[key + value :]
    assert not body
    return found


class Receiver(Closing):
    """A client that reads message by message; with `window` bytes it is soon a slow one."""

    def __init__(self, endpoint: str, window: int | None = None) -> None:
        host, port = address(endpoint)
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        if window is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        self.socket.settimeout(WAIT_S)
        self.socket.connect((host, port))
        self._data = bytearray()

    def next(self) -> Received:
        """The next message; raises `EOFError` at the end of the stream."""
        size = 58
        for _ in range(2):  # the header, then all of it; what came stays, should it time out
            while len(self._data) < size:
                part = self.socket.recv(min(size - len(self._data), 1 << 16))
                if not part:
                    raise EOFError
                self._data += part
            size = 58 + struct.unpack(">Q", self._data[42:50])[0]
        data, self._data = bytes(self._data), bytearray()
        return parse(data)

    def rest(self) -> list[Received]:
        """All messages until the end of the stream."""
        found = []
        with suppress(EOFError):
            while True:
                found.append(self.next())
        return found

    def until(self, kind: str, device: str | None = None) -> Received:
        """The next of that type, and device."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            found = self.next()
            if found.type == kind and device in (None, found.device):
                return found
        raise TimeoutError(f"no {kind} came")

    def until_code(self, code: int) -> Received:
        """The next STATUS of that code."""
        while (found := self.until("STATUS")).code != code:
            pass
        return found

    def close(self) -> None:
        self.socket.close()


def address(endpoint: str) -> tuple[str, int]:
    """Host and port of tcp://HOST:PORT."""
    match = re.fullmatch(r"tcp://\[?(.+?)\]?:(\d+)", endpoint)
    assert match is not None
    return match[1], int(match[2])


@contextmanager
def pyigtl_client(endpoint: str) -> Iterator[Any]:
    """A connected PyIGTL client."""
    host, port = address(endpoint)
    client = pyigtl.OpenIGTLinkClient(host, port)
    try:
        yield client
    finally:
        client.stop()


def pyigtl_message(client: Any, device: str) -> Any:
    """The newest message of a device."""
    found = client.wait_for_message(device, timeout=WAIT_S)
    assert found is not None, f"PyIGTL got nothing from {device}"
    return found


def fnv(pixels: NDArray[np.uint8]) -> int:
    """The 32-bit FNV-1a sum of the pixels, as igtl_receiver.cxx has it."""
    total = 2166136261
    for value in pixels.tobytes():
        total = (total ^ value) * 16777619 & 0xFFFFFFFF
    return total
