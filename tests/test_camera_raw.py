"""Raw pictures of cameras: uploaded as they are, converted on the device, as the host would."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray
from rtsp_peer import BARS, RGB, bars
from test_sources_camera import COUNT, SIZE, Recorded, picture_of_bars, raw
from test_sources_rtsp import memory

from pipeline.audit import residency_guard
from stages.base import Picture
from stages.grab import Grab
from stages.records import Frame
from stages.sources.av_pictures import PictureWriter
from stages.sources.av_raw import Colours, RawTaker
from stages.sources.camera import CameraConfig, CameraSource
from stages.upload import UploadRing
from stages.window import Window, whole
from stages.ycbcr import YCbCr, whole_pairs

CPU = torch.device("cpu")
FULL = (SIZE[1], SIZE[0])
FORMATS = ["nv12", "yuyv422"]
TAGS = [
    (Colorspace.ITU601, ColorRange.MPEG),
    (Colorspace.ITU601, ColorRange.JPEG),
    (Colorspace.ITU709, ColorRange.MPEG),
    (Colorspace.ITU709, ColorRange.JPEG),
]


def untold() -> None:
    """A driver that says nothing of colour."""


def camera_frames(tmp_path: Path, pixel_format: str, **options: Any) -> tuple[list[Frame], Grab]:
    """Through Grab, whose consumer is under the guard."""
    (tmp_path / "bytes").write_bytes(raw(pixel_format))
    size = {"video_size": f"{SIZE[0]}x{SIZE[1]}", "pixel_format": pixel_format}
    device = Recorded(tmp_path / "bytes", size, "rawvideo")
    source = CameraSource(CameraConfig.model_validate(options), device)
    grab = Grab(source, CPU, mailbox="every", frames=3)
    frames: list[Frame] = []
    grab.start()
    with torch.inference_mode(), residency_guard() as report:
        while not grab.ended:
            frame = grab.get(0.1)
            if frame is not None:
                frames.append(frame)
    grab.stop()
    assert not report.violations
    return frames, grab


@pytest.mark.parametrize(("pixel_format", "of_rgb"), [("nv12", 1 / 2), ("yuyv422", 2 / 3)])
def test_a_run_uploads_the_raw_bytes_once_and_converts_them_on_its_device(
    tmp_path: Path, pixel_format: str, of_rgb: float
) -> None:
    frames, grab = camera_frames(tmp_path, pixel_format)
    assert len(frames) == 3 < COUNT
    for frame in frames:
        assert frame.rgb.dtype == torch.uint8
        assert frame.rgb.is_contiguous()
        assert frame.size_hw == FULL
        pixels = frame.rgb.permute(1, 2, 0).numpy()
        assert bars(pixels) == BARS
        assert np.abs(pixels.astype(int) - picture_of_bars()).max() <= 4, "twice through 8 bits"
    (copies,) = grab.copies
    assert copies.copies == 3
    assert copies.copied_bytes == 3 * FULL[0] * FULL[1] * 3 * of_rgb


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_of_a_region_only_its_pairs_of_pixels_are_uploaded(
    tmp_path: Path, pixel_format: str
) -> None:
    edge = SIZE[0] // 7  # between white and yellow
    roi = {"y": 3, "x": edge - 5, "height": 9, "width": 12}
    frames, grab = camera_frames(tmp_path, pixel_format, roi=roi)
    rgb = frames[0].rgb.permute(1, 2, 0).numpy().astype(int)
    assert rgb.shape == (9, 12, 3)
    assert (frames[0].origin_yx, frames[0].full_hw) == ((3, edge - 5), FULL)
    assert np.abs(rgb[:, :5] - RGB["white"]).max() < 12
    assert np.abs(rgb[:, 5:] - RGB["yellow"]).max() < 12
    rows = 10 * 3 // 2 if pixel_format == "nv12" else 9 * 2  # one row more where rows share chroma
    assert grab.copies[0].copied_bytes == 3 * rows * 14


def decoded(pixel_format: str, tags: tuple[Colorspace, ColorRange]) -> av.VideoFrame:
    """A test picture as a decoder would give it: bars, and a ramp of grey."""
    picture = picture_of_bars()
    ramp = np.linspace(0, 255, SIZE[0]).astype(np.uint8)
    picture[20:] = ramp[:, None]
    space, levels = tags
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
        format=pixel_format, dst_colorspace=space, dst_color_range=levels
    )
    frame.colorspace, frame.color_range = space, levels
    return frame


def on_device(pixels: NDArray[np.uint8], ycbcr: YCbCr | None) -> NDArray[Any]:
    ring = UploadRing(CPU, 1)
    slot = ring.acquire(pixels.shape)
    assert slot is not None
    slot.pixels[...] = pixels
    ring.upload(slot, ycbcr)
    return ring.take(slot).permute(1, 2, 0).numpy().astype(int)


@pytest.mark.parametrize("tags", TAGS)
@pytest.mark.parametrize("pixel_format", FORMATS)
def test_the_device_shows_what_the_host_would(
    pixel_format: str, tags: tuple[Colorspace, ColorRange]
) -> None:
    frame = decoded(pixel_format, tags)
    host, none = PictureWriter("camera").take_in(frame, whole(FULL), memory)
    assert none is None
    pixels, ycbcr = RawTaker("camera", untold).take_in(frame, whole(FULL), memory)
    assert isinstance(pixels, np.ndarray)
    assert ycbcr is not None
    assert isinstance(host, np.ndarray)
    # FFmpeg's host conversion blends chroma across the edges of the bars; beside them it must not.
    beside = np.abs(np.arange(SIZE[0]) % (SIZE[0] // 7) - SIZE[0] // 14) < 3

    def apart(pixels: NDArray[np.uint8], ycbcr: YCbCr) -> int:
        off = np.abs(on_device(pixels, ycbcr) - host)
        return int(np.concatenate((off[:14, beside], off[26:, beside])).max())

    assert apart(pixels, ycbcr) <= 2
    # The controls: another matrix, the other range, Cb for Cr.
    other = "bt709" if ycbcr.matrix == "bt601" else "bt601"
    assert apart(pixels, replace(ycbcr, matrix=other)) > 10
    assert apart(pixels, replace(ycbcr, full_range=not ycbcr.full_range)) > 10
    assert apart(swapped(pixels, pixel_format), ycbcr) > 100


def swapped(pixels: NDArray[np.uint8], pixel_format: str) -> NDArray[np.uint8]:
    """Cb and Cr for each other."""
    out = pixels.copy()
    if pixel_format == "nv12":
        out[FULL[0] :, 0::2], out[FULL[0] :, 1::2] = pixels[FULL[0] :, 1::2], pixels[FULL[0] :, ::2]
    else:
        out[:, 0::2, 1], out[:, 1::2, 1] = pixels[:, 1::2, 1], pixels[:, 0::2, 1]
    return out


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_every_region_is_that_of_the_whole_picture(pixel_format: str) -> None:
    frame = decoded(pixel_format, TAGS[2])
    taker = RawTaker("camera", untold)
    pixels, ycbcr = taker.take_in(frame, whole(FULL), memory)
    assert isinstance(pixels, np.ndarray)
    full = on_device(pixels, ycbcr)
    for y, x, height, width in [(0, 0, 1, 1), (31, 111, 1, 1), (5, 7, 8, 9), (4, 6, 27, 105)]:
        window = Window((height, width), (y, x), FULL)
        pixels, ycbcr = taker.take_in(frame, window, memory)
        assert isinstance(pixels, np.ndarray)
        np.testing.assert_array_equal(on_device(pixels, ycbcr), window.cut(full))
        assert pixels.nbytes <= (height + 2) * (width + 2) * 2


def test_what_the_device_cannot_convert_is_converted_on_the_host() -> None:
    frame = decoded("nv12", TAGS[0])
    frame.colorspace = Colorspace.SMPTE240M
    pixels, ycbcr = RawTaker("camera", untold).take_in(frame, whole(FULL), memory)
    assert (pixels.shape, ycbcr) == ((*FULL, 3), None)
    odd = av.VideoFrame.from_ndarray(np.zeros((5, 7, 3), np.uint8), format="rgb24")
    for pixel_format in FORMATS:
        pixels, ycbcr = RawTaker("camera", untold).take_in(
            odd.reformat(format=pixel_format), whole((5, 7)), memory
        )
        assert (pixels.shape, ycbcr) == ((5, 7, 3), None)


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_what_the_driver_says_of_colour_counts_where_the_stream_says_nothing(
    pixel_format: str,
) -> None:
    asked: list[int] = []

    def told() -> Colours:
        asked.append(1)
        return Colours("bt709", True)

    taker = RawTaker("camera", told)
    frame = decoded(pixel_format, TAGS[3])
    for _ in range(2):
        frame.colorspace, frame.color_range = 2, 0
        pixels, ycbcr = taker.take_in(frame, whole(FULL), memory)
        assert ycbcr is not None
        assert (ycbcr.matrix, ycbcr.full_range) == ("bt709", True)
        assert isinstance(pixels, np.ndarray)
        assert np.abs(on_device(pixels, ycbcr)[:14] - picture_of_bars()[:14])[:, 6:10].max() <= 4
    assert asked == [1]
    tagged = decoded(pixel_format, TAGS[0])
    _, ycbcr = taker.take_in(tagged, whole(FULL), memory)
    assert ycbcr is not None
    assert (ycbcr.matrix, ycbcr.full_range) == ("bt601", False), "the stream's own word"
    frame.colorspace, frame.color_range = 2, 0
    _, ycbcr = RawTaker("camera", untold).take_in(frame, whole(FULL), memory)
    assert ycbcr is not None
    assert (ycbcr.matrix, ycbcr.full_range) == ("bt601", False), "by custom"


def test_grey_is_one_plane(tmp_path: Path) -> None:
    frames, grab = camera_frames(tmp_path, "gray")
    assert frames[0].rgb.stride(0) == 0
    assert grab.copies[0].copied_bytes == 3 * FULL[0] * FULL[1]


def test_a_picture_tells_the_size_of_what_it_shows() -> None:
    window = Window((3, 3), (1, 1), (8, 8))
    ycbcr = YCbCr(
        "nv12", "bt601", True, Window((3, 3), (1, 1), whole_pairs(window, "nv12").size_hw)
    )
    picture = Picture(np.zeros((6, 4), np.uint8), 0, 0, ycbcr=ycbcr)
    assert picture.size_hw == (3, 3)
    assert replace(picture, ycbcr=None).size_hw == (6, 4)
