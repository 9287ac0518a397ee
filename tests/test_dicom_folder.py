"""DICOM: folders of single pictures, their order and times; the crop to the ultrasound image."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from pydicom import examples
from pydicom.dataset import Dataset

from stages.base import Picture
from stages.errors import SourceError
from stages.sources.dicom import DicomConfig
from tests.test_sources_dicom import CANARY, change, cine, fresh, opened, ramp, read_all, region


def single(value: int, **values: Any) -> Dataset:
    """One picture, all of ``value`` but for its first pixel."""
    pixels = np.full((1, 16, 16), value, np.uint8)
    pixels[0, 0, 0] = 255
    ds = cine(pixels)
    del ds.NumberOfFrames
    del ds.FrameTime
    ds.SeriesInstanceUID = "1.2.3"
    for keyword, told in values.items():
        setattr(ds, keyword, told)
    return ds


def folder(path: Path, *pictures: Dataset, name: Callable[[int], str] = "IM{}".format) -> Path:
    path.mkdir(exist_ok=True)
    for number, ds in enumerate(pictures):
        ds.save_as(path / name(number), enforce_file_format=True)
    return path


def shades(pictures: list[Picture]) -> list[int]:
    return [int(picture.pixels[5, 5]) for picture in pictures]


class TestOrder:
    def test_by_instance_number(self, tmp_path: Path) -> None:
        numbers = [10, 9, 100, 1]
        study = folder(tmp_path / "s", *(single(n, InstanceNumber=n) for n in numbers))
        source = opened(str(study), fps=10)
        assert shades(read_all(source)) == [1, 9, 10, 100]
        assert "4 files by instance number" in source.description

    def test_by_time_where_numbers_repeat(self, tmp_path: Path) -> None:
        times = ["120000.500", "115959.900", "120000.1", "1201"]
        pictures = [
            single(n, InstanceNumber=1, AcquisitionTime=time) for n, time in enumerate(times)
        ]
        source = opened(str(folder(tmp_path / "s", *pictures)))
        pictures_read = read_all(source)
        assert shades(pictures_read) == [1, 2, 0, 3]
        assert "acquisition time" in source.description

    def test_by_name_where_nothing_else_tells(self, tmp_path: Path) -> None:
        pictures = [single(n) for n in range(12)]
        study = folder(tmp_path / "s", *pictures, name=lambda n: f"{100 * n}.dcm")
        assert shades(read_all(opened(str(study), fps=10))) == list(range(12))

    def test_other_files_are_left_alone(self, tmp_path: Path) -> None:
        study = folder(tmp_path / "s", single(1, InstanceNumber=1), single(2, InstanceNumber=2))
        (study / "notes.txt").write_text("x")
        (study / "DICOMDIR").write_bytes((study / "IM0").read_bytes())
        (study / "more").mkdir()
        assert shades(read_all(opened(str(study), fps=5))) == [1, 2]


class TestTimes:
    def test_those_of_the_pictures(self, tmp_path: Path) -> None:
        times = ["20240102115959.98", "20240102120000.0", "20240102120000.06"]
        pictures = [
            single(n, InstanceNumber=n, AcquisitionDateTime=time) for n, time in enumerate(times)
        ]
        source = opened(str(folder(tmp_path / "s", *pictures)), realtime=True, loop=True)
        captured = [picture.captured_ns for picture in read_all(source, 5)]
        steps_ms = np.diff(captured) / 1e6
        np.testing.assert_allclose(steps_ms, [20, 60, 40, 20], atol=0.01)

    @pytest.mark.parametrize("times", [("", ""), ("120001", "120000"), ("120000", "120000")])
    def test_without_any_a_rate_is_asked_for(self, tmp_path: Path, times: tuple[str, str]) -> None:
        pictures = [single(n, InstanceNumber=n, ContentTime=time) for n, time in enumerate(times)]
        study = folder(tmp_path / "s", *pictures)
        with pytest.raises(SourceError, match="expected fps to be set"):
            opened(str(study))
        assert len(read_all(opened(str(study), fps=30))) == 2


def test_a_turned_depth_knob_begins_an_epoch(tmp_path: Path) -> None:
    depths = [0.02, 0.02, 0.04, 0.04]
    pictures = [single(n, InstanceNumber=n) for n in range(4)]
    for ds, delta in zip(pictures, depths, strict=True):
        ds.SequenceOfUltrasoundRegions = [region(PhysicalDeltaX=delta, PhysicalDeltaY=delta)]
    study = str(folder(tmp_path / "s", *pictures))
    got = read_all(opened(study, fps=30, loop=True), 6)
    assert [picture.epoch for picture in got] == [0, 0, 1, 1, 2, 2]
    assert [picture.spacing_mm for picture in got][1:3] == [(0.2, 0.2), (0.4, 0.4)]
    fixed = read_all(opened(study, fps=30, spacing_mm=(1.0, 1.0)))
    assert [picture.epoch for picture in fixed] == [0] * 4


BAD: list[tuple[Dataset, str]] = [
    (single(2, BurnedInAnnotation="YES"), "file 2 of 2: the pictures have text burned in"),
    (single(2, Rows=8), "file 2 of 2: the picture is 16x8 .*, expected 16x16"),
    (single(2, PhotometricInterpretation="MONOCHROME1"), "MONOCHROME1.* as in the first"),
    (single(2, BitsStored=7), "7 bits"),
    (cine(ramp()), "file 2 of 2: the file holds 3 frames"),
    (single(2, SeriesInstanceUID="1.2.4"), "2 series, expected a folder for each"),
]


class TestFoldersOfNoUse:
    @pytest.mark.parametrize(("second", "message"), BAD)
    def test_are_refused_in_one_line(self, tmp_path: Path, second: Dataset, message: str) -> None:
        second.InstanceNumber = 2
        second.SeriesInstanceUID = second.get("SeriesInstanceUID") or "1.2.3"
        study = folder(tmp_path / f"{CANARY}", single(1, InstanceNumber=1), second)
        with pytest.raises(SourceError, match=f"^source dicom: .*{message}") as caught:
            read_all(opened(str(study), fps=5))
        assert "\n" not in str(caught.value)
        assert CANARY not in "".join(traceback.format_exception(caught.value))

    @pytest.mark.parametrize("content", [b"", b"x" * 500, b"\0" * 128 + b"DICM" + b"\xff" * 99])
    def test_a_file_that_is_none(self, tmp_path: Path, content: bytes) -> None:
        study = folder(tmp_path / "s", single(1, InstanceNumber=1))
        (study / "bad.dcm").write_bytes(content)
        with pytest.raises(SourceError, match=r"source dicom: file \d of 2"):
            opened(str(study), fps=5)

    def test_an_empty_one(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("x")
        with pytest.raises(SourceError, match="holds 0 DICOM files, expected 1 to 100000"):
            opened(str(tmp_path))

    def test_pixels_cut_off_are_told_where(self, tmp_path: Path) -> None:
        study = folder(tmp_path / "s", *(single(n, InstanceNumber=n) for n in range(3)))
        last = study / "IM2"
        last.write_bytes(last.read_bytes()[:-100])
        source = opened(str(study), fps=5)
        assert source.read(fresh) is not None
        assert source.read(fresh) is not None
        with pytest.raises(SourceError, match="file 3 of 3: frame 1 of 1 does not decode"):
            source.read(fresh)

    def test_a_deeply_nested_header(self, tmp_path: Path) -> None:
        path = folder(tmp_path / "s", single(1)) / "IM0"
        item, nest = b"\xfe\xff\x00\xe0\xff\xff\xff\xff", b"\x18\x00\x11\x60SQ\0\0\xff\xff\xff\xff"
        before, pixels, after = path.read_bytes().partition(b"\xe0\x7f\x10\x00OB")
        assert pixels
        path.write_bytes(before + (nest + item) * 5000 + pixels + after)
        with pytest.raises(SourceError, match="source dicom: "):
            read_all(opened(str(path.parent), fps=5))


class TestCrop:
    def test_to_the_regions_of_the_picture(self, tmp_path: Path) -> None:
        ds = cine(ramp())
        other = region(RegionLocationMinX0=0, RegionLocationMaxX1=4)
        waveform = region(RegionSpatialFormat=3, RegionLocationMaxX1=999)
        ds.SequenceOfUltrasoundRegions = [region(), other, waveform]
        path = tmp_path / "c.dcm"
        ds.save_as(path, enforce_file_format=True)
        source = opened(str(path), crop=True)
        assert source.size_hw == (13, 16)
        picture, whole = source.read(fresh), opened(str(path)).read(fresh)
        assert picture is not None
        assert whole is not None
        assert np.array_equal(picture.pixels, whole.pixels[2:15, 0:16])
        assert (picture.origin_yx, picture.full_hw) == ((2, 0), (16, 16))
        assert picture.spacing_mm == pytest.approx((0.3, 0.2))

    @pytest.mark.parametrize(
        "spoil",
        [
            change(),
            change(SequenceOfUltrasoundRegions=[region(RegionLocationMaxX1=17)]),
            change(SequenceOfUltrasoundRegions=[region(RegionSpatialFormat=2)]),
        ],
    )
    def test_without_one_that_fits_it_is_refused(
        self, tmp_path: Path, spoil: Callable[[Dataset], object]
    ) -> None:
        ds = cine(ramp())
        spoil(ds)
        path = tmp_path / "c.dcm"
        ds.save_as(path, enforce_file_format=True)
        with pytest.raises(SourceError, match=r"source dicom: crop: .*, expected a file that"):
            opened(str(path), crop=True)

    def test_the_real_cine_does_not_tell_its_own_region(self) -> None:
        assert examples.get_path("ybr_color")
        with pytest.raises(SourceError, match="does not lie in the 320x240 picture"):
            opened("pydicom:ybr_color", crop=True)

    def test_a_roi_beside_it_is_refused(self) -> None:
        roi = {"y": 0, "x": 0, "height": 4, "width": 4}
        with pytest.raises(ValidationError, match="one of the two"):
            DicomConfig.model_validate({"path": "x", "crop": True, "roi": roi})
