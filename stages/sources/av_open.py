"""Opening what FFmpeg reads: `Address`, `IoLimits`, `knows`, `opened`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import av
import av.logging

from stages.sources.av_pictures import SIZE_LIMIT
from stages.sources.feed import FeedError

if TYPE_CHECKING:
    from av.codec.hwaccel import HWAccel
    from av.container import InputContainer
    from av.video.stream import VideoStream


_ON_DEVICE: Final = {**SIZE_LIMIT, "extra_hw_frames": "8"}
"""More pictures on the device than the codec itself needs: those that wait to be taken."""


@dataclass(frozen=True, slots=True)
class Address:
    """What to open, and how."""

    url: str = field(repr=False)
    """With its credentials; or a device."""
    options: Mapping[str, str]
    """FFmpeg's."""
    format: str | None = None
    """FFmpeg's name of the demuxer; None: it looks."""
    place: str | None = None
    """What to call it where it cannot be opened; no credentials."""
    hwaccel: HWAccel | None = None
    """What to decode with; None: the host."""


class IoLimits(NamedTuple):
    """How long FFmpeg may wait, in seconds; None: for ever."""

    open_s: float | None
    """For the connection, and again to look at the streams."""
    read_s: float | None
    """For a packet."""


def knows(protocol: str) -> bool:
    """Whether this FFmpeg has ``protocol``, one that wants a port: it refuses an address without
    one at once."""
    av.logging.set_level(av.logging.PANIC)
    try:
        av.open(f"{protocol}://").close()
    except av.error.ProtocolNotFoundError:
        return False
    except av.FFmpegError:
        pass
    return True


@contextmanager
def opened(address: Address, limits: IoLimits) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its first video stream, ready to decode.

    Raises `FeedError` where there is no video, else what PyAV raises, whose text holds the
    address.
    """
    av.logging.set_level(av.logging.PANIC)  # else FFmpeg writes to the terminal by itself
    with _container(address, limits) as container:
        if not container.streams.video:
            raise FeedError("there is no video in the stream")
        stream = container.streams.video[0]
        # Frame threads would add a delay each; with slice threads FFmpeg does not tell of a
        # picture that something is missing.
        stream.thread_type = "NONE"
        stream.codec_context.options = SIZE_LIMIT if address.hwaccel is None else _ON_DEVICE
        yield container, stream


def _container(address: Address, limits: IoLimits) -> InputContainer:
    try:
        return av.open(
            address.url,
            format=address.format,
            options={**address.options, **SIZE_LIMIT},
            metadata_errors="ignore",
            timeout=limits,
            hwaccel=address.hwaccel,
        )
    except RuntimeError as error:
        if address.hwaccel is None or isinstance(error, av.FFmpegError):
            raise
        raise FeedError("the GPU decodes no such video, expected decoder: host or auto") from None
