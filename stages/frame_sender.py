"""FrameSender: pictures into a run from any program with numpy and pyzmq."""

from __future__ import annotations

import math
import secrets
import time

import numpy as np
import zmq
from numpy.typing import NDArray

from stages.closing import Closing
from stages.connecting import WATCHFUL, connect
from stages.curve_keys import ClientKeys
from stages.errors import ConfigError
from stages.loopback import is_local
from stages.wire_envelope import topic
from stages.wire_frames import FrameMessage, encode_frame

_MAX_INBOUND_BYTES = 1024  # runs send nothing but subscriptions


class FrameSender(Closing):
    """One socket that sends pictures to the source of kind `zmq`. Use it from one thread.

    It may be made before the run is there, and finds it again after a loss of connection. Sending
    never waits: what the run does not take in time is lost, and the run tells how many. Each
    sender is a session of its own; while one is heard, the run refuses others of its id.
    """

    def __init__(
        self,
        endpoint: str = "tcp://127.0.0.1:5558",
        source_id: str = "zmq",
        *,
        high_water_mark: int = 4,
        keys: ClientKeys | None = None,
    ) -> None:
        """`source_id`: that of the run's source. `high_water_mark`: pictures kept for a run that
        is slow. `keys`: for a run with CURVE. Raises `ConfigError` for an endpoint that is none."""
        self.sent = 0
        """Pictures sent, also those that nobody received."""
        self._source_id = source_id
        self._is_local = is_local(endpoint)
        self._session = secrets.randbits(63)
        self._heard_of = False
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        options = {
            zmq.SNDHWM: high_water_mark,
            zmq.LINGER: 500,
            zmq.IMMEDIATE: 1,  # else what a run subscribed to outlives it
            zmq.MAXMSGSIZE: _MAX_INBOUND_BYTES,
            zmq.RECONNECT_IVL: 100,
            zmq.RECONNECT_IVL_MAX: 1000,
            **WATCHFUL,
        }
        try:
            connect(self._socket, endpoint, options, keys)
        except ConfigError:
            self.close()
            raise

    def send(
        self,
        pixels: NDArray[np.uint8],
        *,
        captured_ns: int | None = None,
        captured_unix_ns: int | None = None,
        spacing_mm: tuple[float, float] | None = None,
        pose: NDArray[np.float64] | None = None,
        boxes: NDArray[np.float32] | None = None,
    ) -> None:
        """Send one picture: uint8 (H, W) grey or (H, W, 3) in the order red, green, blue (of one
        by OpenCV send `picture[..., ::-1]`).

        The times default to now: `time.monotonic_ns()` and `time.time_ns()` when it was captured;
        the latter is reckoned from the former where that alone is given. A run beyond this host is
        not told the former: its clock is another.
        `spacing_mm`: (y, x) millimetres per pixel; `pose`: (4, 4) image-to-world.
        `boxes`: what was found in it, for a run with `detector.kind: boxes`: float32 (n, 6), each
        x1, y1, x2, y2 in pixels, score 0..1, class id; n 0: looked, and found nothing. Raises
        `WireError` for what the run would refuse.
        """
        now_ns = time.monotonic_ns()
        since_ns = 0 if captured_ns is None else now_ns - captured_ns
        message = FrameMessage(
            session=self._session,
            seq=self.sent,
            pixels=pixels,
            captured_ns=now_ns - since_ns if self._is_local else None,
            captured_unix_ns=(
                time.time_ns() - since_ns if captured_unix_ns is None else captured_unix_ns
            ),
            spacing_mm=spacing_mm,
            pose=pose,
            boxes=boxes,
        )
        self._socket.send(encode_frame(self._source_id, message), zmq.NOBLOCK)
        self.sent += 1

    def wait(self, timeout_s: float) -> bool:
        """Wait until a run has begun to listen, at most so long; whether one listens
        now."""
        wanted, deadline = topic("frame", self._source_id), time.monotonic() + timeout_s
        while True:
            left_s = 0.0 if self._heard_of else max(0.0, deadline - time.monotonic())
            if not self._socket.poll(math.ceil(left_s * 1000)):
                return self._heard_of
            said = self._socket.recv(zmq.NOBLOCK)
            if wanted.startswith(said[1:]):  # 1: a run listens; 0: it has gone
                self._heard_of = said[:1] == b"\x01"

    def close(self) -> None:
        """Deliver for half a second at most, and release everything."""
        self._socket.close()
        self._context.term()
