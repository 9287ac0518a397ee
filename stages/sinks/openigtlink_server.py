"""Results for 3D Slicer, and whoever else speaks OpenIGTLink: `OpenIGTLinkServer`."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Sequence
from contextvars import copy_context
from typing import Annotated, Final

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kpi.emit import emit
from kpi.events import ErrorRaised, SourceState, SubscriberState
from stages.base import Section
from stages.errors import MaskstreamError
from stages.loopback import is_loopback
from stages.packets import HostPacket
from stages.sinks.igtl_clients import Clients
from stages.sinks.igtl_encode import Envelope, Version
from stages.sinks.igtl_result import Names, ResultMessages
from stages.sinks.igtl_states import StreamState, Told
from stages.sources.troubles import Troubles

STATUS_EVERY_S: Final = 1.0
_LOOK_S: Final = 0.1  # at what may have changed by itself
_TOLD_EVERY_S: Final = 0.25  # how many are connected
_GOODBYE_S: Final = 0.3
_BACKLOG: Final = 128

Device = Annotated[str, Field(min_length=1, max_length=20, pattern=r"^[ -~]+$")]
"""A device name, as the protocol allows it."""


class OpenIGTLinkOutError(MaskstreamError):
    """The results cannot be offered over OpenIGTLink."""


class OpenIGTLinkServerConfig(Section):
    """`openigtlink_out:` of the configuration."""

    host: str = Field(default="127.0.0.1", pattern=r"^[A-Za-z0-9.:_-]{1,253}$")
    """The address to listen on; beyond loopback it wants `insecure_bind`."""
    port: int = Field(default=18945, ge=0, le=65535, strict=True)
    """0 takes a free one."""
    insecure_bind: bool = False
    """Let anyone who reaches `host` see the masks: the protocol knows no passwords."""
    image: Device = "Masks"
    """Device name of the label image."""
    centroids: Device | None = "Centroids"
    """Device name of the POINT message of the objects' centroids; null: none is sent."""
    boxes: Device | None = "Boxes"
    """Likewise, four corners an object."""
    status: Device = "Stream"
    """Device name of the STATUS message."""
    version: Version = 1
    """Of the header. 1: every receiver reads it; 2: the image carries metadata as well (epoch,
    frame id, age, staleness, what each label stands for), which 3D Slicer shows, and which a
    receiver with an old library, as Debian ships it, cannot read."""
    max_clients: int = Field(default=8, ge=1, le=64)
    stale_after_s: float = Field(default=2.0, ge=0.1, le=60)
    """Without a result for so long, receivers are told that the masks are old."""

    @model_validator(mode="after")
    def _usable(self) -> OpenIGTLinkServerConfig:
        if not (is_loopback(self.host) or self.insecure_bind):
            raise PydanticCustomError(
                "host",
                "host: got {host}, expected 127.0.0.1, localhost or ::1; beyond this machine, "
                "insecure_bind: true",
                {"host": self.host},
            )
        named = (self.image, self.centroids, self.boxes, self.status)
        names = [name for name in named if name is not None]
        if len(set(names)) < len(names):
            raise PydanticCustomError(
                "device",
                "image, centroids, boxes, status: got the same name twice, expected one each",
            )
        return self

    @property
    def open_to_all(self) -> bool:
        """Whether anyone who reaches the machine may see the masks."""
        return not is_loopback(self.host)


class OpenIGTLinkServer:
    """A `Sink`: an IMAGE of labels a result, the objects as POINTs, and a STATUS whenever the
    state of the stream changes, every second, and to who comes.

    What is sent is told in `stages/sinks/igtl_result.py`. All of it is encoded and sent by a
    thread of its own, which begins with the first `poll`: `write` hands over the packet, and a
    packet that nobody took yet makes place for it. Each receiver gets what it can take, always
    the newest; one that takes nothing for 10 s, or sends more than 1 MiB a second, is given up.
    """

    def __init__(
        self, config: OpenIGTLinkServerConfig, source_id: str, class_names: Sequence[str]
    ) -> None:
        """Listen. Raises `OpenIGTLinkOutError` where the address cannot be listened on."""
        self._config = config
        self._topic = f"openigtlink/{source_id}"
        names = Names(config.image, config.centroids, config.boxes)
        self._messages = ResultMessages(names, class_names, config.version)
        self._state = StreamState(config.stale_after_s)
        self._door = _listening(config)
        self.endpoint = _endpoint(config.host, self._door)
        """What was bound, with the port in numbers."""
        self.troubles = Troubles(source_id)
        """What receivers missed, and who was sent away, counted; see `Clients`."""
        self._clients = Clients(self._door, config.max_clients, self.troubles)
        self.wants_masks = False
        """Whether a receiver is connected."""
        self.unsent = 0
        """Results that were replaced by newer ones before they were encoded."""
        self._newest: HostPacket | None = None
        self._handing = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._told_clients, self._told_clients_s = 0, 0.0

    def announce(self, state: SourceState, epoch: int) -> None:
        """What the source says of itself, from any thread; nothing follows `ended` or `failed`."""
        self._state.announce(state)
        self._clients.wake()

    def write(self, packet: HostPacket) -> None:
        """Hand over one packet; one without masks says only that results come."""
        self._state.result(packet)
        if packet.masks is None or not self.wants_masks:
            return
        with self._handing:
            self.unsent += self._newest is not None
            self._newest = packet
        self._clients.wake()

    def poll(self) -> None:
        """Begin to serve."""
        if self._thread is None and not self._closing.is_set():
            run = copy_context().run
            self._thread = threading.Thread(
                target=run, args=(self._run,), name="openigtlink", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """Say that the stream has ended, deliver what waits for 0.3 s at most, hang up."""
        self._state.announce("ended")
        self._closing.set()
        self._clients.wake()
        if self._thread is not None:
            self._thread.join(2 * _GOODBYE_S)
        self._door.close()

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:
            emit(ErrorRaised("openigtlink_out", f"{type(error).__name__}: {error}"))
        finally:
            self.wants_masks = False
            self._clients.close(time.monotonic() + _GOODBYE_S)
            self._tell_clients(0)

    def _serve(self) -> None:
        told: Told | None = None
        due_s = 0.0
        while not self._closing.is_set():
            came = self._clients.wait(_LOOK_S)
            self.wants_masks = len(self._clients) > 0
            self._send_result()
            now, now_s = self._state.now(), time.monotonic()
            if now != told or now_s >= due_s:
                told, due_s, came = now, now_s + STATUS_EVERY_S, []
                self._clients.offer("status", self._status(now))
            elif came:
                self._clients.offer("status", self._status(now), came)
            if now_s - self._told_clients_s >= _TOLD_EVERY_S:
                self._tell_clients(len(self._clients))
        self._send_result()
        self._clients.offer("status", self._status(self._state.now()))

    def _send_result(self) -> None:
        with self._handing:
            packet, self._newest = self._newest, None
        if packet is None or not len(self._clients):
            return
        try:
            data = self._messages.of(packet)
        except (ValueError, OverflowError, struct.error) as error:
            self.troubles.add("left out", f"a result cannot be sent over OpenIGTLink: {error}")
            return
        self._clients.offer("result", data)

    def _status(self, told: Told) -> bytes:
        envelope = Envelope(self._config.version, time.time_ns())
        return envelope.around("STATUS", self._config.status, told.content)

    def _tell_clients(self, count: int) -> None:
        self._told_clients_s = time.monotonic()
        if count != self._told_clients:
            self._told_clients = count
            emit(SubscriberState(self._topic, count))


def _listening(config: OpenIGTLinkServerConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        number = error.errno or 0
        reason = os.strerror(number) if number > 0 else error.strerror  # < 0: it is the name
        raise OpenIGTLinkOutError(
            f"openigtlink_out: cannot listen on {config.host} port {config.port}: {reason} "
            "(expected an address of this machine and a free port; port 0 takes any)"
        ) from error


def _endpoint(host: str, door: socket.socket) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"tcp://{shown}:{door.getsockname()[1]}"
