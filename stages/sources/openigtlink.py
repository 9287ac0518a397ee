"""An ultrasound machine, or whatever else speaks OpenIGTLink, as a source: `OpenIGTLinkSource`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from stages.loopback import is_loopback
from stages.sources.feed import Dial
from stages.sources.igtl_dial import Dialer
from stages.sources.igtl_door import Door, Doorkeeper
from stages.sources.igtl_feed import IgtlFeed, IgtlWishes
from stages.sources.igtl_lookup import Lookup
from stages.sources.limits import SourceId
from stages.sources.live import LiveSource
from stages.sources.live_section import LiveSection
from stages.sources.troubles import Troubles

_Device = Annotated[str, Field(min_length=1, max_length=20, pattern=r"^[ -~]+$")]
"""A device name, as the protocol allows it."""


class OpenIGTLinkConfig(LiveSection):
    """Where pictures come from over OpenIGTLink, versions 1 to 3."""

    kind: Literal["openigtlink"] = "openigtlink"
    source_id: SourceId = "openigtlink"
    listen: bool = False
    """False: connect to a server (PlusServer, say); true: be the server, for one sender at a
    time."""
    host: str = Field(default="127.0.0.1", pattern=r"^[A-Za-z0-9.:_-]{1,253}$")
    """The server's name or address, or the address to listen on; listening beyond loopback wants
    `insecure_bind`."""
    port: int = Field(default=18944, ge=0, le=65535, strict=True)
    """0, where it listens, takes a free one."""
    insecure_bind: bool = False
    """Let anyone who reaches `host` send: the protocol knows no passwords."""
    device: _Device | None = None
    """Name of the IMAGE to take; null: that of the first picture of each connection."""
    pose_device: _Device | None = None
    """Name of the TRANSFORM (or POSITION) that says where the picture was taken; a picture has
    no pose then unless there is one in time. null: the pose that the IMAGE itself tells."""
    max_pose_skew_ms: float = Field(default=30.0, gt=0, le=1000)
    """How far the time stamps of a picture and its transform may lie apart; also how long, at
    most, a picture waits for a transform that is sent after it."""
    max_lag_s: float | None = Field(default=3.0, gt=0, le=3600)
    """A stream that comes later than by this, by the sender's own clock, for some seconds, is
    connected to anew, so that a queue on the way does not last; null: the sender's clock is not
    to be believed."""
    stored_bits: int = Field(default=16, ge=9, le=16, strict=True)
    """Bits that are used of 16-bit pixels; the upper 8 of them are kept."""
    check_crc: bool = True
    """Refuse damaged messages. False for a sender that fills in no check sum."""

    @model_validator(mode="after")
    def _reachable_with_care(self) -> OpenIGTLinkConfig:
        if self.listen and not (is_loopback(self.host) or self.insecure_bind):
            raise PydanticCustomError(
                "host",
                "host: got {host}, expected 127.0.0.1, localhost or ::1 to listen on; beyond "
                "this machine, insecure_bind: true",
                {"host": self.host},
            )
        if not self.listen and self.port == 0:
            raise PydanticCustomError("port", "port: got 0, expected 1 to 65535 to connect to")
        return self

    @property
    def open_to_all(self) -> bool:
        """Whether anyone on the network may send the pictures."""
        return self.listen and not is_loopback(self.host)

    @property
    def wishes(self) -> IgtlWishes:
        """What the feeds are told."""
        return IgtlWishes(
            source_id=self.source_id,
            device=self.device,
            pose_device=self.pose_device,
            max_pose_skew_ns=round(self.max_pose_skew_ms * 1e6),
            max_lag_s=self.max_lag_s,
            stored_bits=self.stored_bits,
            roi=self.roi,
            check_crc=self.check_crc,
        )


class OpenIGTLinkSource(LiveSource):
    """The pictures of one device over OpenIGTLink, with the sender's times, spacing and pose.

    As a server it listens from the beginning to the end, whichever sender comes and goes. What a
    pose means is told in `stages/sources/igtl_image.py`, `image_to_ras`; a transform moves that
    world, as in 3D Slicer, where the picture would hang below the transform. Raises `SourceError`
    where the address cannot be listened on.
    """

    endpoint: str
    """tcp://HOST:PORT where senders connect; only as a server (see `ListeningSource`)."""

    def __init__(self, config: OpenIGTLinkConfig) -> None:
        self.troubles = Troubles(config.source_id)
        """Messages that could not be used (`refused`), and what else was told, counted."""
        self._door: Door | None = None
        self._newest: IgtlFeed | None = None
        if config.listen:
            self._door = Door(config.host, config.port, config.source_id, self.troubles)
            host = f"[{config.host}]" if ":" in config.host else config.host
            self.endpoint = f"tcp://{host}:{self._door.port}"
        super().__init__(config, self._dialled(config))

    @property
    def description(self) -> str:
        """See `stages.base.DescribedSource`."""
        return "OpenIGTLink" if self._newest is None else self._newest.description

    def close(self) -> None:
        """See `stages.base.Source.close`."""
        super().close()
        if self._door is not None:
            self._door.close()

    def _dialled(self, config: OpenIGTLinkConfig) -> Dial:
        wishes, troubles, door = config.wishes, self.troubles, self._door
        lookup = Lookup(config.host, config.port)
        where = f"{config.host} port {config.port}"

        def dial() -> IgtlFeed:
            connector = Dialer(lookup, where) if door is None else Doorkeeper(door)
            self._newest = IgtlFeed(connector, wishes, troubles)
            return self._newest

        return dial
