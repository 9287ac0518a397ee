"""One connection over which OpenIGTLink pictures come: `IgtlFeed`."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from typing import Final, Protocol

from stages.base import Buffer
from stages.sources.feed import Arrival
from stages.sources.igtl_pairing import Complete, Pairing
from stages.sources.igtl_pixels import PixelStore
from stages.sources.igtl_stream import IgtlStream
from stages.sources.igtl_told import (
    PictureBegins,
    PictureEnds,
    PoseTold,
    Refused,
    StatusTold,
    Told,
)
from stages.sources.region import Region
from stages.sources.troubles import Troubles

REFUSED: Final = "refused"
"""How `Troubles` counts the messages that could not be used."""
_FINE: Final = 1  # status code


class Connector(Protocol):
    """How one connection comes about, as client or as server."""

    listens: bool
    """Whether the other side calls."""

    def connect(self, timeout_s: float) -> socket.socket | None:
        """The connected socket, waiting at most about ``timeout_s``; None where it is not there
        yet. Raises `FeedError`."""

    def tend(self) -> None:
        """Look after the outside while the connection lives; never waits."""

    def close(self) -> None:
        """Give up, and release what was not handed over."""


@dataclass(frozen=True, slots=True)
class IgtlWishes:
    """What is wanted of a stream; see `OpenIGTLinkConfig`."""

    source_id: str = "openigtlink"
    device: str | None = None
    pose_device: str | None = None
    max_pose_skew_ns: int = 30_000_000
    max_lag_s: float | None = 3.0
    stored_bits: int = 16
    roi: Region | None = None
    check_crc: bool = True


class IgtlFeed:
    """A `Feed` of the pictures of one device, each with its pose.

    Without a ``device`` that of the connection's first picture is taken. Messages that are
    damaged or cannot be used are refused, counted and told (see `Troubles`), and the stream goes
    on; what `IgtlStream` says ends it is a `FeedError`. What a picture's time and pose are is told
    in `Pairing`. The array that `Buffer` gave is kept from one `read` to the next until its picture
    is delivered.
    """

    def __init__(self, connector: Connector, wishes: IgtlWishes, troubles: Troubles) -> None:
        self._connector = connector
        self._wishes = wishes
        self._troubles = troubles
        self._device = wishes.device
        self._stream: IgtlStream | None = None
        self._store = PixelStore(wishes.stored_bits, wishes.roi, wishes.source_id)
        self._pairing = Pairing(wishes.pose_device, wishes.max_pose_skew_ns, wishes.max_lag_s)
        self._begins: PictureBegins | None = None
        self.description = "OpenIGTLink"
        """How the newest picture was sent, in a few words."""

    @property
    def is_called(self) -> bool:
        """See `stages.sources.feed.CalledFeed`; a client waits for an answer, not for a call."""
        return self._stream is not None or not self._connector.listens

    def read(self, buffer: Buffer, timeout_s: float) -> Arrival | None:
        """See `stages.sources.feed.Feed.read`."""
        until_ns = time.monotonic_ns() + round(timeout_s * 1e9)
        if self._stream is None:
            self._stream = self._connected(timeout_s)
            if self._stream is None:
                return None
        self._connector.tend()
        while True:
            if self._begins is not None:
                self._place(self._stream, self._begins, buffer)
                self._begins = None
            told = self._stream.receive(self._pairing.until(until_ns))
            if told is not None:
                self._heed(told, self._stream.began_ns, buffer)
            now_ns = time.monotonic_ns()
            # A picture that begins needs the room of the next one, which ends the waiting.
            arrival = self._pairing.take(now_ns, at_once=self._begins is not None)
            if arrival is not None and (missing := self._pairing.missing(now_ns)) is not None:
                self._troubles.add("no pose", missing)
            if arrival is not None or now_ns >= until_ns:
                return arrival

    def close(self) -> None:
        """See `stages.sources.feed.Feed.close`."""
        self._connector.close()
        if self._stream is not None:
            self._stream.close()

    def _connected(self, timeout_s: float) -> IgtlStream | None:
        connected = self._connector.connect(timeout_s)
        if connected is None:
            return None
        self._pairing.begin(time.monotonic_ns())
        return IgtlStream(connected, check_crc=self._wishes.check_crc)

    def _heed(self, told: Told, began_ns: int, buffer: Buffer) -> None:
        match told:
            case PictureBegins():
                self._begins = told
            case PictureEnds(header, layout):
                self._device = header.device
                self.description = (
                    f"OpenIGTLink version {header.version}, IMAGE {header.device!r}, "
                    f"{layout.description}"
                )
                pixels, window = self._store.picture(layout, buffer)
                ended_ns = time.monotonic_ns()
                self._pairing.put(Complete(told, pixels, window, began_ns, ended_ns))
            case PoseTold():
                self._pairing.add_pose(told, began_ns)
            case StatusTold(_, code):
                if code != _FINE:
                    said = f"the sender reports status {code}, expected {_FINE} (fine)"
                    self._troubles.add("status", said)
            case Refused(reason):
                self._troubles.add(REFUSED, reason)

    def _place(self, stream: IgtlStream, begins: PictureBegins, buffer: Buffer) -> None:
        """Make room for a picture, or none for another device's."""
        if self._device is None or self._device == begins.header.device:
            stream.place(self._store.room(begins.layout, buffer))
            return
        stream.place(None)
        self._troubles.add(
            "left out",
            f"pictures of device {begins.header.device!r} are left out, "
            f"expected those of {self._device!r}",
        )
