"""Files whose pictures are not evenly spaced, or are stored in another order than shown."""

from __future__ import annotations

import subprocess
from pathlib import Path

import av
import numpy as np
import pytest
from services import require

from stages.base import Picture
from stages.sources.video import VideoConfig, VideoSource

RATE = 25
KEPT = [0, 1, 2, 3, 7, 8, 13, 14, 15, 22]
"""Of 24 pictures; picture n has luma 20 + 8 n everywhere."""


def written(path: Path, select: str, *codec: str) -> Path:
    """By FFmpeg's own program."""
    shades = (
        f"color=size=64x48:rate={RATE}:duration=1,geq=lum='20+8*N':cb=128:cr=128,trim=end_frame=24"
    )
    command = [require("ffmpeg"), "-v", "error", "-f", "lavfi", "-i", f"{shades},select='{select}'"]
    subprocess.run(
        [*command, "-fps_mode", "vfr", "-pix_fmt", "yuv420p", *codec, str(path)],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return path


def variable(path: Path) -> Path:
    return written(path, "+".join(f"eq(n,{n})" for n in KEPT), "-c:v", "libx264", "-bf", "0")


def with_b_frames(path: Path) -> Path:
    options = ("-bf", "3", "-b_strategy", "0", "-x264-params", "b-pyramid=normal:scenecut=0")
    return written(path, "1", "-c:v", "libx264", *options)


def read_all(path: Path, *, realtime: bool) -> list[Picture]:
    source = VideoSource(VideoConfig(path=str(path), realtime=realtime))
    found = []
    while (picture := source.read(lambda shape: np.empty(shape, np.uint8))) is not None:
        found.append(picture)
    source.close()
    return found


def number(picture: Picture) -> int:
    """Which of the 24 it is, by its shade."""
    luma = float(np.asarray(picture.pixels).mean()) * 219 / 255 + 16
    return round((luma - 20) / 8)


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_variable_rate_is_played_at_the_times_that_the_file_tells(
    tmp_path: Path, suffix: str
) -> None:
    path = variable(tmp_path / f"vfr.{suffix}")
    pictures = read_all(path, realtime=True)
    assert [number(picture) for picture in pictures] == KEPT
    begun = pictures[0].captured_ns
    offsets_ms = [(picture.captured_ns - begun) / 1e6 for picture in pictures]
    assert offsets_ms == pytest.approx([1000 * n / RATE for n in KEPT], abs=1.0)
    even = [1000 * n * KEPT[-1] / (RATE * (len(KEPT) - 1)) for n in range(len(KEPT))]
    assert offsets_ms != pytest.approx(even, abs=20.0), "as at an even rate it would be"
    assert {picture.epoch for picture in pictures} == {0}


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts"])
def test_b_frames_come_in_the_order_in_which_they_are_shown(tmp_path: Path, suffix: str) -> None:
    path = with_b_frames(tmp_path / f"b.{suffix}")
    with av.open(str(path)) as container:
        stored = [packet.pts for packet in container.demux(video=0) if packet.pts is not None]
    assert stored != sorted(stored), "they are stored in another"
    pictures = read_all(path, realtime=True)
    assert [number(picture) for picture in pictures] == list(range(24))
    steps_ms = np.diff([picture.captured_ns for picture in pictures]) / 1e6
    np.testing.assert_allclose(steps_ms, 1000 / RATE, atol=1.0)
