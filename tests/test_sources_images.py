"""Folders of pictures: their order, colours, times, passes, and files of no use."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from kpi.emit import current_logger
from kpi.events import ErrorRaised
from stages.base import Picture
from stages.errors import ConfigError, SourceError
from stages.sources import images
from stages.sources.images import ImagesConfig, ImagesSource
from stages.sources.natural_order import natural_key
from stages.sources.region import Region
from tests.tiny_sam2 import Heard

COLOURS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [250, 240, 10]]], np.uint8)


def fresh(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.full(shape, 77, np.uint8)


def opened(path: Path, **changes: Any) -> ImagesSource:
    return ImagesSource(ImagesConfig(path=str(path), **{"realtime": False, **changes}))


def read_all(source: ImagesSource, most: int = 1000) -> list[Picture]:
    pictures = []
    while len(pictures) < most and (picture := source.read(fresh)) is not None:
        pictures.append(picture)
    return pictures


def shade(folder: Path, name: str, value: int, size_hw: tuple[int, int] = (8, 6)) -> None:
    Image.fromarray(np.full(size_hw, value, np.uint8)).save(folder / name)


def values(pictures: list[Picture]) -> list[int]:
    return [int(picture.pixels.flat[0]) for picture in pictures]


def test_they_come_in_the_order_in_which_a_person_counts(tmp_path: Path) -> None:
    numbers = [100_000, 9, 99_999, 10, 1]
    for number in numbers:
        shade(tmp_path, f"frame_{number}.png", number % 256)
    expected = [number % 256 for number in sorted(numbers)]
    assert values(read_all(opened(tmp_path))) == expected
    by_letter = sorted(path.name for path in tmp_path.iterdir())
    assert [int(name[6:-4]) for name in by_letter] != sorted(numbers), "the control"


def test_names_of_several_numbers_and_none_are_ordered() -> None:
    names = ["a2b10", "a2b9", "a10", "a1", "b", "7", "070", "a", "²"]
    ordered = sorted(names, key=natural_key)
    assert ordered == ["7", "070", "a", "a1", "a2b9", "a2b10", "a10", "b", "²"]


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("a.png", 0), ("a.bmp", 0), ("a.tif", 0), ("a.ppm", 0), ("a.webp", 0), ("a.JPG", 12)],
)
def test_red_is_the_first_of_three(tmp_path: Path, name: str, tolerance: int) -> None:
    big = COLOURS.repeat(16, 0).repeat(16, 1)
    more: dict[str, Any] = {"a.webp": {"lossless": True}, "a.JPG": {"quality": 98}}.get(name, {})
    Image.fromarray(big).save(tmp_path / name, **more)
    (picture,) = read_all(opened(tmp_path))
    inside = picture.pixels[8::16, 8::16].astype(int)
    assert inside.shape == (2, 2, 3)
    assert np.abs(inside - COLOURS).max() <= tolerance
    assert np.abs(inside[..., ::-1] - COLOURS).max() > 100, "the control"


def test_every_depth_shows_as_eight_bits(tmp_path: Path) -> None:
    deep = np.array([[0, 255], [256, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "1.png")
    Image.fromarray(deep).save(tmp_path / "2.tif")
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "3.png")
    Image.fromarray(COLOURS).convert("P").save(tmp_path / "4.png")
    Image.fromarray(np.dstack([COLOURS, np.zeros((2, 2), np.uint8)])).save(tmp_path / "5.png")
    shown = [picture.pixels.tolist() for picture in read_all(opened(tmp_path))]
    assert shown[0] == shown[1] == [[0, 0], [1, 255]]
    assert shown[2] == [[255, 0]]
    assert np.abs(np.array(shown[3]) - COLOURS).max() < 60
    assert shown[4] == COLOURS.tolist()


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    shade(tmp_path, "1.png", 5)
    shade(tmp_path, ".2.png", 6)
    (tmp_path / "3.txt").write_text("x")
    (tmp_path / "4.png").mkdir()
    os.mkfifo(tmp_path / "5.png")
    assert values(read_all(opened(tmp_path))) == [5]


def test_times_passes_and_sizes(tmp_path: Path) -> None:
    for number, size in ((1, (8, 6)), (2, (8, 6)), (3, (4, 4))):
        shade(tmp_path, f"{number}.png", number, size)
    pictures = read_all(opened(tmp_path, realtime=True, fps=200.0, loop=True), 7)
    assert values(pictures) == [1, 2, 3, 1, 2, 3, 1]
    steps = np.diff([picture.captured_ns for picture in pictures])
    assert (steps == 5_000_000).all()
    epochs = [picture.epoch for picture in pictures]
    assert epochs == sorted(epochs)
    assert len(set(epochs[:2])) == 1
    assert len({epochs[1], epochs[2], epochs[3], epochs[5], epochs[6]}) == 5


def test_a_region_and_a_scale(tmp_path: Path) -> None:
    Image.fromarray(COLOURS.repeat(4, 0)).save(tmp_path / "1.png")
    source = opened(tmp_path, roi=Region(y=3, x=1, height=2, width=1), spacing_mm=(0.1, 0.2))
    assert source.size_hw == (2, 1)
    (picture,) = read_all(source)
    assert picture.pixels.tolist() == [[[0, 255, 0]], [[250, 240, 10]]]
    assert (picture.origin_yx, picture.full_hw) == ((3, 1), (8, 2))
    assert picture.spacing_mm == (0.1, 0.2)
    with pytest.raises(SourceError, match="roi reaches to row 9"):
        opened(tmp_path, roi=Region(y=0, x=0, height=9, width=1))


def test_it_stops_within_a_second_while_it_waits(tmp_path: Path) -> None:
    for number in range(2):
        shade(tmp_path, f"{number}.png", number)
    source = opened(tmp_path, realtime=True, fps=0.05)
    assert source.read(fresh) is not None
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(source.read, fresh)
        time.sleep(0.2)
        assert not reading.done()
        start = time.monotonic()
        source.close()
        assert reading.result(5) is None
        assert time.monotonic() - start < 1


class TestFilesOfNoUse:
    def test_are_skipped_and_told_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("stages.sources.limits.MAX_PICTURE_PIXELS", 100)
        for number in (1, 4, 9):
            shade(tmp_path, f"{number}.png", number)
        whole = (tmp_path / "1.png").read_bytes()
        (tmp_path / "2.png").write_bytes(b"")
        (tmp_path / "3.png").write_bytes(whole[: len(whole) // 2])
        (tmp_path / "5.png").write_bytes(b"no picture\n" * 20)
        (tmp_path / "6.jpg").write_bytes(whole)  # what it says it is, it is not
        shade(tmp_path, "7.png", 7, (50, 50))
        Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "8.tif")
        heard, context = Heard(), copy_context()
        context.run(current_logger.set, heard)
        source = context.run(opened, tmp_path)
        assert values(context.run(read_all, source)) == [1, 4, 9]
        told = [event for event in heard.events if isinstance(event, ErrorRaised)]
        assert len(told) == 1
        assert "file 2 of 9 does not decode" in told[0].message
        assert str(tmp_path) not in told[0].message

    def test_a_header_that_claims_too_much_is_not_decoded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shade(tmp_path, "1.png", 7, (50, 50))
        monkeypatch.setattr("stages.sources.limits.MAX_PICTURE_PIXELS", 100)
        with pytest.raises(SourceError, match="pictures are 50x50 pixels"):
            images.read_picture(tmp_path / "1.png", "images")

    @pytest.mark.parametrize("loop", [False, True])
    def test_none_that_decodes(self, tmp_path: Path, loop: bool) -> None:
        (tmp_path / "1.png").write_bytes(b"x")
        with pytest.raises(SourceError, match="none of the 1 pictures in the folder decodes"):
            opened(tmp_path, loop=loop)

    def test_a_folder_without_pictures(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match="holds no pictures, expected files that end in"):
            opened(tmp_path)

    @pytest.mark.parametrize("path", ["/nowhere", "/dev/null", "a\0b", "http://127.0.0.1/"])
    def test_what_is_no_folder(self, path: str) -> None:
        with pytest.raises(ConfigError, match=r"source images: path: .* expected a folder"):
            opened(Path(path))

    def test_one_that_vanished_on_the_way(self, tmp_path: Path) -> None:
        for number in range(4):
            shade(tmp_path, f"{number}.png", number)
        source = opened(tmp_path)
        assert source.read(fresh) is not None
        (tmp_path / "2.png").unlink()
        assert values(read_all(source)) == [1, 3]


@pytest.mark.parametrize(("key", "value"), [("path", ""), ("fps", 0), ("fps", 999), ("x", 1)])
def test_what_cannot_be_configured(key: str, value: object) -> None:
    with pytest.raises(ValidationError, match=key):
        ImagesConfig.model_validate({"path": "x", key: value})
