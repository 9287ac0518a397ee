"""Results whose masks never leave the device, for programs on the same host: `IpcSubscriber`.

    with IpcSubscriber("tcp://127.0.0.1:5556", "ipc:///run/user/1000/.../ring") as results:
        while (result := results.receive()) is not None:
            result.masks()  # bool (n, H, W), torch, on the GPU of the run

Experimental: the CUDA part has not run on a GPU yet, see `stages/cuda_ring.py`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import torch
import zmq
from torch import Tensor

from stages.closing import Closing
from stages.connecting import connect
from stages.cuda_ring import KIND, CudaView
from stages.curve_keys import ClientKeys
from stages.errors import ConfigError
from stages.ring_block import Copied
from stages.ring_place import ASK, RingError, RingPlace, read_place
from stages.wire import MAX_MESSAGE_BYTES, ResultMessage, decode, topic
from stages.wire_envelope import opened

_ANSWER_S: Final = 1.0
_MAX_ANSWER_BYTES: Final = 1 << 20


class RingView(Protocol):
    """A ring of another process."""

    def copy(self, slot: int, nbytes: int) -> Copied:
        """So many bytes of a slot's data, in memory of our own, and its generation before and
        after. Raises `RingError` for what does not lie in the ring."""


Opener = Callable[[Mapping[str, object]], RingView]


@dataclass(frozen=True, slots=True, eq=False)
class IpcResult:
    """One result, with its masks on the device."""

    message: ResultMessage
    packed: Tensor
    """uint8 (n, h, ceil(w / 8)), a row an object, (h, w) the part of the picture that was
    segmented; bits in the order of `numpy.packbits`. Memory of the reader's own."""
    width: int
    """w."""
    origin_yx: tuple[int, int]
    """Where that part begins in the picture."""

    def masks(self) -> Tensor:
        """bool (n, h, w) on the same device."""
        shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=self.packed.device)
        bits = (self.packed.unsqueeze(-1) >> shifts) & 1
        return bits.flatten(-2)[..., : self.width].bool()


class IpcSubscriber(Closing):
    """Takes the results' headers from the ZMQ endpoint and their masks from the ring. One thread.

    `torn` counts results whose slot was written again before they were copied, `without` those
    that came without a place in the ring (none is told before the first reader has come), `lost`
    those missing in `seq`.
    """

    def __init__(
        self,
        results: str,
        ring: str,
        source_id: str | None = None,
        *,
        keys: ClientKeys | None = None,
        openers: Mapping[str, Opener] | None = None,
    ) -> None:
        """``ring``: `cuda_ipc` in the run's endpoints.json. ``keys``: for results with CURVE (the
        ring needs none, only this user may enter its folder). ``openers`` by kind of ring; None:
        CUDA's. Raises `ConfigError` for endpoints that are none."""
        self.torn = 0
        self.without = 0
        self.lost = 0
        self._next_seq: dict[str, int] = {}
        self._ring_endpoint = ring
        self._openers = {KIND: CudaView} if openers is None else dict(openers)
        self._views: dict[str, RingView] = {}
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.subscribe(b"result/" if source_id is None else topic("result", source_id))
        try:
            connect(self._socket, results, _OPTIONS, keys)
        except ConfigError:
            self.close()
            raise

    def receive(self, timeout_s: float | None = None) -> IpcResult | None:
        """The next result whose masks are still there, or None when none came in time; None as
        the time means for ever. Until the ring is open, up to 1 s goes into asking for it.

        Raises `WireError` for a message that cannot be read, `RingError` for a ring that cannot
        be opened; the next call goes on.
        """
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = deadline - time.monotonic()
            wait_ms = None if math.isinf(left_s) else math.ceil(max(0.0, left_s) * 1e3)
            if not self._views:
                self._open()  # so that the run begins to fill it
            if not self._socket.poll(wait_ms):
                return None
            result = self._take(self._socket.recv(zmq.NOBLOCK))
            if result is not None:
                return result

    def close(self) -> None:
        self._views.clear()
        self._socket.close(linger=0)
        self._context.term()

    def _take(self, data: bytes) -> IpcResult | None:
        message = decode(data)
        if not isinstance(message, ResultMessage):
            return None
        expected = self._next_seq.get(message.source_id, message.seq)
        self.lost += max(0, message.seq - expected)
        self._next_seq[message.source_id] = message.seq + 1
        place = read_place(opened(memoryview(data))[1])
        view = None if place is None else self._view(place.ring)
        if place is None or view is None:
            self.without += 1
            return None
        return self._copied(message, place, view)

    def _copied(self, message: ResultMessage, place: RingPlace, view: RingView) -> IpcResult | None:
        copied = view.copy(place.slot, place.nbytes)
        if not copied.before == copied.after == place.generation:
            self.torn += 1
            return None
        packed = copied.data.view(place.shape)[list(place.rows)]
        return IpcResult(message, packed, place.width, place.origin_yx)

    def _view(self, ring: str) -> RingView | None:
        """That ring, opened where it has not been yet; the ring of a run that is over is let
        go."""
        if ring not in self._views:
            self._open()
        return self._views.get(ring)

    def _open(self) -> None:
        told = self._ask()
        if told is None:
            return
        ring, kind = str(told.get("ring")), str(told.get("kind"))
        if kind not in self._openers:
            known = ", ".join(self._openers)
            raise RingError(f"a ring of kind {kind!r}, expected one of {known}")
        try:
            self._views = {ring: self._openers[kind](told)}
        except (KeyError, ValueError) as error:
            raise RingError(f"the ring's owner told what cannot be used: {error}") from error

    def _ask(self) -> Mapping[str, object] | None:
        """What the ring's owner tells; None where he has none yet, or does not answer."""
        with self._context.socket(zmq.DEALER) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.MAXMSGSIZE, _MAX_ANSWER_BYTES)
            socket.connect(self._ring_endpoint)
            socket.send(ASK)
            if not socket.poll(round(_ANSWER_S * 1e3)):
                return None
            try:
                answer = json.loads(socket.recv())
            except (ValueError, RecursionError):
                answer = None
        if not isinstance(answer, dict):
            raise RingError("the ring's owner told what cannot be used: expected an object")
        return answer if answer.get("ring") is not None else None


_OPTIONS: Final = {
    zmq.RCVHWM: 4,
    zmq.LINGER: 0,
    zmq.MAXMSGSIZE: MAX_MESSAGE_BYTES,
    zmq.HANDSHAKE_IVL: 5000,
}
"""No heartbeats: on a socket that connects, and whose queue is full, they end in an assertion of
libzmq's (its issue 3937, 4.3.5), and on one host no connection dies without a word."""
