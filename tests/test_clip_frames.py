"""Any frame of a clip at any time: files of every kind, and those that are of no use."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from stages.clip import video
from stages.clip.decoder import Decoder
from stages.clip.frames import Frames, UploadedFrames
from stages.clip.opening import open_frames
from stages.clip.session import Clip
from stages.errors import ConfigError, SourceError
from stages.segmenters.tracker_core import TrackerCore
from stages.sources.phantom_scene import PhantomScene
from tests.clip_rig import tiny_predictor
from tests.test_dicom_folder import folder, single

HW = (48, 64)


def pictures(count: int) -> list[NDArray[np.uint8]]:
    """Smooth and all different, so that what is decoded tells its number."""
    x = np.arange(HW[1])
    ramps = [(x * 2 + 5 * t) % 256 for t in range(count)]
    return [np.broadcast_to(r[None, :, None], (*HW, 3)).astype(np.uint8) for r in ramps]


def write(
    path: Path,
    frames: Sequence[NDArray[np.uint8]],
    codec: str = "libx264",
    container: dict[str, str] | None = None,
    **options: str,
) -> Path:
    with av.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for picture in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
    return path


UNEVEN_MS = (0, 100, 1100, 1200, 3000)


def uneven(path: Path) -> Path:
    """Five frames at `UNEVEN_MS`."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.height, stream.width, stream.pix_fmt = *HW, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for picture, ms in zip(pictures(5), UNEVEN_MS, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = ms, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def in_order(path: Path) -> list[NDArray[Any]]:
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def close(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return bool(np.abs(a.astype(int) - b.astype(int)).max() <= 2)


KINDS: dict[str, tuple[str, str, dict[str, str]]] = {
    "groups": ("a.mp4", "libx264", {"g": "12", "bf": "2"}),
    "open_groups": ("b.mp4", "libx264", {"x264-params": "open-gop=1:keyint=10:bframes=3"}),
    "one_group": ("c.mkv", "libx264", {"g": "250"}),
    "transport": ("d.ts", "libx264", {"g": "12", "bf": "2"}),
    "avi_without_stamps": ("e.avi", "libx264", {"g": "12", "bf": "2"}),
    "all_keyframes": ("f.avi", "mjpeg", {}),
    "mpeg4": ("g.mov", "mpeg4", {"g": "7", "bf": "1"}),
}


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("room", [64 << 20, 5 * 3 * HW[0] * HW[1]])
def test_whatever_is_asked_for_comes_as_if_read_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, room: int
) -> None:
    monkeypatch.setattr(video, "_BACK_BYTES", room)
    name, codec, options = KINDS[kind]
    path = write(tmp_path / name, pictures(30), codec, **options)
    wanted, frames = in_order(path), open_frames(path)
    assert (frames.count, frames.size_hw, frames.trouble) == (30, HW, None)
    assert frames.fps == pytest.approx(25)
    jumps = np.random.default_rng(0).permutation(30).tolist()
    for index in (*range(30), *reversed(range(30)), *jumps):
        assert close(frames.read(index), wanted[index]), index
    assert len(frames._kept) <= max(1, room // (3 * HW[0] * HW[1]))  # type: ignore[attr-defined]
    assert not close(wanted[3], wanted[4]), "or nothing was shown"
    frames.close()
    frames.close()


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_each_frame_has_its_own_time(tmp_path: Path, name: str) -> None:
    frames = open_frames(uneven(tmp_path / name))
    assert [frames.time_s(n) for n in range(5)] == [ms / 1000 for ms in UNEVEN_MS]
    frames.close()


def test_without_stamps_the_rate_tells_the_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Decoder, "stamps", lambda self: None)
    frames = open_frames(write(tmp_path / "a.avi", pictures(8)))
    assert [frames.time_s(n) for n in (0, 1, 7)] == pytest.approx([0, 0.04, 0.28])
    frames.close()


def test_going_back_decodes_a_group_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mp4", pictures(40), g="10", bf="0")
    decoded = []
    frames = open_frames(path)
    whole = frames._decoder.pictures  # type: ignore[attr-defined]

    def counted(key: int | None) -> Any:
        for picture in whole(key):
            decoded.append(picture.pts)
            yield picture

    monkeypatch.setattr(frames._decoder, "pictures", counted)  # type: ignore[attr-defined]
    for index in reversed(range(40)):
        frames.read(index)
    assert len(decoded) <= 40 + 4


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_predictor(tmp_path_factory.mktemp("tiny"))


def tracked(predictor: Any, frames: Frames) -> tuple[list[int], str]:
    """The frames that were tracked, and how it ended."""
    core = TrackerCore(predictor, slots=1, conditioning=2, frames=frames.count)
    seen = []
    with Clip(frames, core) as clip:
        clip.add_new_points_or_box(0, 1, [[20, 20]], [1])
        try:
            for found in clip.propagate():
                seen.append(found.frame_idx)
        except SourceError as error:
            return seen, str(error)
    return seen, "well"


class TestBroken:
    @pytest.mark.parametrize(
        ("name", "line"), [("a.mp4", "tells of 30 frames, but only"), ("a.mkv", "tells of 1.2 s")]
    )
    def test_a_tail_that_was_cut_off_is_told_after_what_is_there(
        self, predictor: Any, tmp_path: Path, name: str, line: str
    ) -> None:
        begin = {"movflags": "faststart"} if name == "a.mp4" else None
        path = write(tmp_path / name, pictures(30), "mjpeg", begin)
        raw = path.read_bytes()
        path.write_bytes(raw[: len(raw) // 2])
        frames = open_frames(path)
        assert 2 <= frames.count < 20
        seen, end = tracked(predictor, frames)
        assert seen == list(range(frames.count))
        assert line in end
        assert end == frames.trouble

    def test_a_frame_amid_the_clip_that_does_not_decode(
        self, predictor: Any, tmp_path: Path
    ) -> None:
        path = write(tmp_path / "a.avi", pictures(12), "mjpeg")
        with av.open(str(path)) as file:
            packets = [(packet.pos, packet.size) for packet in file.demux(video=0)]
        at, size = packets[7]
        raw = bytearray(path.read_bytes())
        raw[at : at + size] = bytes(size)
        path.write_bytes(raw)
        frames = open_frames(path)
        seen, end = tracked(predictor, frames)
        assert seen == list(range(7))
        assert end.startswith("source clip: frame 7 of 12 does not decode")

    def test_a_size_that_changes(self, predictor: Any, tmp_path: Path) -> None:
        for number, picture in enumerate(pictures(6)):
            image = Image.fromarray(picture[:, : 30 if number == 4 else None])
            image.save(tmp_path / f"{number}.png")
        seen, end = tracked(predictor, open_frames(tmp_path))
        assert seen == [0, 1, 2, 3]
        assert end == "frame 4 is 30x48 pixels, expected 64x48 as in the first"

    def test_a_size_that_changes_amid_a_stream(self, predictor: Any, tmp_path: Path) -> None:
        small = [picture[:32, :48] for picture in pictures(5)]
        parts = [write(tmp_path / "a.ts", pictures(5)), write(tmp_path / "b.ts", small)]
        joined = tmp_path / "c.ts"
        joined.write_bytes(b"".join(part.read_bytes() for part in parts))
        seen, end = tracked(predictor, open_frames(joined))
        assert seen == [0, 1, 2, 3, 4]
        assert end == "frame 5 is 48x32 pixels, expected 64x48 as in the first"

    def test_a_picture_that_is_none(self, predictor: Any, tmp_path: Path) -> None:
        for number, picture in enumerate(pictures(4)):
            Image.fromarray(picture).save(tmp_path / f"{number}.png")
        (tmp_path / "2.png").write_bytes(b"no picture")
        seen, end = tracked(predictor, open_frames(tmp_path))
        assert seen == [0, 1]
        assert "frame 2 of 4 does not decode (UnidentifiedImageError)" in end

    def test_one_frame_is_no_clip(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.mp4", pictures(1))
        Image.fromarray(pictures(1)[0]).save(tmp_path / "0.png")
        for clip in (path, tmp_path):
            with pytest.raises(
                SourceError, match=r"got 1 frame\(s\), expected a clip of at least 2"
            ):
                open_frames(clip)

    @pytest.mark.parametrize(
        ("name", "content", "line"),
        [
            ("a.mp4", b"", "no readable video"),
            ("a.mp4", b"x" * 4000, "no readable video"),
            ("a.dcm", b"x" * 4000, "no DICOM file"),
        ],
    )
    def test_what_is_no_clip(self, tmp_path: Path, name: str, content: bytes, line: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SourceError, match=line):
            open_frames(tmp_path / name)

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        for gone in ("nothing.mp4", "a\0b", ""):
            with pytest.raises((SourceError, ConfigError)) as found:
                open_frames(tmp_path / gone if gone else gone)
            assert "\n" not in str(found.value)


class TestStills:
    def test_a_folder_in_the_order_of_its_numbers(self, tmp_path: Path) -> None:
        for number, picture in enumerate(pictures(11)):
            Image.fromarray(picture).save(tmp_path / f"frame_{number}.png")
        (tmp_path / "notes.txt").write_text("not a picture")
        frames = open_frames(tmp_path)
        assert frames.count == 11
        for index in (10, 2, 0, 9):
            assert np.array_equal(frames.read(index), pictures(11)[index])

    def test_a_cine_any_frame_as_if_read_in_order(self) -> None:
        from stages.sources.dicom import DicomConfig, DicomSource

        source = DicomSource(DicomConfig(path="pydicom:ybr_color", realtime=False))
        wanted = []
        while (picture := source.read(lambda shape: np.empty(shape, np.uint8))) is not None:
            wanted.append(picture.pixels)
            if len(wanted) == 6:
                break
        frames = open_frames("pydicom:ybr_color")
        assert frames.size_hw == wanted[0].shape[:2]
        assert frames.count == 30
        assert frames.fps == pytest.approx(30, abs=15)
        for index in (0, 1, 2, 5, 1, 0, 3, 4):
            assert np.array_equal(frames.read(index), wanted[index]), index

    def test_a_folder_of_dicom_files(self, tmp_path: Path) -> None:
        study = folder(tmp_path / "s", *(single(n, InstanceNumber=n) for n in (3, 1, 2)))
        (study / "a_note.txt").write_text("no picture")
        frames = open_frames(study)
        shades = [int(frames.read(index)[5, 5]) for index in (2, 0, 1, 0)]
        assert shades == [3, 1, 2, 1]
        assert frames.time_s(1) is None

    def test_the_times_of_dicom_files(self, tmp_path: Path) -> None:
        times = ("120000.0", "120000.5", "120002.0")
        files = (single(n, InstanceNumber=n, AcquisitionTime=t) for n, t in enumerate(times))
        frames = open_frames(folder(tmp_path / "s", *files))
        assert [frames.time_s(n) for n in range(3)] == [0, 0.5, 2]


def test_the_readmes_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    blocks = [block.split("```")[0] for block in readme.split("```python\n")[1:]]
    (example,) = (block for block in blocks if "open_clip" in block)
    scene = PhantomScene(10_012, size_hw=(240, 400))
    frames = [scene.render(300 + number)[:, :, None].repeat(3, 2) for number in range(46)]
    write(tmp_path / "clip.mp4", frames)
    monkeypatch.chdir(tmp_path)
    exec(example)  # noqa: S102
    told = capsys.readouterr().out.splitlines()
    assert [int(line.split()[0]) for line in told] == [*range(20, 46), *reversed(range(21))]
    assert told[0] == "20 [1, 2] torch.Size([2, 1, 240, 400])"


def test_pictures_are_uploaded_as_planes_and_once() -> None:
    asked = []

    class Counted:
        count, size_hw, fps, trouble = 3, HW, None, None

        def read(self, index: int) -> NDArray[Any]:
            asked.append(index)
            return np.full(HW, index, np.uint8) if index else np.ones((*HW, 3), np.uint8)

        def spacing_mm(self, index: int) -> None:
            pass

        def time_s(self, index: int) -> None:
            pass

        def close(self) -> None:
            pass

    frames = UploadedFrames(Counted(), torch.device("cpu"))
    kept = frames.read(1)
    assert frames.read(0).shape == kept.shape == (3, *HW)
    assert torch.equal(frames.read(1), kept)
    assert asked == [1, 0]
    frames.read(2)
    assert bool((kept == 1).all()), "what was handed out is not written again"
