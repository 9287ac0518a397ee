"""A camera or frame-grabber of this machine as a source: `CameraSource`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Final, Literal, Protocol

from pydantic import Field, field_validator

from stages.sources.av_source import AvSource
from stages.sources.limits import Fps, SourceId
from stages.sources.live_section import LiveSection

if TYPE_CHECKING:
    from stages.sources.av_feed import AvFeed
    from stages.sources.av_open import Address
    from stages.sources.av_raw import Colours

_FORMATS: Final = {"mjpg": "mjpeg", "yuyv": "yuyv422", "nv12": "nv12", "h264": "h264"}
"""FFmpeg's names."""

_Side = Annotated[int, Field(ge=16, le=8192, strict=True)]


class CameraConfig(LiveSection):
    """A Video4Linux device: USB cameras, and frame-grabbers that look like one."""

    kind: Literal["camera"] = "camera"
    source_id: SourceId = "camera"
    device: int | str = 0
    """N of /dev/videoN, or a path; those in /dev/v4l/by-id stay when cameras are plugged anew."""
    format: Literal["mjpg", "yuyv", "nv12", "h264"] | None = None
    """What the camera is asked to send; null: what it sends first."""
    camera_hw: tuple[_Side, _Side] | None = None
    """(height, width) that the camera is asked for; null: what it has set."""
    fps: Fps | None = None
    """Rate that the camera is asked for; null: what it has set."""
    controls: dict[str, int] = Field(default_factory=dict, max_length=64)
    """By the names that `v4l2-ctl --list-ctrls` shows, such as `exposure_time_absolute: 100`; set
    in this order before each connection."""

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, device: int | str) -> int | str:
        number = isinstance(device, int) and 0 <= device < 256
        path = isinstance(device, str) and re.fullmatch(r"/dev/[\w.:/+-]{1,200}", device)
        if not (number or path) or ".." in str(device):
            raise ValueError(
                f"got {device!r}, expected the N of /dev/videoN, or a path such as /dev/video0"
            )
        return device

    @property
    def path(self) -> str:
        """Of the device."""
        return f"/dev/video{self.device}" if isinstance(self.device, int) else self.device

    @property
    def options(self) -> dict[str, str]:
        """What FFmpeg asks the device for."""
        asked: dict[str, str] = {}
        if self.format is not None:
            asked["input_format"] = _FORMATS[self.format]
        if self.camera_hw is not None:
            asked["video_size"] = f"{self.camera_hw[1]}x{self.camera_hw[0]}"
        if self.fps is not None:
            asked["framerate"] = f"{self.fps:g}"
        return asked


class Device(Protocol):
    """What is asked of a device before FFmpeg opens it."""

    def prepare(self, controls: Mapping[str, int]) -> None:
        """Check it and set its controls; raises `FeedError`."""

    def address(self, options: Mapping[str, str]) -> Address:
        """What FFmpeg is to open."""

    def colours(self) -> Colours | None:
        """What it says of the pictures that it gives now."""


class CameraSource(AvSource):
    """The pictures of a camera; see `LiveSource` and `AvFeed`.

    YUYV and NV12 are uploaded as they are and converted on the run's device, by the matrix and
    range that the driver tells (untold: limited range; BT.709 from 720 rows on, else BT.601).
    MJPG and H.264 are decoded on the host.

    A camera that is not there, or is unplugged, is waited for. A picture counts as captured when
    the driver says so, where its stamps are those of the monotonic clock (as USB cameras' are),
    else when it arrived.

    It has been tried with recorded bytes in the formats of cameras, and with no camera.
    """

    def __init__(self, config: CameraConfig, device: Device | None = None) -> None:
        from stages.sources.v4l2 import V4l2Device

        super().__init__(config)
        self._camera = config
        self._device = V4l2Device(config.path) if device is None else device

    def _connect(self) -> AvFeed:
        from stages.sources.av_feed import AvFeed
        from stages.sources.av_open import IoLimits
        from stages.sources.av_raw import RawTaker

        config = self._camera
        self._device.prepare(config.controls)
        return AvFeed(
            self.source_id,
            self._device.address(config.options),
            IoLimits(config.connect_within_s, config.reconnect_after_s),
            self._turns,
            self.troubles,
            roi=config.roi,
            taker=RawTaker(self.source_id, self._device.colours),
            monotonic_stamps=True,
        )
