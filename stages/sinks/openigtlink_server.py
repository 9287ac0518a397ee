"""Results for 3D Slicer, and whoever else speaks OpenIGTLink: `OpenIGTLinkServer`."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Final

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kpi.events import SourceState
from stages.base import Section
from stages.errors import MaskstreamError
from stages.loopback import is_loopback
from stages.packets import HostPacket
from stages.sinks.announced import Announced
from stages.sinks.igtl_encode import Version
from stages.sinks.igtl_result import Names, ResultMessages
from stages.sinks.igtl_service import Service

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
    stale_after_s: float = Field(default=1.5, ge=0.1, le=60)
    """Where a result is older, or none comes for so long, receivers are told that the masks are
    old."""

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

    What is sent is told in `stages/sinks/igtl_result.py`. All of it is made and sent by threads of
    its own, which begin with the first `poll`: `write` hands over the packet, and a packet that
    nobody took yet makes place for it. Each receiver gets what it can take, always the newest; one
    that takes nothing for 10 s, or sends more than 1 MiB a second, is given up.
    """

    def __init__(
        self, config: OpenIGTLinkServerConfig, source_id: str, class_names: Sequence[str]
    ) -> None:
        """Listen. Raises `OpenIGTLinkOutError` where the address cannot be listened on."""
        names = Names(config.image, config.centroids, config.boxes)
        self._announced = Announced(config.stale_after_s, config.stale_after_s)
        self._door = _listening(config)
        self.endpoint = _endpoint(config.host, self._door)
        """What was bound, with the port in numbers."""
        self.wants_masks = False
        """Whether a receiver was connected when `poll` looked."""
        self._service = Service(
            self._door,
            config.max_clients,
            source_id,
            ResultMessages(names, class_names, config.version),
            self._announced,
            (config.status, config.version),
        )

    @property
    def clients(self) -> int:
        """How many are."""
        return self._service.clients

    @property
    def unsent(self) -> int:
        """Results that were replaced by newer ones before they could be sent to anyone."""
        return self._service.unsent

    @property
    def troubles(self) -> Counter[str]:
        """What receivers missed, and who was sent away, counted; see `Clients`."""
        return self._service.troubles.counts

    def announce(self, state: SourceState, epoch: int) -> None:
        """What the source says of itself, from any thread; nothing follows `ended` or `failed`."""
        self._announced.set(state, epoch)
        self._service.wake()

    def write(self, packet: HostPacket) -> None:
        """Hand over one packet; one without masks says only that results come. It says that it is
        stale where it is too old, or of an epoch before the one last announced."""
        info = replace(packet.info, stale=self._announced.result(packet.info))
        if packet.masks is not None and self.wants_masks:
            self._service.packets.put(replace(packet, info=info))

    def poll(self) -> None:
        """Begin to serve; see who is there."""
        self._service.start()
        self.wants_masks = self._service.clients > 0

    def close(self) -> None:
        """Say that the stream has ended, deliver what waits for 0.3 s at most, hang up."""
        self._announced.set("ended", self._announced.now.epoch)
        self._service.close()
        self._door.close()


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
