"""Decoding on the GPU: what is asked of it before a run, and the way of its pictures. Without a GPU
that is software decoding whose planes are lent as NVDEC's would be, on the CPU as the device."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import ColorRange, Colorspace
from conftest import Outcome
from rtsp_peer import BARS, bars
from test_sources_camera import picture_of_bars
from test_sources_rtsp import memory

from pipeline import doctor
from pipeline.audit import residency_guard
from stages.base import DeviceSource
from stages.errors import ConfigError, SourceError
from stages.grab import Grab
from stages.records import Frame
from stages.sources import nvdec
from stages.sources.av_feed import AvFeed
from stages.sources.av_open import Address, IoLimits, opened
from stages.sources.av_pictures import PictureWriter, Taken
from stages.sources.av_source import AvSource
from stages.sources.feed import FeedError
from stages.sources.live_section import LiveSection
from stages.sources.nvdec import NvdecTaker, why_no_nvdec
from stages.sources.region import Region
from stages.sources.rtsp import RtspConfig, RtspSource
from stages.upload import UploadRing
from stages.window import Window, whole
from stages.ycbcr import DevicePlanes, YCbCr

CPU = torch.device("cpu")
SIZE_HW = picture_of_bars().shape[:2]
COUNT = 6
URL = "rtsp://127.0.0.1:1/a"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("nvdec") / "bars.mp4")


def written(path: Path, scale: int = 1) -> Path:
    """The bars, in H.264 and BT.709, each picture brighter at its foot than the one before."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10, options={"qp": "0", "bf": "0"})
        stream.height, stream.width = (scale * side for side in SIZE_HW)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace = Colorspace.ITU709
        stream.codec_context.color_range = ColorRange.MPEG
        for n in range(COUNT):
            picture = picture_of_bars()
            picture[24:] = 30 * n
            picture = picture.repeat(scale, 0).repeat(scale, 1)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709
            )
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


class OnDevice(NvdecTaker):
    """Lends what was decoded in software; `swap`: with Cb and Cr for each other."""

    swap = False

    def take_in(self, picture: av.VideoFrame, window: Window, buffer: Any) -> Taken:
        taken = self.lend(picture.reformat(format="nv12"), window)
        if self.swap:
            assert isinstance(taken.pixels, DevicePlanes)
            return taken._replace(pixels=replace(taken.pixels, cbcr=taken.pixels.cbcr.flip(-1)))
        return taken


class Clip(AvSource):
    """A live source whose stream is the clip."""

    def __init__(
        self, path: Path, taker: PictureWriter, roi: Region | None = None, **address: Any
    ) -> None:
        super().__init__(LiveSection(kind="clip", source_id="clip", roi=roi))
        self._address = Address(str(path), {}, None, **address)
        self._taker = taker

    def _connect(self) -> AvFeed:
        return AvFeed(
            "clip", self._address, IoLimits(5, 5), self._turns, self.troubles, taker=self._taker,
            roi=self._config.roi,
        )  # fmt: skip


def frames_of(source: Clip, device: torch.device = CPU) -> tuple[list[Frame], Grab]:
    """A few, taken under the guard."""
    grab = Grab(source, device, mailbox="every", frames=2)
    grab.start()
    frames: list[Frame] = []
    with torch.inference_mode(), residency_guard() as report:
        while not grab.ended:
            frame = grab.get(0.1)
            if frame is not None:
                frames.append(frame)
    grab.stop()
    assert not report.violations
    return frames, grab


def rgb(frame: Frame) -> np.ndarray[Any, np.dtype[Any]]:
    return frame.rgb.permute(1, 2, 0).cpu().numpy().astype(int)


def apart(one: Frame, other: Frame) -> int:
    """The largest difference, two pixels and more away from the edges of the bars, where the host
    blends chroma."""
    width = SIZE_HW[1] // len(BARS)
    beside = np.abs(np.arange(SIZE_HW[1]) % width - width // 2) < 3
    return int(np.abs(rgb(one) - rgb(other))[:16, beside].max())


def test_pictures_decoded_on_the_device_become_frames_without_an_upload(clip: Path) -> None:
    there, grab = frames_of(Clip(clip, OnDevice("clip")))
    here, host_grab = frames_of(Clip(clip, PictureWriter("clip")))
    assert [copies.copies for copies in (*grab.copies, *host_grab.copies)] == [0, 2]
    for frame, host in zip(there, here, strict=True):
        assert frame.size_hw == SIZE_HW
        assert frame.rgb.is_contiguous()
        assert bars(frame.rgb.permute(1, 2, 0).numpy()) == BARS
        assert apart(frame, host) <= 2
        assert frame.captured_ns <= frame.grabbed_ns
    assert rgb(there[1])[28, 5, 0] > rgb(there[0])[28, 5, 0] + 20, "each its own"


def test_swapped_chroma_would_be_seen(clip: Path) -> None:
    taker = OnDevice("clip")
    taker.swap = True
    (wrong, *_), _ = frames_of(Clip(clip, taker))
    (host, *_), _ = frames_of(Clip(clip, PictureWriter("clip")))
    assert bars(wrong.rgb.permute(1, 2, 0).numpy()) != BARS
    assert apart(wrong, host) > 100


def test_only_the_region_is_copied(clip: Path) -> None:
    roi = Region(y=3, x=5, height=9, width=20)
    (part, *_), grab = frames_of(Clip(clip, OnDevice("clip"), roi))
    (full, *_), _ = frames_of(Clip(clip, OnDevice("clip")))
    assert (part.origin_yx, part.full_hw) == ((3, 5), SIZE_HW)
    assert torch.equal(part.rgb, full.rgb[:, 3:12, 5:25])
    assert {slot.nbytes for slot in grab._ring._free} == {10 * 22 * 3 // 2}


def test_the_decoder_gets_its_memory_back(clip: Path) -> None:
    """What waits in the mailbox holds a copy, not the decoder's picture."""
    grab = Grab(Clip(clip, OnDevice("clip")), CPU, mailbox="every", frames=3)
    grab.start()
    grab._thread.join(10)  # type: ignore[union-attr]
    waiting = [grab._mailbox.discard() for _ in range(3)]
    assert [isinstance(one.picture.pixels, np.ndarray) for one in waiting if one] == [True] * 3
    grab.stop()


def decoded(pixel_format: str) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(picture_of_bars(), format="rgb24")
    frame = frame.reformat(format=pixel_format, dst_colorspace=Colorspace.ITU709)
    frame.colorspace, frame.color_range = Colorspace.ITU709, ColorRange.MPEG
    return frame


def shown(taken: Taken) -> np.ndarray[Any, np.dtype[Any]]:
    assert isinstance(taken.pixels, DevicePlanes)
    ring = UploadRing(CPU, 1)
    slot = ring.acquire(taken.pixels.shape)
    assert slot is not None
    ring.gather(slot, (taken.pixels.y, taken.pixels.cbcr), taken.ycbcr)
    return ring.take(slot).permute(1, 2, 0).numpy().astype(int)


def test_of_ten_bits_the_upper_eight_count() -> None:
    eight, ten = (
        shown(NvdecTaker("clip").lend(decoded(name), whole(SIZE_HW))) for name in ("nv12", "p010le")
    )
    assert bars(ten) == BARS
    assert np.abs(ten - eight).max() <= 4  # a level of luma and of chroma


@pytest.mark.parametrize("pixel_format", ["yuv444p", "yuv420p"])
def test_what_the_device_cannot_convert_is_told(pixel_format: str) -> None:
    with pytest.raises(SourceError) as caught:
        NvdecTaker("clip").lend(decoded(pixel_format), whole(SIZE_HW))
    assert str(caught.value).startswith(
        "source clip: these pictures cannot be converted on the GPU"
    )
    assert "decoder: host" in str(caught.value)


def test_what_was_decoded_on_the_host_all_the_same_is_converted_there() -> None:
    pixels, ycbcr = NvdecTaker("clip").take_in(decoded("yuv420p"), whole(SIZE_HW), memory)
    assert (pixels.shape, ycbcr) == ((*SIZE_HW, 3), None)


def test_a_picture_on_another_device_is_refused() -> None:
    ring = UploadRing(CPU, 1)
    slot = ring.acquire((3, 2))
    assert slot is not None
    ycbcr = YCbCr("nv12", "bt709", False, whole((2, 2)))
    planes = [torch.empty((2, 2), dtype=torch.uint8, device="meta")]
    with pytest.raises(ValueError, match="decoded on meta, expected cpu"):
        ring.gather(slot, planes, ycbcr)


# What is asked before a run


def test_a_run_on_the_cpu_cannot_decode_on_a_gpu() -> None:
    source = RtspSource(RtspConfig(url=URL, decoder="nvdec"))
    assert isinstance(source, DeviceSource)
    with pytest.raises(ConfigError) as caught:
        source.decode_on(CPU)
    assert str(caught.value) == (
        "source rtsp: decoder: nvdec cannot be had: the run is on the CPU; "
        "expected a CUDA GPU that decodes video, or decoder: host"
    )
    for decoder in ("host", "auto"):
        source = RtspSource(RtspConfig.model_validate({"url": URL, "decoder": decoder}))
        source.decode_on(CPU)
        assert source._gpu is None


def test_a_run_says_so_in_one_line(call_main: Any, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        f"name: t\ndevice: cpu\nsource: {{kind: rtsp, url: '{URL}', decoder: nvdec}}\n"
        "detector: {kind: none}\nsegmenter: {kind: sam2_image, max_objects: 2}\n"
    )
    outcome: Outcome = call_main("run", str(path), "--out", str(tmp_path / "out"))
    assert outcome.code == 78
    assert "decoder: nvdec cannot be had: the run is on the CPU" in outcome.stderr
    assert outcome.stderr.count("\n") == 1


def test_what_a_driver_or_a_pyav_lacks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(nvdec, "_LIBRARY", "libnothing.so.1")
    assert why_no_nvdec(cuda) == (
        "the driver's libnothing.so.1 is missing (in a container: the capability 'video')"
    )
    monkeypatch.setattr(nvdec, "_LIBRARY", "libc.so.6")
    assert why_no_nvdec(cuda) is None
    source = RtspSource(RtspConfig(url=URL, decoder="nvdec"))
    source.decode_on(cuda)
    feed = source._connect()
    feed.close()
    assert feed._address.hwaccel is not None
    assert isinstance(feed._taker, NvdecTaker)
    monkeypatch.setattr(nvdec, "hwdevices_available", lambda: ["vaapi"])
    assert "pip install 'maskstream[nvdec]'" in str(why_no_nvdec(cuda))


def test_the_host_is_asked_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stages.sources.nvdec", None)
    RtspSource(RtspConfig(url=URL)).decode_on(CPU)


def test_ffmpeg_is_asked_for_the_gpu(clip: Path) -> None:
    """Where there is none it says so, and nothing is decoded on the host instead."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    hwaccel = nvdec.nvdec(torch.device("cuda", 0), or_host=False)
    assert hwaccel.is_hw_owned
    stop = threading.Event()
    address = Address(str(clip), {}, hwaccel=hwaccel)
    with pytest.raises(av.FFmpegError), opened(address, IoLimits(5, 5)):
        stop.set()
    assert not stop.is_set()


def test_a_codec_that_the_gpu_lacks_is_told(tmp_path: Path) -> None:
    path = tmp_path / "grey.avi"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("rawvideo", rate=10)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"
        out.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
    hwaccel = nvdec.nvdec(torch.device("cuda", 0), or_host=False)
    address = Address(str(path), {}, hwaccel=hwaccel)
    with (
        pytest.raises(FeedError, match="the GPU decodes no such video"),
        opened(address, IoLimits(5, 5)),
    ):
        pass


def test_doctor_says_whether_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = doctor._nvdec(CPU)
    assert (finding.state, finding.detail) == (
        "absent",
        "no GPU that torch can use: PyAV decodes on the host",
    )
    monkeypatch.setattr(nvdec, "_LIBRARY", "libc.so.6")
    assert doctor._nvdec(torch.device("cuda", 0)).state == "ok"


@pytest.fixture
def cuda() -> torch.device:
    device = torch.device("cuda", 0)
    missing = why_no_nvdec(device)
    if missing is not None:
        pytest.skip(missing)
    return device


@pytest.mark.gpu
def test_nvdec_gives_device_tensors_and_copies_no_pixels(
    tmp_path: Path, cuda: torch.device
) -> None:
    """Not run yet: no GPU has been at hand."""
    from torch.profiler import ProfilerActivity, profile

    scale, packet_bytes = 8, 50_000
    clip = written(tmp_path / "large.mp4", scale)
    source = Clip(clip, NvdecTaker("clip"), hwaccel=nvdec.nvdec(cuda, or_host=False))
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        there, grab = frames_of(source, cuda)
        torch.cuda.synchronize(cuda)
    events = seen.profiler.kineto_results.events()
    assert any("DtoD" in event.name() or "kernel" in event.name().lower() for event in events)
    assert not [event.name() for event in events if "DtoH" in event.name()]
    sent = [event.nbytes() for event in events if "HtoD" in event.name()]
    assert all(nbytes < packet_bytes < grab_bytes(grab) for nbytes in sent), "packets, no pixels"
    assert [copies.copies for copies in grab.copies] == [0]
    here, _ = frames_of(Clip(clip, PictureWriter("clip")))
    for frame, host in zip(there, here, strict=True):
        assert frame.rgb.is_cuda
        assert bars(frame.rgb.permute(1, 2, 0).cpu().numpy()) == BARS
        beside = slice(5 * scale, 11 * scale)  # of the first bar
        assert np.abs(rgb(frame) - rgb(host))[: 16 * scale, beside].max() <= 2


def grab_bytes(grab: Grab) -> int:
    """Of a picture."""
    return max(slot.nbytes for slot in grab._ring._free)
