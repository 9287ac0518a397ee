"""A TCP proxy that breaks what passes through it: `ChaosProxy`, to stand between real peers.

    with ChaosProxy("127.0.0.1", server_port) as proxy:
        client.connect("127.0.0.1", proxy.port)
        proxy.faults.cut_at = 1000    # after so many more bytes both ends get a reset
        proxy.stall()                 # nothing passes, the connections stay
        proxy.cut(); proxy.refuse()   # reset all; and nobody can connect until `accept`

What the server sends is broken; what the client sends passes as it is. Everything may be called
from the test's thread while bytes flow.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import pairwise
from types import TracebackType
from typing import TypeVar

_CHUNK = 1 << 16
_CALL_S = 10.0
T = TypeVar("T")


@dataclass(slots=True)
class Faults:
    """What happens to the bytes that the server sends, until it is set otherwise.

    Offsets count the bytes sent to clients from the moment of setting (`cut_at`) or from the
    beginning of each connection (`flip_bits`, `split_at`).
    """

    cut_at: int | None = None
    """Reset every connection after so many more bytes, once."""
    flip_bits: set[int] = field(default_factory=set)
    """Positions of bits (8 x byte + bit) that arrive inverted."""
    split_at: set[int] = field(default_factory=set)
    """Bytes before which the stream pauses for `pause_s`, so that they begin a read."""
    split_every: int | None = None
    """The stream pauses after each so many bytes: 1 is a read a byte, with `pause_s` a drip."""
    pause_s: float = 0.002


class _Link:
    """One client and its connection to the server."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.writers = (client, server)
        self.sent = 0
        """Bytes passed to the client."""

    def reset(self) -> None:
        for writer in self.writers:
            raw = writer.get_extra_info("socket")
            if raw is not None and raw.fileno() >= 0:
                # Lingering for no time makes closing a reset, as a pulled plug at a router would.
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            writer.transport.abort()


class ChaosProxy:
    """Listens on 127.0.0.1 (`port`) and passes everything to ``host``:``port``."""

    def __init__(self, host: str, port: int) -> None:
        self.faults = Faults()
        self.connections = 0
        """Clients taken in so far."""
        self.passed = 0
        """Bytes passed to clients so far."""
        self.port = 0
        self._target = (host, port)
        self._links: set[_Link] = set()
        self._flowing: asyncio.Event
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chaos", daemon=True)

    def __enter__(self) -> ChaosProxy:
        self._thread.start()
        self._call(self._begin)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._call(self._end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_S)
        self._loop.close()

    @property
    def open_links(self) -> int:
        """Clients connected now."""
        return len(self._links)

    def cut(self) -> None:
        """Reset every connection now."""
        self._call(self._cut)

    def stall(self) -> None:
        """Pass nothing more, either way; new clients are taken in and get nothing."""
        self._call(self._stall)

    def resume(self) -> None:
        """Undo `stall`."""
        self._call(self._resume)

    def refuse(self) -> None:
        """Reset every connection and take in nobody."""
        self._call(self._refuse)

    def accept(self) -> None:
        """Undo `refuse`."""
        self._call(self._listen)

    def _call(self, what: Callable[[], object]) -> None:
        done: Future[object] = asyncio.run_coroutine_threadsafe(_awaited(what), self._loop)
        done.result(_CALL_S)

    async def _begin(self) -> None:
        self._flowing = asyncio.Event()
        self._flowing.set()
        await self._listen()

    async def _end(self) -> None:
        await self._refuse()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._take_in, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._cut()

    def _cut(self) -> None:
        for link in tuple(self._links):
            link.reset()

    def _stall(self) -> None:
        self._flowing.clear()

    def _resume(self) -> None:
        self._flowing.set()

    async def _take_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except (OSError, asyncio.CancelledError):
            _Link(writer, writer).reset()
            return
        link = _Link(writer, far_writer)
        for one in link.writers:
            one.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._links.add(link)
        try:
            await asyncio.gather(self._up(reader, far_writer), self._down(far_reader, writer, link))
        except (OSError, asyncio.CancelledError):  # the latter when the proxy is closed
            link.reset()
        finally:
            self._links.discard(link)
            for one in link.writers:
                one.close()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    async def _down(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link
    ) -> None:
        while data := await reader.read(_CHUNK):
            for piece in self._pieces(bytearray(data), link.sent):
                await self._flowing.wait()
                await self._pass(bytes(piece), writer, link)
        if writer.can_write_eof():
            writer.write_eof()

    def _pieces(self, data: bytearray, begin: int) -> Iterator[bytearray]:
        """`data`, the first byte of which is the connection's `begin`-th, flipped and split."""
        faults, end = self.faults, begin + len(data)
        for bit in faults.flip_bits:
            if begin <= bit // 8 < end:
                data[bit // 8 - begin] ^= 1 << (bit % 8)
        edges = {edge - begin for edge in faults.split_at if begin < edge < end}
        if faults.split_every is not None:
            edges |= set(range(faults.split_every, len(data), faults.split_every))
        at = [0, *sorted(edges), len(data)]
        for left, right in pairwise(at):
            yield data[left:right]

    async def _pass(self, piece: bytes, writer: asyncio.StreamWriter, link: _Link) -> None:
        faults = self.faults
        left = faults.cut_at
        if left is not None and left <= len(piece):
            piece = piece[:left]
        writer.write(piece)
        await writer.drain()
        link.sent += len(piece)
        self.passed += len(piece)
        if left is not None:
            faults.cut_at = left - len(piece)
            if faults.cut_at <= 0:
                faults.cut_at = None
                self._cut()
                raise ConnectionResetError
        if faults.split_at or faults.split_every is not None:
            await asyncio.sleep(faults.pause_s)


async def _awaited(what: Callable[[], object]) -> object:
    found = what()
    return await found if asyncio.iscoroutine(found) else found
