"""Network video as a source: `RtspSource`."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field

from stages.errors import ConfigError, SourceError
from stages.sources.av_source import AvSource
from stages.sources.limits import SourceId
from stages.sources.live_section import LiveSection
from stages.sources.stream_url import StreamUrl

if TYPE_CHECKING:
    import torch

    from stages.sources.av_feed import AvFeed
    from stages.sources.feed import Feed

_PROTOCOLS: Final = {
    "rtsp": "rtsp,rtp,udp,tcp",
    "rtsps": "rtsp,rtsps,rtp,tls,tcp",
    "http": "http,tcp",
    "https": "https,tls,tcp",
    "udp": "udp",
    "srt": "srt",
}
"""What FFmpeg may open for an address: nothing that it is redirected to can be a file."""
_OPTIONAL: Final = {"rtsps": "tls", "https": "tls", "srt": "srt"}
"""Protocols that FFmpeg is built with or without."""
_FORMATS: Final = "rtsp,mpegts,mov,matroska,flv,mpjpeg,mjpeg,h264,hevc"
"""FFmpeg's names of what a stream may be. Playlists (HLS, DASH) are not among them: they name
other addresses."""
_RTSP_OPTIONS: Final = {
    # The stream's description tells what is needed, and the first picture the rest: nothing is
    # read ahead to look at, so the first keyframe is shown at once.
    "analyzeduration": "0",
    "probesize": "32",
    "allowed_media_types": "video",
    "max_delay": "0",
}
_LOOK_OPTIONS: Final = {
    # No frames are read ahead to measure their rate, which nobody asks for.
    "fpsprobesize": "0",
}

_Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class RtspConfig(LiveSection):
    """A network camera, or another stream that FFmpeg reads."""

    kind: Literal["rtsp"] = "rtsp"
    source_id: SourceId = "rtsp"
    url: StreamUrl
    """rtsp, rtsps, http, https, udp or srt. Credentials in it are used, and left out wherever it
    is written, also from the run's copy of the configuration: `StreamUrl` says which."""
    username: str | None = Field(default=None, min_length=1, max_length=256)
    """Wins over the one in `url`."""
    password_env: _Variable | None = None
    """The environment variable that holds the password; wins over the one in `url`."""
    transport: Literal["tcp", "udp"] = "tcp"
    """How RTSP carries the pictures; over udp, some are lost where the network is."""
    tls_verify: bool = True
    """Whether rtsps and https servers must show a certificate that `tls_ca` vouches for."""
    tls_ca: str | None = Field(default=None, min_length=1)
    """A PEM file of authorities, or of a camera's own certificate; null: this machine's."""
    max_lag_s: float | None = Field(default=3.0, gt=0, le=3600)
    """A stream that comes later than by this, by the sender's own clock, for some seconds, is
    connected to anew, so that a queue on the way does not last; null: the sender's clock is not
    to be believed."""
    decoder: Literal["host", "nvdec", "auto"] = "host"
    """`nvdec`: the GPU's video decoder, whose pictures stay on the device; `auto`: where it can,
    else the host. `maskstream doctor` tells whether it is there. It has not run on a GPU yet.
    Pictures that are not on the host are never found `frozen`."""
    reconnect_after_s: float = Field(default=5.0, ge=0.2, le=30)
    """Without a picture for so long, the connection is given up and made anew."""
    connect_within_s: float = Field(default=15.0, ge=0.2, le=60)
    """A new connection gives its first picture, a keyframe, within this, or is given up. Where an
    RTSP server says nothing at all for 4 s, a second one is tried beside it."""


class RtspSource(AvSource):
    """The first video stream at an address; see `LiveSource` and `AvFeed`. A `DeviceSource`.

    Decoded on the host, until `decode_on` tells where else. Raises `ConfigError` where the
    variable that should hold the password is not set, `SourceError` where this FFmpeg cannot read
    such an address at all.
    """

    def __init__(self, config: RtspConfig) -> None:
        from stages.sources.av_open import knows

        super().__init__(config)
        needs = _OPTIONAL.get(config.url.scheme)
        if needs is not None and not knows(needs):
            raise SourceError(
                f"source {config.source_id}: this FFmpeg was built without {needs}, expected "
                f"an address of another scheme than {config.url.scheme}"
            )
        self._stream = config
        self._gpu: torch.device | None = None
        self._password = _password(config)

    def decode_on(self, device: torch.device) -> None:
        """See `stages.base.DeviceSource`."""
        if self._stream.decoder == "host":
            return
        from stages.sources.nvdec import why_no_nvdec

        missing = why_no_nvdec(device)
        if missing is None:
            self._gpu = device
        elif self._stream.decoder == "nvdec":
            raise ConfigError(
                f"source {self.source_id}: decoder: nvdec cannot be had: {missing}; "
                "expected a CUDA GPU that decodes video, or decoder: host"
            )

    def _dialled(self) -> Feed:
        if self._stream.url.scheme not in ("rtsp", "rtsps"):
            return super()._dialled()
        from stages.sources.second_try import SecondTry

        self._newest = SecondTry(self._connect)
        return self._newest

    def _connect(self) -> AvFeed:
        from stages.sources.av_feed import AvFeed
        from stages.sources.av_open import Address, IoLimits

        config, scheme = self._stream, self._stream.url.scheme
        options = {"protocol_whitelist": _PROTOCOLS[scheme], "format_whitelist": _FORMATS}
        is_rtsp = scheme in ("rtsp", "rtsps")
        if is_rtsp:
            options |= {**_RTSP_OPTIONS, "rtsp_transport": config.transport}
        else:
            options |= _LOOK_OPTIONS
        if scheme in ("rtsps", "https"):
            options |= _tls(config)
        url = config.url.reveal(config.username, self._password)
        hwaccel = taker = None
        if self._gpu is not None:
            from stages.sources.nvdec import NvdecTaker, nvdec

            hwaccel = nvdec(self._gpu, or_host=config.decoder == "auto")
            taker = NvdecTaker(self.source_id)
        demuxer = "rtsp" if is_rtsp else None
        address = Address(url, options, demuxer, config.url.place, hwaccel)
        return AvFeed(
            self.source_id,
            address,
            # The first packet may come as late as the connection.
            IoLimits(
                config.connect_within_s, max(config.connect_within_s, config.reconnect_after_s)
            ),
            self._turns,
            self.troubles,
            max_lag_s=config.max_lag_s,
            roi=config.roi,
            taker=taker,
        )


def _tls(config: RtspConfig) -> dict[str, str]:
    if not config.tls_verify:
        return {"tls_verify": "0"}
    paths = ssl.get_default_verify_paths()
    return {"tls_verify": "1", "ca_file": config.tls_ca or paths.cafile or ""}


def _password(config: RtspConfig) -> str | None:
    if config.password_env is None:
        return None
    found = os.environ.get(config.password_env)
    if not found:
        raise ConfigError(
            f"source {config.source_id}: password_env: {config.password_env} is not set, "
            "expected an environment variable that holds the password"
        )
    return found
