"""DICOM cines: a real echocardiogram, written ones of every kind, and files of no use."""

from __future__ import annotations

import io
import time
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile
from pydantic import ValidationError
from pydicom import dcmread, examples
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    MPEG4HP41,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from stages.base import Picture
from stages.errors import ConfigError, MaskstreamError, SourceError
from stages.sources.dicom import DicomConfig, DicomSource

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")

CANARY = "CANARY123"
Change = Callable[[Dataset], object]


def fresh(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.full(shape, 77, np.uint8)


def read_all(source: DicomSource, most: int = 1000) -> list[Picture]:
    pictures = []
    while len(pictures) < most and (picture := source.read(fresh)) is not None:
        pictures.append(picture)
    return pictures


def cine(pixels: NDArray[Any], photometric: str = "MONOCHROME2") -> Dataset:
    """A multi-frame ultrasound dataset of `pixels` (n, H, W) or (n, H, W, 3), with a patient."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.3.1"
    ds.SOPInstanceUID = generate_uid()
    ds.PatientName, ds.PatientID = f"{CANARY}^Jane", CANARY
    ds.NumberOfFrames, ds.Rows, ds.Columns = pixels.shape[:3]
    ds.SamplesPerPixel = 3 if pixels.ndim == 4 else 1
    if pixels.ndim == 4:
        ds.PlanarConfiguration = 0
    ds.PhotometricInterpretation = photometric
    ds.BitsAllocated = ds.BitsStored = pixels.itemsize * 8
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.FrameTime = "20"
    ds.PixelData = pixels.tobytes()
    return ds


def save(ds: Dataset, folder: Path) -> str:
    path = folder / "cine.dcm"
    ds.save_as(path, enforce_file_format=True)
    return str(path)


def ramp(dtype: Any = np.uint8, count: int = 3) -> NDArray[Any]:
    """(count, 16, 16), every value from the first one's 0..255 on."""
    return (np.arange(256).reshape(16, 16) + 10 * np.arange(count)[:, None, None]).astype(dtype)


def opened(path: str, **changes: Any) -> DicomSource:
    return DicomSource(DicomConfig(path=path, **{"realtime": False, **changes}))


class TestRealCine:
    """The bundled echocardiogram: JPEG Baseline, YBR_FULL_422, 30 frames of 240x320."""

    def test_it_is_read_to_its_end(self) -> None:
        source = opened("pydicom:ybr_color", source_id="echo")
        assert (source.source_id, source.size_hw) == ("echo", (240, 320))
        pictures = read_all(source)
        assert len(pictures) == 30
        assert {picture.pixels.shape for picture in pictures} == {(240, 320, 3)}
        assert {picture.epoch for picture in pictures} == {0}
        assert len({picture.pixels.tobytes() for picture in pictures}) > 20

    def test_its_colours_are_right(self) -> None:
        picture = opened("pydicom:ybr_color").read(fresh)
        assert picture is not None
        rgb = picture.pixels.astype(int)
        tissue = np.ptp(rgb[60:200, 110:200], axis=-1)
        assert tissue.max() <= 12  # tissue is grey
        assert rgb[60:200, 110:200].max() > 150  # and bright somewhere
        red, green, blue = rgb[20, 190]  # the green dot that marks the probe's side
        assert green > red + 20
        assert green > blue

    def test_that_check_would_see_unconverted_colours(self) -> None:
        stored = next(iter_raw())
        tissue = np.ptp(stored[60:200, 110:200].astype(int), axis=-1)
        assert tissue.max() > 100

    def test_its_calibration_does_not_fit_and_is_not_used(self) -> None:
        source = opened("pydicom:ybr_color")
        assert source.calibration.spacing_mm is None
        reason = source.calibration.reason
        assert reason == "region (84,31)-(595,414) does not lie in the 320x240 picture"
        picture = source.read(fresh)
        assert picture is not None
        assert picture.spacing_mm is None

    def test_spacing_can_be_configured(self) -> None:
        picture = opened("pydicom:ybr_color", spacing_mm=[1.021, 1.021]).read(fresh)
        assert picture is not None
        assert picture.spacing_mm == (1.021, 1.021)

    def test_it_plays_at_its_own_rate(self) -> None:
        source = opened("pydicom:ybr_color", realtime=True)
        times = [p.captured_ns for p in read_all(source, 4)]
        np.testing.assert_allclose(np.diff(times), 33_333_000, atol=2)

    def test_a_loop_raises_the_epoch_and_goes_on_in_time(self) -> None:
        source = opened("pydicom:ybr_color", loop=True, fps=240.0, realtime=True)
        pictures = read_all(source, 62)
        assert [p.epoch for p in pictures] == [0] * 30 + [1] * 30 + [2] * 2
        np.testing.assert_array_equal(pictures[0].pixels, pictures[30].pixels)
        np.testing.assert_array_equal(pictures[1].pixels, pictures[61].pixels)
        steps = np.diff([p.captured_ns for p in pictures])
        np.testing.assert_allclose(steps, 1e9 / 240, atol=2)

    def test_closed_while_it_waits(self) -> None:
        source = opened("pydicom:ybr_color", realtime=True, fps=1.0 / 60)
        assert source.read(fresh) is not None
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(source.read, fresh)
            time.sleep(0.2)
            assert not reading.done()
            began = time.monotonic()
            source.close()
            assert reading.result(30) is None
            assert time.monotonic() - began < 1.0
        source.close()
        assert source.read(fresh) is None


def iter_raw() -> Any:
    from pydicom.pixels.utils import iter_pixels

    return iter_pixels(examples.get_path("ybr_color"), raw=True)


class TestDisplay:
    def test_eight_bit_grey_shows_as_it_is(self, tmp_path: Path) -> None:
        pixels = ramp()
        pictures = read_all(opened(save(cine(pixels), tmp_path)))
        for picture, expected in zip(pictures, pixels, strict=True):
            np.testing.assert_array_equal(picture.pixels, expected)

    def test_monochrome1_is_inverted(self, tmp_path: Path) -> None:
        (picture, *_) = read_all(opened(save(cine(ramp(), "MONOCHROME1"), tmp_path)))
        np.testing.assert_array_equal(picture.pixels, 255 - ramp()[0])

    def test_rgb_shows_as_it_is(self, tmp_path: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 12, 3), np.uint8)
        pictures = read_all(opened(save(cine(pixels, "RGB"), tmp_path)))
        np.testing.assert_array_equal([p.pixels for p in pictures], pixels)

    def test_a_window_follows_the_standard(self, tmp_path: Path) -> None:
        """PS3.3 C.11.2.1.2.1: linear between centre - 0.5 ± (width - 1) / 2."""
        ds = cine(ramp(np.uint16))
        ds.RescaleSlope, ds.RescaleIntercept = "2", "-100"
        ds.WindowCenter, ds.WindowWidth = ["150.5", "40"], ["201", "80"]
        (picture, *_) = read_all(opened(save(ds, tmp_path)))
        values = ramp(np.float64)[0] * 2 - 100
        exact = np.clip((values - 50) / 200, 0, 1) * 255
        np.testing.assert_allclose(picture.pixels, exact, atol=0.5 + 1e-9)

    @pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
    def test_the_other_window_functions(self, tmp_path: Path, function: str) -> None:
        ds = cine(ramp(np.uint16))
        ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = "100", "64", function
        (picture, *_) = read_all(opened(save(ds, tmp_path)))
        x = (ramp(np.float64)[0] - 100) / 64
        shown = np.clip(x + 0.5, 0, 1) if function == "LINEAR_EXACT" else 1 / (1 + np.exp(-4 * x))
        np.testing.assert_array_equal(picture.pixels, np.rint(shown * 255))

    @pytest.mark.parametrize("dtype", [np.uint16, np.int16])
    def test_without_a_window_the_first_frame_sets_the_range(
        self, tmp_path: Path, dtype: Any
    ) -> None:
        pixels = (ramp(np.int32) * 9 - (1000 if dtype is np.int16 else 0)).astype(dtype)
        pictures = read_all(opened(save(cine(pixels), tmp_path)))
        low, high = int(pixels[0].min()), int(pixels[0].max())
        for picture, stored in zip(pictures, pixels, strict=True):
            expected = np.clip((stored.astype(float) - low) / (high - low), 0, 1) * 255
            np.testing.assert_array_equal(picture.pixels, np.rint(expected))

    def test_a_palette_gives_its_colours(self, tmp_path: Path) -> None:
        still = dcmread(examples.get_path("palette_color"))
        indices = still.pixel_array[:64, :80]
        ds = cine(np.stack([indices, indices[::-1]]), "PALETTE COLOR")
        for element in still:
            if "PaletteColor" in element.keyword:
                ds.add(element)
        (first, second) = read_all(opened(save(ds, tmp_path)))
        tables = [
            np.frombuffer(still[f"{c}PaletteColorLookupTableData"].value, "<u2") >> 8
            for c in ("Red", "Green", "Blue")
        ]
        expected = np.stack([table[indices] for table in tables], axis=-1)
        np.testing.assert_array_equal(first.pixels, expected)
        np.testing.assert_array_equal(second.pixels, expected[::-1])

    def test_rle_is_read(self, tmp_path: Path) -> None:
        ds = cine(ramp())
        ds.compress(RLELossless)
        np.testing.assert_array_equal(
            [p.pixels for p in read_all(opened(save(ds, tmp_path)))], ramp()
        )

    def test_it_fills_the_array_it_is_given(self, tmp_path: Path) -> None:
        given = fresh((16, 16))
        picture = opened(save(cine(ramp()), tmp_path)).read(lambda _: given)
        assert picture is not None
        assert picture.pixels is given


class TestTiming:
    @pytest.mark.parametrize(
        ("elements", "steps_ms"),
        [
            ({"FrameTime": "40", "CineRate": "10"}, [40, 40]),
            ({"FrameTime": "0", "FrameTimeVector": ["0", "10", "30"]}, [10, 30]),
            ({"FrameTimeVector": ["0", "10"], "CineRate": "50"}, [20, 20]),
            ({"FrameTimeVector": ["0", "-10", "30"], "CineRate": "50"}, [20, 20]),
            ({"CineRate": "100", "RecommendedDisplayFrameRate": "10"}, [10, 10]),
            ({"CineRate": "0", "RecommendedDisplayFrameRate": "50"}, [20, 20]),
        ],
    )
    def test_the_first_usable_element_tells(
        self, tmp_path: Path, elements: dict[str, Any], steps_ms: list[int]
    ) -> None:
        ds = cine(ramp())
        del ds.FrameTime
        for keyword, value in elements.items():
            setattr(ds, keyword, value)
        times = [p.captured_ns for p in read_all(opened(save(ds, tmp_path), realtime=True))]
        assert list(np.diff(times)) == [ms * 1_000_000 for ms in steps_ms]

    def test_a_configured_rate_comes_first(self, tmp_path: Path) -> None:
        source = opened(save(cine(ramp()), tmp_path), realtime=True, fps=100.0)
        assert list(np.diff([p.captured_ns for p in read_all(source)])) == [10_000_000] * 2

    def test_no_rate_at_all_asks_for_one(self, tmp_path: Path) -> None:
        ds = cine(ramp())
        del ds.FrameTime
        path = save(ds, tmp_path)
        with pytest.raises(SourceError, match="no frame rate, expected fps to be set"):
            opened(path)
        assert len(read_all(opened(path, fps=25))) == 3


def region(**changes: Any) -> Dataset:
    item = Dataset()
    item.RegionLocationMinX0, item.RegionLocationMinY0 = 1, 2
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = 15, 14
    item.RegionSpatialFormat = 1
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3
    item.PhysicalDeltaX, item.PhysicalDeltaY = 0.02, -0.03
    for keyword, value in changes.items():
        setattr(item, keyword, value)
    return item


class TestCalibration:
    @pytest.mark.parametrize(
        ("regions", "expected"),
        [
            ([region()], (0.3, 0.2)),
            ([region(RegionLocationMaxX1=16, RegionLocationMaxY1=16)], (0.3, 0.2)),
            ([region(), region(PhysicalUnitsXDirection=4, RegionLocationMaxX1=999)], (0.3, 0.2)),
            ([region(), region(PhysicalDeltaX=0.0201)], (0.3, 0.2)),
            ([region(), region(PhysicalDeltaX=0.04)], None),
            ([region(RegionLocationMaxX1=17)], None),
            ([region(), region(RegionLocationMaxY1=17)], None),
            ([region(RegionLocationMinX0=15)], None),
            ([region(RegionSpatialFormat=2)], None),
            ([region(PhysicalUnitsYDirection=4)], None),
            ([region(PhysicalDeltaX=0.0)], None),
            ([region(PhysicalDeltaX=float("nan"))], None),
            ([Dataset()], None),
            ([], None),
        ],
    )
    def test_only_a_scale_that_fits_the_picture_is_believed(
        self, tmp_path: Path, regions: list[Dataset], expected: tuple[float, float] | None
    ) -> None:
        ds = cine(ramp())
        ds.SequenceOfUltrasoundRegions = regions
        source = opened(save(ds, tmp_path))
        picture = source.read(fresh)
        assert picture is not None
        assert picture.spacing_mm == (None if expected is None else pytest.approx(expected))
        assert source.calibration.reason


def change(**values: Any) -> Change:
    def apply(ds: Dataset) -> None:
        for keyword, value in values.items():
            if value is None:
                del ds[keyword]
            else:
                setattr(ds, keyword, value)

    return apply


def private(ds: Dataset) -> None:
    """A vendor's own element with the patient's name in it."""
    ds.add_new((0x0009, 0x0010), "LO", "VENDOR")
    ds.add_new((0x0009, 0x1001), "LO", CANARY)


def compressed(syntax: str) -> Change:
    def apply(ds: Dataset) -> None:
        ds.file_meta.TransferSyntaxUID = syntax
        ds.PixelData = encapsulate([b"no codec's data"] * 3)
        ds["PixelData"].is_undefined_length = True

    return apply


def coded(kind: str, size: tuple[int, int]) -> bytes:
    """A black picture of (width, height)."""
    data = io.BytesIO()
    options = {"no_jp2": True} if kind == "JPEG2000" else {}
    Image.new("L", size).save(data, kind, **options)
    return data.getvalue()


class TestFilesOfNoUse:
    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (change(NumberOfFrames=1), "one frame, expected a cine, or a folder"),
            (change(NumberOfFrames=None), "holds one frame, expected"),
            (change(NumberOfFrames=0), "holds 0 frames by its header, expected a cine"),
            (change(NumberOfFrames=-3), "holds -3 frames by its header, expected a cine"),
            (change(NumberOfFrames=2**31 - 1), "claims .* pixels in all"),
            (change(Rows=65535, Columns=65535), "65535x65535"),
            (change(Rows=None), "no picture size"),
            (change(PixelData=None), "no pixel data"),
            (change(BurnedInAnnotation="YES"), "burned in"),
            (change(PhotometricInterpretation="CMYK"), "pixels are CMYK"),
            (change(PhotometricInterpretation="PALETTE COLOR"), "header is damaged"),
            (change(BitsStored=None), "header is damaged"),
            (change(BitsAllocated=32, BitsStored=32), "with 32 bits"),
            (change(SamplesPerPixel=3, PlanarConfiguration=0), "frame 1 of 3"),
            (compressed(JPEGLSLossless), "JPEG-LS Lossless.* no codec"),
            (compressed(MPEG4HP41), "MPEG-4.* no codec"),
            (compressed(JPEGBaseline8Bit), "frame 1 of 3 does not decode"),
        ],
    )
    def test_are_refused_in_one_line(self, tmp_path: Path, spoil: Change, message: str) -> None:
        ds = cine(ramp())
        spoil(ds)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's, on writing such files
            path = save(ds, tmp_path)
        with pytest.raises(SourceError, match=f"^source dicom: .*{message}") as caught:
            opened(path)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("content", [b"", b"text\n" * 99, b"\0" * 128 + b"DICM" + b"\xff" * 99])
    def test_what_is_no_dicom(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "cine.dcm"
        path.write_bytes(content)
        with pytest.raises(SourceError, match=r"^source dicom: the (file|DICOM header) "):
            opened(str(path))

    @pytest.mark.parametrize("cut", [300, 5000, 12_000])
    def test_a_header_cut_off(self, tmp_path: Path, cut: int) -> None:
        path = tmp_path / "cine.dcm"
        path.write_bytes(Path(examples.get_path("ybr_color")).read_bytes()[:cut])
        with pytest.raises(SourceError, match=r"^source dicom: "):
            opened(str(path))

    def test_pixels_cut_off_give_what_is_there_then_say_where(self, tmp_path: Path) -> None:
        path = tmp_path / "cine.dcm"
        whole = Path(examples.get_path("ybr_color")).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        source = opened(str(path))
        for _ in range(12):
            assert source.read(fresh) is not None
        with pytest.raises(SourceError, match=r"frame 13 of 30 does not decode; .* cut off"):
            source.read(fresh)

    def test_native_pixels_cut_off(self, tmp_path: Path) -> None:
        path = Path(save(cine(ramp()), tmp_path))
        path.write_bytes(path.read_bytes()[:-100])
        source = opened(str(path))
        assert source.read(fresh) is not None
        assert source.read(fresh) is not None
        with pytest.raises(SourceError, match="frame 3 of 3 does not decode"):
            source.read(fresh)

    @pytest.mark.parametrize("bomb", [1, 2, 3])
    @pytest.mark.parametrize("kind", ["JPEG", "JPEG2000"])
    def test_a_compressed_bomb_is_not_decoded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, bomb: int
    ) -> None:
        """The header says 16x16, one compressed frame 2000x1000."""
        decoded: list[tuple[int, int]] = []
        load = ImageFile.ImageFile.load

        def noted(picture: ImageFile.ImageFile) -> Any:
            decoded.append(picture.size)
            return load(picture)

        ds = cine(ramp())
        ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit if kind == "JPEG" else JPEG2000
        frames = [coded(kind, (16, 16))] * 3
        frames[bomb - 1] = coded(kind, (2000, 1000))
        ds.PixelData = encapsulate(frames)
        ds["PixelData"].is_undefined_length = True
        path = save(ds, tmp_path)
        monkeypatch.setattr(ImageFile.ImageFile, "load", noted)
        expected = rf"frame {bomb} of 3 is compressed with .* \(1000, 2000\), expected"
        with pytest.raises(SourceError, match=expected):
            read_all(opened(path))
        assert set(decoded) == ({(16, 16)} if bomb > 1 else set())

    def test_a_header_nested_a_thousand_deep(self, tmp_path: Path) -> None:
        """In the sequence of regions, which is read; nothing ends the nesting."""
        path = Path(save(cine(ramp()), tmp_path))
        before, pixels, after = path.read_bytes().partition(b"\xe0\x7f\x10\x00")
        assert pixels
        item, nest = b"\xfe\xff\x00\xe0\xff\xff\xff\xff", b"\x18\x00\x11\x60SQ\0\0\xff\xff\xff\xff"
        path.write_bytes(before + (nest + item) * 1000 + pixels + after)
        with pytest.raises(SourceError, match="source dicom: the DICOM header is damaged"):
            opened(str(path))

    def test_without_a_preamble_it_is_none(self, tmp_path: Path) -> None:
        path = Path(save(cine(ramp()), tmp_path))
        path.write_bytes(path.read_bytes()[132:])
        with pytest.raises(SourceError, match="the file is no DICOM file"):
            opened(str(path))

    def test_burned_in_text_can_be_allowed(self, tmp_path: Path) -> None:
        ds = cine(ramp())
        ds.BurnedInAnnotation = "YES"
        assert len(read_all(opened(save(ds, tmp_path), allow_burned_in=True))) == 3

    @pytest.mark.parametrize("path", ["nowhere.dcm", "/dev/null", "a\0b", "pydicom:nothing"])
    def test_a_path_that_names_no_file(self, path: str) -> None:
        with pytest.raises(ConfigError, match="source dicom: path"):
            opened(path)


class TestPrivacy:
    @pytest.mark.parametrize("cut", [False, True])
    @pytest.mark.parametrize(
        "spoil",
        [
            change(NumberOfFrames=1), change(PixelData=None), change(PatientName=f"{CANARY}\\x"),
            change(FrameTime=None), compressed(JPEGBaseline8Bit), change(BitsStored=None), private,
        ],
    )  # fmt: skip
    def test_nothing_of_a_patient_or_a_path_is_told(
        self,
        tmp_path: Path,
        capfd: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
        spoil: Change,
        cut: bool,
    ) -> None:
        folder = tmp_path / f"{CANARY}_Jane"
        folder.mkdir()
        ds = cine(ramp())
        spoil(ds)
        path = save(ds, folder)
        if cut:
            Path(path).write_bytes(Path(path).read_bytes()[:132] + b"\xff" * 99)
        capfd.readouterr()
        told = ""
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                told = repr(read_all(opened(path)))
            except MaskstreamError as error:
                told = "".join(traceback.format_exception(error))
        assert told
        told += "".join(str(warning.message) for warning in warned)
        printed = capfd.readouterr()
        assert CANARY not in told + caplog.text + printed.out + printed.err

    def test_a_missing_file_is_told_without_its_name(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            opened(str(tmp_path / f"{CANARY}.dcm"))
        assert CANARY not in "".join(traceback.format_exception(caught.value))

    def test_the_check_would_see_a_name_and_a_path(self, tmp_path: Path) -> None:
        path = tmp_path / f"{CANARY}.dcm"
        cine(ramp()).save_as(path, enforce_file_format=True)
        assert CANARY in str(dcmread(path).PatientName)
        path.write_bytes(path.read_bytes()[:132] + b"\xff" * 99)
        with pytest.warns(UserWarning, match=CANARY):
            dcmread(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("path", ""), ("fps", 0), ("fps", 1e4), ("spacing_mm", [0.1]), ("spacing_mm", [0, 1]),
        ("spacing_mm", [0.1, 101]), ("source_id", "a/b"), ("unknown", 1),
    ],
)  # fmt: skip
def test_what_cannot_be_configured(key: str, value: object) -> None:
    with pytest.raises(ValidationError, match=key):
        DicomConfig.model_validate({"kind": "dicom", "path": "x", key: value})
