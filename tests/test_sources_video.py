"""Video files that PyAV wrote: colours, times, passes, changes of size, and files of no use."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray
from pydantic import ValidationError

from kpi.emit import current_logger
from kpi.events import ErrorRaised, Event
from stages.base import Picture
from stages.errors import ConfigError, SourceError
from stages.sources.video import VideoConfig, VideoSource

RED = (200, 60, 30)


def fresh(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.full(shape, 77, np.uint8)


def shades(count: int, size_hw: tuple[int, int] = (48, 64)) -> list[NDArray[np.uint8]]:
    """Pictures that can be told apart: picture n is grey of 10 n."""
    return [np.full((*size_hw, 3), 10 * n, np.uint8) for n in range(count)]


def write(
    path: Path,
    pictures: Sequence[NDArray[np.uint8]],
    *,
    codec: str = "mpeg4",
    pix_fmt: str = "yuv420p",
    stamps_ms: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    **codec_context: Any,
) -> str:
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        time_base = Fraction(1, 25 if stamps_ms is None else 1000)
        stream.codec_context.time_base = time_base
        for name, value in codec_context.items():
            setattr(stream.codec_context, name, value)
        for n, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = frame.reformat(
                format=pix_fmt,
                dst_colorspace=codec_context.get("colorspace"),
                dst_color_range=codec_context.get("color_range"),
            )
            frame.pts = n if stamps_ms is None else stamps_ms[n]
            frame.time_base = time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


def opened(path: str | Path, **changes: Any) -> VideoSource:
    return VideoSource(VideoConfig(path=str(path), **{"realtime": False, **changes}))


def read_all(source: VideoSource, most: int = 1000) -> list[Picture]:
    pictures = []
    while len(pictures) < most and (picture := source.read(fresh)) is not None:
        pictures.append(picture)
    return pictures


def assert_shades(pictures: list[Picture], expected: Sequence[int]) -> None:
    means = [float(picture.pixels.mean()) for picture in pictures]
    np.testing.assert_allclose(means, [10 * n for n in expected], atol=4)


class TestPictures:
    @pytest.mark.parametrize(
        ("name", "codec"),
        [("a.mp4", "mpeg4"), ("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.ts", "mpeg2video")],
    )
    def test_every_picture_comes_once_and_in_order(
        self, tmp_path: Path, name: str, codec: str
    ) -> None:
        # x264 writes B-frames by default: decoding order is not the order of display.
        source = opened(write(tmp_path / name, shades(20), codec=codec))
        assert source.size_hw == (48, 64)
        pictures = read_all(source)
        assert {picture.pixels.shape for picture in pictures} == {(48, 64, 3)}
        assert {picture.epoch for picture in pictures} == {0}
        assert_shades(pictures, range(20))
        assert source.read(fresh) is None

    @pytest.mark.parametrize("matrix", [Colorspace.ITU601, Colorspace.ITU709])
    @pytest.mark.parametrize("limits", [ColorRange.MPEG, ColorRange.JPEG])
    def test_colours_follow_their_tags(
        self, tmp_path: Path, matrix: Colorspace, limits: ColorRange
    ) -> None:
        path = write(
            tmp_path / "a.mkv",
            [np.full((48, 64, 3), RED, np.uint8)] * 3,
            codec="libx264",
            colorspace=int(matrix),
            color_range=int(limits),
        )
        (picture, *_) = read_all(opened(path))
        np.testing.assert_allclose(picture.pixels, np.broadcast_to(RED, (48, 64, 3)), atol=4)

    @pytest.mark.parametrize(
        ("height", "matrix", "other"),
        [(576, Colorspace.ITU601, Colorspace.ITU709), (720, Colorspace.ITU709, Colorspace.ITU601)],
    )
    def test_untagged_colours_follow_the_size(
        self, tmp_path: Path, height: int, matrix: Colorspace, other: Colorspace
    ) -> None:
        shown = []
        for written in (matrix, other):
            picture = av.VideoFrame.from_ndarray(np.full((height, 64, 3), RED, np.uint8), "rgb24")
            stored = picture.reformat(format="yuv420p", dst_colorspace=written)
            stored.colorspace = 2  # unspecified
            path = tmp_path / f"{int(written)}.mkv"
            with av.open(str(path), "w") as container:
                stream = container.add_stream("ffv1", rate=25)
                stream.height, stream.width, stream.pix_fmt = height, 64, "yuv420p"
                container.mux(stream.encode(stored))
                container.mux(stream.encode())
            (first,) = read_all(opened(path))
            shown.append(first.pixels[height // 2, 32].astype(int))
        np.testing.assert_allclose(shown[0], RED, atol=4)
        assert np.abs(shown[1] - RED).max() > 8  # the other matrix would show

    @pytest.mark.parametrize("pix_fmt", ["gray", "gray16le"])
    def test_grey_stays_one_plane(self, tmp_path: Path, pix_fmt: str) -> None:
        path = write(tmp_path / "a.mkv", shades(4), codec="ffv1", pix_fmt=pix_fmt)
        pictures = read_all(opened(path))
        assert {picture.pixels.shape for picture in pictures} == {(48, 64)}
        assert_shades(pictures, range(4))

    def test_odd_sizes_lose_no_column(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (17, 33, 3), np.uint8)
        path = write(tmp_path / "a.avi", [noise], codec="huffyuv", pix_fmt="rgb24")
        (picture,) = read_all(opened(path))
        np.testing.assert_array_equal(picture.pixels, noise)

    def test_it_fills_the_array_it_is_given(self, tmp_path: Path) -> None:
        given = fresh((48, 64, 3))
        source = opened(write(tmp_path / "a.mp4", shades(2)), spacing_mm=[0.2, 0.3])
        picture = source.read(lambda _: given)
        assert picture is not None
        assert picture.pixels is given
        assert picture.spacing_mm == (0.2, 0.3)


def png() -> bytes:
    codec = av.CodecContext.create("png", "w")
    codec.width, codec.height, codec.pix_fmt = 8, 8, "rgb24"
    codec.time_base = Fraction(1, 25)
    (packet,) = codec.encode(av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8), "rgb24"))
    return bytes(packet)


class TestTimes:
    def test_stamps_are_the_schedule(self, tmp_path: Path) -> None:
        stamps = [0, 10, 60, 65, 120]
        path = write(tmp_path / "a.mkv", shades(5), codec="ffv1", stamps_ms=stamps)
        begin = time.monotonic_ns()
        times = [p.captured_ns for p in read_all(opened(path, realtime=True))]
        assert list(np.diff(times) // 1_000_000) == [10, 50, 5, 55]
        assert times[0] >= begin
        assert time.monotonic_ns() >= times[-1]  # the last was waited for

    def test_as_fast_as_asked_the_clock_tells_the_time(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.mkv", shades(3), codec="ffv1", stamps_ms=[0, 9000, 18_000])
        begin = time.monotonic_ns()
        times = [p.captured_ns for p in read_all(opened(path))]
        assert begin <= times[0] <= times[-1] <= time.monotonic_ns()

    def test_a_loop_raises_the_epoch_and_goes_on_in_time(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.mkv", shades(4), codec="ffv1", stamps_ms=[0, 5, 10, 15])
        pictures = read_all(opened(path, realtime=True, loop=True), 10)
        assert [p.epoch for p in pictures] == [0] * 4 + [1] * 4 + [2] * 2
        assert_shades(pictures, [0, 1, 2, 3, 0, 1, 2, 3, 0, 1])
        steps = np.diff([p.captured_ns for p in pictures]) // 1_000_000
        between = steps[3]  # one nominal period of the file
        assert list(steps) == [5, 5, 5, between, 5, 5, 5, between, 5]
        assert 4 <= between <= 40

    def test_a_change_of_size_raises_the_epoch(self, tmp_path: Path) -> None:
        small = write(tmp_path / "1.ts", shades(6), codec="mpeg2video")
        large = write(tmp_path / "2.ts", shades(6, (96, 80)), codec="mpeg2video")
        both = tmp_path / "both.ts"
        both.write_bytes(Path(small).read_bytes() + Path(large).read_bytes())
        source = opened(both, realtime=True)  # the stamps start again: must not hang
        assert source.size_hw == (48, 64)
        seen = [(p.epoch, p.pixels.shape) for p in read_all(source)]
        assert list(dict.fromkeys(seen)) == [(0, (48, 64, 3)), (1, (96, 80, 3))]
        assert len(seen) >= 11  # the splice may cost the last picture before it

    @pytest.mark.parametrize(("name", "codec"), [("a.mp4", "mpeg4"), ("a.ts", "mpeg2video")])
    @pytest.mark.parametrize("start_s", [0.0, 0.04, 0.5, 0.799, 0.92])
    def test_it_can_begin_anywhere(
        self, tmp_path: Path, name: str, codec: str, start_s: float
    ) -> None:
        path = write(tmp_path / name, shades(24), codec=codec, gop_size=6)
        first = math.ceil(start_s * 25 - 1e-6)
        source = opened(path, start_s=start_s, loop=True)
        pictures = read_all(source, 2 * (24 - first))
        assert_shades(pictures, [*range(first, 24)] * 2)
        assert [picture.epoch for picture in pictures] == [0] * (24 - first) + [1] * (24 - first)

    def test_far_into_a_long_one_it_seeks(self, tmp_path: Path) -> None:
        pictures = [np.full((48, 64, 3), n % 25 * 10, np.uint8) for n in range(300)]
        path = write(tmp_path / "a.mp4", pictures, gop_size=25)
        source = opened(path, start_s=11.2)
        assert_shades(read_all(source), [n % 25 for n in range(280, 300)])
        assert source._file.decoded < 200

    def test_not_after_its_end(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.mp4", shades(5))
        with pytest.raises(SourceError, match=r"start_s: the file has no picture 0.2 s after"):
            opened(path, start_s=0.2)

    def test_close_wakes_a_read_that_waits(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.mkv", shades(3), codec="ffv1", stamps_ms=[0, 9000, 18_000])
        source = opened(path, realtime=True)
        assert source.read(fresh) is not None
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(source.read, fresh)
            time.sleep(0.1)
            assert not reading.done()
            source.close()
            assert reading.result(1.0) is None
        assert source.read(fresh) is None
        source.close()

    def test_closing_while_it_decodes_is_safe(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.mp4", shades(20))
        for _ in range(5):
            source = opened(path, loop=True)
            with ThreadPoolExecutor(1) as pool:
                reading = pool.submit(read_all, source, 10**6)
                time.sleep(0.02)
                source.close()
                assert reading.result(5.0)


class Recorder:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)


def noise(count: int) -> list[NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(count)]


class TestFilesOfNoUse:
    @pytest.mark.parametrize(
        "path",
        ["nowhere.mp4", ".", "/dev/zero", "http://127.0.0.1/a.mp4", "concat:a.ts|b.ts", "a\0b"],
    )
    def test_what_is_no_local_file(self, path: str) -> None:
        with pytest.raises(ConfigError, match=r"^source video: path: .* expected a video file"):
            opened(path)

    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "a.mp4")
        with pytest.raises(ConfigError, match="not a regular file"):
            opened(tmp_path / "a.mp4")

    @pytest.mark.parametrize("content", [b"", b"no video\n" * 99, bytes(5000)])
    def test_what_is_no_video(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "a.mp4"
        path.write_bytes(content)
        with pytest.raises(SourceError, match=r"^source video: the file is no readable video"):
            opened(path)

    @pytest.mark.parametrize(
        ("content", "format_name"),
        [
            ("ffconcat version 1.0\nfile private.mp4\n", "concat"),
            ("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nprivate.ts\n#EXT-X-ENDLIST\n", "hls"),
        ],
    )
    def test_a_playlist_in_disguise_opens_nothing(
        self, tmp_path: Path, content: str, format_name: str
    ) -> None:
        write(tmp_path / "private.mp4", shades(3))
        write(tmp_path / "private.ts", shades(3), codec="mpeg2video")
        playlist = tmp_path / "a.mp4"
        playlist.write_text(content)
        if format_name == "concat":  # FFmpeg alone would follow it
            assert av.open(str(playlist)).format.name == format_name
        with pytest.raises(SourceError, match="no readable video, expected one of the containers"):
            opened(playlist)

    @pytest.mark.parametrize("size_hw", [(1, 1), (1, 65), (3, 2)])
    def test_the_smallest_pictures(self, tmp_path: Path, size_hw: tuple[int, int]) -> None:
        path = write(tmp_path / "a.mkv", shades(3, size_hw), codec="ffv1", pix_fmt="bgr0")
        assert_shades(read_all(opened(path)), range(3))

    def test_a_file_that_grows_ends_where_it_ended(self, tmp_path: Path) -> None:
        path = Path(write(tmp_path / "a.ts", noise(40), codec="mpeg2video"))
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        source = opened(path)
        before = len(read_all(source, 5))
        path.write_bytes(content)
        assert before + len(read_all(source)) <= 40

    def test_a_file_named_like_an_address_is_a_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain = Path(write(tmp_path / "a.mp4", shades(3)))
        plain.rename(tmp_path / "concat:a.mp4")
        monkeypatch.chdir(tmp_path)
        assert_shades(read_all(opened("concat:a.mp4")), range(3))

    @pytest.mark.parametrize("cover", [False, True])
    def test_sound_without_pictures(self, tmp_path: Path, cover: bool) -> None:
        path = tmp_path / "a.mkv"
        with av.open(str(path), "w") as container:
            if cover:
                container.add_attachment("cover.png", "image/png", png())
            stream = container.add_stream("aac", rate=44_100, layout="mono")
            samples = np.zeros((1, 4096), np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate = 44_100
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        assert len(av.open(str(path)).streams.video) == cover  # FFmpeg calls a cover a video
        with pytest.raises(SourceError, match="no video stream"):
            opened(path)

    def test_pictures_above_the_limit_are_not_decoded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from stages.sources import video_file

        path = write(tmp_path / "a.mp4", shades(3))
        monkeypatch.setattr(video_file, "SIZE_LIMIT", {"max_pixels": "1000"})
        with pytest.raises(
            SourceError, match=r"no picture in the file decodes, expected .* pixels"
        ):
            opened(path)

    def test_a_file_without_its_index(self, tmp_path: Path) -> None:
        path = Path(write(tmp_path / "a.mp4", noise(30)))
        path.write_bytes(path.read_bytes()[:-2000])  # mp4 keeps it at the end
        with pytest.raises(SourceError, match="no readable video"):
            opened(path)

    @pytest.mark.parametrize(("name", "codec"), [("a.mkv", "ffv1"), ("a.ts", "mpeg2video")])
    def test_cut_off_it_gives_what_is_there_and_ends(
        self, tmp_path: Path, name: str, codec: str
    ) -> None:
        path = Path(write(tmp_path / name, noise(40), codec=codec))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert 10 <= len(read_all(opened(path))) <= 30

    def test_packets_that_do_not_decode_are_skipped_and_told_once(self, tmp_path: Path) -> None:
        path = Path(
            write(tmp_path / "a.mp4", noise(40), options={"movflags": "faststart"}, gop_size=1)
        )
        spoilt = bytearray(path.read_bytes())
        middle = len(spoilt) // 2
        spoilt[middle : middle + 9000] = bytes(9000)
        path.write_bytes(spoilt)
        recorder = Recorder()
        context = copy_context()
        context.run(current_logger.set, recorder)
        pictures = context.run(read_all, opened(path))
        assert 20 <= len(pictures) < 40
        assert [type(event) for event in recorder.events] == [ErrorRaised]

    def test_a_broken_container_is_told_after_the_pictures_before_it(self, tmp_path: Path) -> None:
        path = Path(
            write(tmp_path / "a.mp4", noise(40), options={"movflags": "faststart"}, gop_size=1)
        )
        content = bytearray(path.read_bytes())
        sizes = content.index(b"stsz") + 16  # the sample sizes follow
        content[sizes + 4 * 30 : sizes + 4 * 31] = (0x20000000).to_bytes(4, "big")
        path.write_bytes(content)
        source = opened(path)
        for _ in range(25):
            assert source.read(fresh) is not None
        with pytest.raises(SourceError, match=r"^source video: the file is broken: "):
            read_all(source)

    def test_a_loop_whose_file_vanished(self, tmp_path: Path) -> None:
        path = Path(write(tmp_path / "a.mp4", shades(3)))
        source = opened(path, loop=True)
        assert len(read_all(source, 3)) == 3
        path.unlink()
        with pytest.raises(SourceError, match="No such file"):
            source.read(fresh)


def test_no_threads_are_left_behind(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", shades(3))
    before = threading.active_count()
    source = opened(path)
    read_all(source)
    source.close()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("key", "value"),
    [("path", ""), ("realtime", "often"), ("spacing_mm", [1, -1]), ("source_id", ""), ("x", 1)],
)
def test_what_cannot_be_configured(key: str, value: object) -> None:
    with pytest.raises(ValidationError, match=key):
        VideoConfig.model_validate({"kind": "video", "path": "x", key: value})
