"""Cameras: recorded bytes in their formats through FFmpeg, and what is said of a device that is
none. No camera has been at hand."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from rtsp_peer import BARS, RGB, bars
from test_sources_rtsp import Log, aside, eventually, feed_threads, log, memory

from kpi.events import ErrorRaised
from pipeline.config import load_config
from stages.base import Picture
from stages.errors import ConfigError
from stages.sources import av_open
from stages.sources.av_feed import AvFeed
from stages.sources.av_open import Address, IoLimits
from stages.sources.av_raw import Colours
from stages.sources.av_times import PacketTimes
from stages.sources.camera import CameraConfig, CameraSource
from stages.sources.feed import FeedError
from stages.sources.v4l2 import (
    _CAPABILITY,
    _CONTROL,
    _CONTROL_INFO,
    _FORMAT,
    V4l2Device,
    control_name,
)
from stages.upload import UploadRing

__all__ = ["log"]  # a fixture

FORMAT_NONBLOCK = 0x0004
"""AVFMT_FLAG_NONBLOCK."""
SIZE = (112, 32)
COUNT = 20


def shown(picture: Picture) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(H, W, 3), as a run's device has it."""
    assert isinstance(picture.pixels, np.ndarray)
    ring = UploadRing(torch.device("cpu"), 1)
    slot = ring.acquire(picture.pixels.shape)
    assert slot is not None
    slot.pixels[...] = picture.pixels
    ring.upload(slot, picture.ycbcr)
    return ring.take(slot).permute(1, 2, 0).numpy()


def picture_of_bars() -> np.ndarray[Any, np.dtype[np.uint8]]:
    row = np.repeat(np.array([RGB[name] for name in BARS], np.uint8), SIZE[0] // len(BARS), axis=0)
    return np.broadcast_to(row, (SIZE[1], *row.shape)).copy()


def raw(pixel_format: str) -> bytes:
    frame = av.VideoFrame.from_ndarray(picture_of_bars(), format="rgb24")
    return frame.reformat(format=pixel_format).to_ndarray().tobytes() * COUNT


class Recorded:
    """A device that plays a file; `there` is whether it is plugged in."""

    def __init__(self, path: Path, options: dict[str, str], demuxer: str) -> None:
        self._address = Address(str(path), options, demuxer)
        self.there = True
        self.colour: Colours | None = None
        self.prepared: list[Mapping[str, int]] = []
        self.asked: list[Mapping[str, str]] = []

    def prepare(self, controls: Mapping[str, int]) -> None:
        if not self.there:
            raise FeedError("/dev/video0 is not there")
        self.prepared.append(controls)

    def colours(self) -> Colours | None:
        return self.colour

    def address(self, options: Mapping[str, str]) -> Address:
        self.asked.append(options)
        return self._address


Recording = Callable[..., tuple[CameraSource, Recorded]]


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Recording]:
    made: list[CameraSource] = []

    def make(pixel_format: str, **options: Any) -> tuple[CameraSource, Recorded]:
        path = tmp_path / "bytes"
        size = {"video_size": f"{SIZE[0]}x{SIZE[1]}"}
        if pixel_format == "mjpg":
            path.write_bytes(mjpg())
            device = Recorded(path, {}, "mjpeg")
        else:
            path.write_bytes(raw(pixel_format))
            device = Recorded(path, {"pixel_format": pixel_format, **size}, "rawvideo")
        made.append(CameraSource(CameraConfig.model_validate(options), device))
        return made[-1], device

    yield make
    for source in made:
        source.close()


def mjpg() -> bytes:
    """Pictures one after another, as a camera sends them."""
    from io import BytesIO

    from PIL import Image

    out = BytesIO()
    Image.fromarray(picture_of_bars()).save(out, "JPEG", quality=95, subsampling=0)
    return out.getvalue() * COUNT


@pytest.mark.parametrize("pixel_format", ["yuyv422", "nv12", "mjpg"])
def test_the_formats_of_cameras_come_out_in_rgb_order(
    recording: Recording, log: Log, pixel_format: str
) -> None:
    source, _ = recording(pixel_format)
    picture = source.read(memory)
    assert picture is not None
    assert (picture.ycbcr is None) == (pixel_format == "mjpg")
    assert picture.size_hw == (SIZE[1], SIZE[0])
    assert bars(shown(picture)) == BARS
    assert 0 <= time.monotonic_ns() - picture.captured_ns < 60e9
    assert log.states == ["connecting", "streaming"]


def test_only_the_region_is_taken_in(recording: Recording, log: Log) -> None:
    roi = {"y": 4, "x": SIZE[0] // 7, "height": 20, "width": 2 * SIZE[0] // 7}
    source, _ = recording("yuyv422", roi=roi)
    assert source.size_hw == (20, 32)
    picture = source.read(memory)
    assert picture is not None
    assert picture.size_hw == (20, 32)
    assert picture.pixels.shape == (20, 32, 2), "no other pixel is uploaded"
    assert (picture.origin_yx, picture.full_hw) == ((4, 16), (SIZE[1], SIZE[0]))
    rgb = shown(picture).astype(int)
    assert np.abs(rgb[10, 8] - RGB[BARS[1]]).max() < 12
    assert np.abs(rgb[10, 24] - RGB[BARS[2]]).max() < 12


@pytest.mark.parametrize(
    ("stamped_s", "ours", "believed"),
    [(-0.05, True, True), (-9, True, True), (-20, True, False), (3600, True, False),
     (-0.05, False, False)],
)  # fmt: skip
def test_stamps_of_the_monotonic_clock_are_the_time_of_capture(
    tmp_path: Path, stamped_s: float, ours: bool, believed: bool
) -> None:
    (tmp_path / "bytes").write_bytes(mjpg())
    with av.open(str(tmp_path / "bytes"), format="mjpeg") as container:
        packet = next(container.demux(video=0))
        times = PacketTimes(None, monotonic_stamps=ours)
        now_ns = time.monotonic_ns()
        packet.time_base = Fraction(1, 1_000_000)
        packet.pts = packet.dts = round(now_ns / 1e3 + stamped_s * 1e6)
        times.note(packet)
        captured_ns = times.of(SimpleNamespace(pts=packet.pts)).captured_ns  # type: ignore[arg-type]
    if believed:
        assert captured_ns == packet.pts * 1000
    else:
        assert 0 <= captured_ns - now_ns < 2e9, "when it arrived"


def test_a_camera_that_is_unplugged_is_waited_for(recording: Recording, log: Log) -> None:
    source, device = recording("yuyv422", controls={"gain": 3})
    picture = source.read(memory)
    device.there = False  # and the recording ends
    threading.Timer(2.0, lambda: setattr(device, "there", True)).start()
    while picture is not None and picture.epoch == 0:
        picture = source.read(memory)
    assert picture is not None
    assert picture.epoch == 1
    assert "/dev/video0 is not there" in [change.reason for change in log.changes]
    assert device.prepared == [{"gain": 3}] * 2, "its controls are set again"
    source.close()
    eventually(lambda: not feed_threads())


def test_pictures_that_nobody_reads_in_time_are_counted(recording: Recording, log: Log) -> None:
    source, _ = recording("yuyv422")
    assert source.read(memory) is not None
    feed = source._feed
    assert isinstance(feed, AvFeed)
    left = COUNT - 1 - 4  # of those not read, four wait
    eventually(lambda: source.troubles.counts["lost"] in (left, left + 1))
    told = [event.message for event in log.events if isinstance(event, ErrorRaised)]
    assert told[0].startswith("pictures come faster than they are read; some are lost (lost: ")


def test_what_the_camera_is_asked_for(recording: Recording) -> None:
    source, device = recording("nv12", format="mjpg", camera_hw=[720, 1280], fps=29.97)
    assert source.read(memory) is not None
    assert device.asked == [
        {"input_format": "mjpeg", "video_size": "1280x720", "framerate": "29.97"}
    ]
    assert CameraConfig().options == {}
    assert (CameraConfig().path, CameraConfig(device=7).path) == ("/dev/video0", "/dev/video7")


# A camera that gives nothing for a while, or for ever


class Unready:
    """A container that says that there is nothing yet before each packet; `stalled`: and says so
    again and again."""

    def __init__(self, container: Any) -> None:
        self._container = container
        self.stalled = False
        self.asked = 0

    def demux(self, stream: Any) -> Iterator[Any]:
        self.asked += 1
        if self.stalled or self.asked % 3:
            raise av.error.BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        yield next(self._container.demux(stream))
        self.stalled |= self.asked > 30
        raise av.error.BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


@pytest.fixture
def unready(monkeypatch: pytest.MonkeyPatch) -> list[Unready]:
    made: list[Unready] = []

    @contextmanager
    def opened(address: Address, limits: IoLimits) -> Iterator[tuple[Any, Any]]:
        with av_open.opened(address, limits) as (container, stream):
            made.append(Unready(container))
            yield made[-1], stream

    monkeypatch.setattr("stages.sources.av_packets.opened", opened)
    return made


def test_a_device_that_has_nothing_yet_is_asked_again(
    recording: Recording, log: Log, unready: list[Unready]
) -> None:
    source, _ = recording("yuyv422", frozen_after=None)
    for _ in range(5):
        picture = source.read(memory)
        assert picture is not None
        assert bars(shown(picture)) == BARS
    assert unready[0].asked >= 15
    assert log.states == ["connecting", "streaming"]


def test_a_device_that_stalls_is_released_and_opened_again(
    recording: Recording, log: Log, unready: list[Unready]
) -> None:
    source, _ = recording("yuyv422", frozen_after=None, stale_after_s=0.2, reconnect_after_s=1)
    before = len(os.listdir("/proc/self/fd"))
    picture = source.read(memory)
    assert len(os.listdir("/proc/self/fd")) > before
    while picture is not None and picture.epoch == 0:
        picture = source.read(memory)
    assert picture is not None
    assert len(unready) == 2
    assert log.states == ["connecting", "streaming", "stale", "reconnecting", "streaming"]
    eventually(lambda: len(feed_threads()) == 1)
    source.close()
    eventually(lambda: not feed_threads())
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)


def test_close_ends_a_read_of_a_device_that_stalls(
    recording: Recording, log: Log, unready: list[Unready]
) -> None:
    source, _ = recording("yuyv422", reconnect_after_s=3600)
    got: list[object] = [source.read(memory)]
    unready[0].stalled = True

    def follow() -> None:
        while got[-1] is not None:
            got.append(source.read(memory))

    reader = aside(follow)
    eventually(lambda: "stale" in log.states)
    began = time.monotonic()
    source.close()
    reader.join(20)
    assert time.monotonic() - began < 1.0
    assert got[-1] is None
    eventually(lambda: not feed_threads())


def test_a_camera_is_opened_not_to_wait(tmp_path: Path) -> None:
    """FFmpeg opens Video4Linux devices with O_NONBLOCK then; it takes all the options."""
    address = V4l2Device("/dev/video0").address({"framerate": "30"})
    assert address.options["framerate"] == "30"
    (tmp_path / "bytes").write_bytes(mjpg())
    rest = {key: value for key, value in address.options.items() if key != "framerate"}
    with av.open(str(tmp_path / "bytes"), format="mjpeg", options=rest) as container:
        assert next(container.decode(video=0)).width == SIZE[0]
        assert container.flags & FORMAT_NONBLOCK


# The device itself


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/dev/video199", "/dev/video199 is not there"),
        ("/dev/null", "/dev/null is no video device, expected one such as /dev/video0"),
        ("/dev/shm", "/dev/shm is no video device, expected one such as /dev/video0"),  # noqa: S108
    ],
)
def test_a_device_that_is_none_is_told_in_one_line(path: str, expected: str) -> None:
    with pytest.raises(FeedError) as caught:
        V4l2Device(path).prepare({})
    assert str(caught.value) == expected


def test_a_device_that_is_not_there_is_waited_for_and_told(log: Log) -> None:
    source = CameraSource(CameraConfig(device=199))
    threading.Timer(1.0, source.close).start()
    assert source.read(memory) is None
    assert log.states[:2] == ["connecting", "reconnecting"]
    assert log.changes[1].reason == "/dev/video199 is not there"


@pytest.mark.parametrize(
    "device", ["-1", "256", "camera", "/etc/passwd", "/dev/../etc/passwd", "rtsp://cam", "''"]
)
def test_what_names_no_device_is_refused(tmp_path: Path, device: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        f"name: t\nsource: {{kind: camera, device: {device}}}\n"
        "detector: {kind: none}\nsegmenter: {kind: sam2_image, max_objects: 2}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(str(path))
    assert "source.device: got " in str(caught.value)
    assert "expected the N of /dev/videoN, or a path such as /dev/video0" in str(caught.value)


class Kernel:
    """Answers the ioctls of a device, laid out as linux/videodev2.h says."""

    def __init__(self, capabilities: int, controls: dict[int, bytes]) -> None:
        self._capabilities, self._controls = capabilities, controls
        self.values: dict[int, int] = {}
        self.colour = (0, 0, 0, 0)
        """colorspace, priv, ycbcr_enc, quantization."""

    def ioctl(self, handle: int, request: int, data: Any) -> int:
        if request == 0x80685600:
            data[:] = _CAPABILITY.pack(b"uvc", b"cam", b"usb", 0, 0x80000000, self._capabilities)
        elif request == 0xC0D05604:
            assert _FORMAT.unpack(data)[0] == 1
            space, priv, encoding, levels = self.colour
            data[:] = _FORMAT.pack(1, 96, 64, 0, 1, 192, 12288, space, priv, 0, encoding, levels, 0)
        elif request == 0xC0445624:
            after = int.from_bytes(data[:4], "little") & 0x7FFFFFFF
            number = min((n for n in self._controls if n > after), default=None)
            if number is None:
                raise OSError(errno.EINVAL, "Invalid argument")
            data[:] = _CONTROL_INFO.pack(number, 1, self._controls[number], 0, 9, 1, 0, 0)
        else:
            assert request == 0xC008561C
            number, value = _CONTROL.unpack(data)
            if value > 9:
                raise OSError(errno.ERANGE, "Numerical result out of range")
            self.values[number] = value
        return 0


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Kernel]:
    def make(capabilities: int = 1) -> Kernel:
        kernel = Kernel(capabilities, {0x980900: b"Brightness", 0x98090C: b"White Balance, Auto"})
        monkeypatch.setattr(fcntl, "ioctl", kernel.ioctl)
        return kernel

    return make


def test_controls_are_set_by_the_names_that_people_know(kernel: Callable[..., Kernel]) -> None:
    device = kernel()
    before = len(os.listdir("/proc/self/fd"))
    V4l2Device("/dev/null").prepare({"white_balance_auto": 0, "brightness": 5})
    assert list(device.values.items()) == [(0x98090C, 0), (0x980900, 5)]
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("capabilities", "controls", "expected"),
    [
        (0, {}, "gives no pictures, expected the camera's capture node"),
        (1, {"shine": 1}, "controls: shine is none of /dev/null: brightness, white_balance_auto"),
        (1, {"brightness": 99}, "controls: brightness: 99 is refused: Numerical result"),
    ],
)
def test_what_a_device_refuses_is_told(
    kernel: Callable[..., Kernel], capabilities: int, controls: dict[str, int], expected: str
) -> None:
    kernel(capabilities)
    with pytest.raises(FeedError) as caught:
        V4l2Device("/dev/null").prepare(controls)
    assert expected in str(caught.value)


MAGIC = 0xFEEDCAFE
"""V4L2_PIX_FMT_PRIV_MAGIC."""


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ((8, MAGIC, 0, 0), Colours("bt601", False)),  # sRGB, as USB cameras say
        ((8, MAGIC, 2, 1), Colours("bt709", True)),
        ((3, MAGIC, 0, 0), Colours("bt709", False)),
        ((3, 0, 1, 1), Colours("bt709", False)),  # from an old driver: what is behind is noise
        ((7, MAGIC, 0, 0), Colours("bt601", True)),
        ((7, MAGIC, 1, 2), Colours("bt601", False)),
        ((10, MAGIC, 0, 0), Colours("bt2020", False)),
        ((0, MAGIC, 0, 0), None),
        ((2, MAGIC, 8, 0), None),  # SMPTE 240M
    ],
)
def test_what_a_driver_says_of_colour(
    kernel: Callable[..., Kernel], told: tuple[int, ...], expected: Colours | None
) -> None:
    kernel().colour = told  # type: ignore[assignment]
    assert V4l2Device("/dev/null").colours() == expected


def test_of_a_device_that_is_none_no_colour_is_known() -> None:
    assert V4l2Device("/dev/null").colours() is None
    assert V4l2Device("/dev/video199").colours() is None


def test_the_layouts_are_the_kernels() -> None:
    sizes = (_CAPABILITY.size, _CONTROL_INFO.size, _CONTROL.size, _FORMAT.size)
    assert sizes == (104, 68, 8, 208)
    assert control_name("Exposure Time, Absolute") == "exposure_time_absolute"
