"""`maskstream sources`: what a person may call a source, and what is told of it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from conftest import ROOT, Outcome
from PIL import Image
from pydicom import examples

import pipeline.source_address as source_address
from pipeline.build import SOURCES
from pipeline.probe import Look, _shown
from pipeline.probe_rows import Seen, rows
from pipeline.source_address import source_config
from stages.base import Picture
from stages.errors import ConfigError
from stages.sources.phantom import PhantomConfig, PhantomSource
from stages.window import Window
from stages.ycbcr import YCbCr
from tests.rtsp_peer import BARS, RtspServer, bars, require_rtsp_server

Call = Callable[..., Outcome]
QUICK = ("--seconds", "0.4")


def clip(path: Path) -> Path:
    """Two frames a second apart of red beside blue, 64x48."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=20)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[:, :32], picture[:, 32:] = (220, 20, 20), (20, 20, 220)
        for _ in range(30):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


class TestWhatASourceIsCalled:
    @pytest.mark.parametrize(
        ("target", "section"),
        [
            ("rtsp://h/a", {"kind": "rtsp", "url": "rtsp://h/a"}),
            ("RTSP://h/a", {"kind": "rtsp", "url": "RTSP://h/a"}),
            ("srt://h:5", {"kind": "rtsp", "url": "srt://h:5"}),
            ("https://h/a.ts", {"kind": "rtsp", "url": "https://h/a.ts"}),
            ("igtl://h:5", {"kind": "openigtlink", "host": "h", "port": 5}),
            ("igtl://h", {"kind": "openigtlink", "host": "h", "port": 18944}),
            ("openigtlink://[::1]:7/", {"kind": "openigtlink", "host": "::1", "port": 7}),
            ("tcp://127.0.0.1:5558", {"kind": "zmq", "endpoint": "tcp://127.0.0.1:5558"}),
            ("ipc:///tmp/x", {"kind": "zmq", "endpoint": "ipc:///tmp/x"}),
            ("pydicom:ybr_color", {"kind": "dicom", "path": "pydicom:ybr_color"}),
            ("/dev/null", {"kind": "camera", "device": "/dev/null"}),
            ("phantom", {"kind": "phantom"}),
        ],
    )
    def test_an_address_names_its_kind(self, target: str, section: dict[str, Any]) -> None:
        assert source_address._section(target) == section

    def test_a_path_names_its_kind(self, tmp_path: Path) -> None:
        movie = clip(tmp_path / "a.mkv")
        bare = tmp_path / "no_suffix"
        bare.write_bytes(Path(examples.get_path("ybr_color")).read_bytes()[:400])
        pictures, study = tmp_path / "pictures", tmp_path / "study"
        for folder in (pictures, study):
            folder.mkdir()
        (pictures / "1.png").write_bytes(b"x")
        (study / "IM1").write_bytes(bare.read_bytes())
        kinds = {movie: "video", bare: "dicom", pictures: "images", study: "dicom"}
        for path, kind in kinds.items():
            assert source_address._section(str(path)) == {"kind": kind, "path": str(path)}

    def test_a_configuration_gives_its_source(self, tmp_path: Path) -> None:
        own = tmp_path / "own.yaml"
        own.write_text(
            "name: t\nsource: {kind: phantom, seed: 3}\ndetector: {kind: none}\n"
            "segmenter: {kind: sam2_image, max_objects: 2}\n"
        )
        for target in (str(own), "demo"):
            found = source_config(target, ["seed=9"])
            assert isinstance(found, PhantomConfig)
            assert found.seed == 9

    @pytest.mark.parametrize(
        ("target", "words"),
        [
            (
                "nothing_here",
                "'nothing_here' is no file that is there, and nothing else known, expected an",
            ),
            ("a\0b", "is no file that is there"),
            ("/dev/video77", "/dev/video77 is not there, expected a device"),
            ("gopher://h", "no source reads gopher:// addresses"),
            ("igtl://u:p@h:5", "cannot read the address, expected igtl://HOST:PORT"),
            ("none.yaml", "none.yaml: no such file"),
        ],
    )
    def test_what_is_none_is_one_line(self, target: str, words: str) -> None:
        with pytest.raises(ConfigError) as caught:
            source_config(target)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "target",
        ["gopher://u:hunter2@h", "igtl://u:hunter2@h:5", "u:hunter2@h/x", "rtsp://u:hunter2@/x",
         "rtsp://u:hunter2@h:99999/x"],
    )  # fmt: skip
    def test_no_password_is_told(self, call_main: Call, target: str) -> None:
        outcome = call_main("sources", "probe", target)
        assert outcome.code == 78
        assert "hunter2" not in outcome.stdout + outcome.stderr

    def test_a_kind_that_is_not_built_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Few:
            kinds = ("phantom",)

        monkeypatch.setattr(source_address, "SOURCES", Few)
        with pytest.raises(ConfigError, match="no kind 'zmq' here, expected one of phantom"):
            source_config("tcp://127.0.0.1:5")


class TestProbe:
    def test_a_video_file(self, call_main: Call, tmp_path: Path) -> None:
        path, png = clip(tmp_path / "a.mp4"), tmp_path / "p.png"
        outcome = call_main("sources", "probe", str(path), *QUICK, "--picture", str(png))
        assert outcome.code == 0, outcome.stderr
        for words in ("64x48", "RGB, 8 bits", "mpeg4, yuv420p", "20.00 pictures/s", "unknown"):
            assert words in outcome.stdout
        shown = np.asarray(Image.open(png)).astype(int)
        assert shown.shape == (48, 64, 3)
        assert np.abs(shown[24, 10] - (220, 20, 20)).max() < 12
        assert np.abs(shown[24, 50] - (20, 20, 220)).max() < 12
        assert [file.name for file in tmp_path.iterdir() if file.suffix == ".part"] == []

    def test_a_region_and_a_scale(self, call_main: Call) -> None:
        outcome = call_main(
            "sources", "probe", "phantom", *QUICK, "--set", "spacing_mm=[0.5, 0.25]",
            "--set", "roi={y: 10, x: 20, height: 100, width: 200}",
        )  # fmt: skip
        assert outcome.code == 0, outcome.stderr
        assert "200x100 from (20, 10) of 640x480" in outcome.stdout
        assert "0.5 x 0.25 mm" in outcome.stdout

    def test_a_real_cine_tells_why_it_has_no_scale(self, call_main: Call) -> None:
        outcome = call_main("sources", "probe", "pydicom:ybr_color", *QUICK)
        assert outcome.code == 0
        told = " ".join(outcome.stdout.replace("│", " ").split())
        assert "does not lie in the 320x240 picture" in told

    def test_what_another_process_sends(self, call_main: Call, tmp_path: Path) -> None:
        endpoint = f"ipc://{tmp_path}/frames"
        program = (
            "import sys, time\nimport numpy as np\n"
            "from stages.frame_sender import FrameSender\n"
            "with FrameSender(sys.argv[1]) as run:\n"
            "    while True:\n"
            "        run.send(np.full((40, 60), 9, np.uint8), spacing_mm=(0.1, 0.2),\n"
            "                 pose=np.eye(4))\n"
            "        run.sent += run.sent == 3\n"
            "        time.sleep(0.02)\n"
        )
        with subprocess.Popen([sys.executable, "-c", program, endpoint], cwd=ROOT) as sender:
            try:
                outcome = call_main("sources", "probe", endpoint, *QUICK)
            finally:
                sender.kill()
        assert outcome.code == 0, outcome.stderr
        for words in (f"waits for a sender at {endpoint}", "60x40", "grey", "0.1 x 0.2 mm"):
            assert words in outcome.stdout
        assert "told, origin at (0.0, 0.0, 0.0)" in outcome.stdout
        assert "behind this host's clock" in " ".join(outcome.stdout.replace("│", " ").split())

    def test_a_network_camera(self, call_main: Call, tmp_path: Path) -> None:
        require_rtsp_server()
        png = tmp_path / "p.png"
        with RtspServer() as server:
            outcome = call_main("sources", "probe", server.url, *QUICK, "--picture", str(png))
        assert outcome.code == 0, outcome.stderr
        for words in ("RGB, 8 bits", "h264, yuv420p", "pictures/s, jitter", "age on arrival"):
            assert words in outcome.stdout
        shown = np.asarray(Image.open(png))
        assert bars(shown) == BARS

    @pytest.mark.parametrize(
        ("target", "code", "words"),
        [
            ("rtsp://u:hunter2@127.0.0.1:1/x", 1, "no picture within 0.5 s: "),
            ("tcp://127.0.0.1:0", 1, "no picture within 0.5 s: no sender came"),
            ("tcp://192.168.0.1:5", 78, "an address of this host alone"),
            ("{tmp}/not_a_video.mp4", 1, "the file is no readable video"),
            ("{tmp}/not.dcm", 1, "no DICOM file"),
            ("phantom --set seed=-1", 78, "source of kind phantom: seed: got -1"),
            ("phantom --set roi={{y: 0, x: 0, height: 9999, width: 5}}", 1, "roi reaches to row"),
        ],
    )
    def test_what_is_wrong_is_told_in_one_line(
        self, call_main: Call, tmp_path: Path, target: str, code: int, words: str
    ) -> None:
        for name in ("not_a_video.mp4", "not.dcm"):
            (tmp_path / name).write_bytes(b"x" * 1000)
        name, _, override = target.format(tmp=tmp_path).partition(" --set ")
        more = ("--set", override) if override else ()
        outcome = call_main("sources", "probe", name, "--wait", "0.5", *more)
        assert outcome.code == code
        assert words in outcome.stderr
        assert len(outcome.stderr.strip().splitlines()) == 1
        assert "Traceback" not in outcome.stderr
        assert "hunter2" not in outcome.stderr + outcome.stdout

    def test_a_picture_that_cannot_be_written(self, call_main: Call, tmp_path: Path) -> None:
        nowhere = tmp_path / "no" / "p.png"
        outcome = call_main("sources", "probe", "phantom", *QUICK, "--picture", str(nowhere))
        assert outcome.code == 1
        assert "No such file or directory" in outcome.stderr

    def test_one_that_fails_on_the_way_still_tells_what_came(
        self, call_main: Call, tmp_path: Path
    ) -> None:
        data = Path(examples.get_path("ybr_color")).read_bytes()
        cut = tmp_path / "cut.dcm"
        cut.write_bytes(data[: len(data) // 2])
        outcome = call_main("sources", "probe", str(cut), "--seconds", "5")
        assert outcome.code == 1
        assert "320x240" in outcome.stdout
        assert "ended by" in outcome.stdout


def test_every_kind_is_listed(call_main: Call) -> None:
    outcome = call_main("sources", "list")
    assert outcome.code == 0
    listed = [line.split()[0] for line in outcome.stdout.splitlines() if line[1:2].strip()]
    assert sorted(listed) == sorted(SOURCES.kinds)


def test_the_last_picture_is_never_written_over() -> None:
    source = PhantomSource(PhantomConfig(size_hw=(96, 96), fps=None, frames=7))
    look = Look(source)
    look.run(5.0, 5.0)
    look.join()
    assert look.last is not None
    assert len(look.seen) == 7
    expected = PhantomSource(PhantomConfig(size_hw=(96, 96), fps=None))
    pictures = [expected.read(lambda shape: np.empty(shape, np.uint8)) for _ in range(7)]
    assert pictures[-1] is not None
    assert np.array_equal(look.last.pixels, pictures[-1].pixels)
    assert not np.array_equal(look._buffer((96, 96)), look.last.pixels)
    assert threading.active_count() < 20


def test_memory_is_kept_for_the_newest_shape_only() -> None:
    look = Look(PhantomSource(PhantomConfig(size_hw=(96, 96), fps=None, frames=1)))
    for side in range(1, 50):
        assert look._buffer((side, 8)).shape == (side, 8)
    assert [array.shape for array in look._memory] == [(49, 8)] * 2


def test_rate_jitter_and_clocks_are_those_of_the_pictures() -> None:
    pixels = np.zeros((4, 6), np.uint8)
    late_ms = [0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0]
    seen = [
        Seen(
            1_000_000 * (100 * n + late + 5),
            10**18 + 100_000_000 * n,
            Picture(
                pixels, n // 6, 100_000_000 * n, captured_unix_ns=10**18 + 100_000_000 * n - 10**9
            ),
        )
        for n, late in enumerate(late_ms)
    ]
    source = PhantomSource(PhantomConfig(size_hw=(96, 96)))
    told = dict(rows(source, seen, (), ["3 pictures are missing"]))
    assert told["pictures"] == "11 in 1.0 s"
    assert told["arrival"].startswith("10.00 pictures/s, jitter 8.0 ms")
    assert told["time stamps"] == ("10.00 pictures/s, jitter 0.0 ms (95 of 100), 0.0 ms at worst")
    assert told["age on arrival"] == "5.0 ms, 13.0 ms at worst"
    assert "+1.000 s behind" in told["Unix time"]
    assert told["epochs"].startswith("2")
    assert told["told"] == "3 pictures are missing"


def test_a_raw_picture_is_told_and_shown_as_a_run_would_make_it() -> None:
    ycbcr = YCbCr("yuyv", "bt709", False, Window((2, 3), (0, 1), (2, 4)))
    red = np.broadcast_to(np.array([[63, 102], [63, 240]] * 2, np.uint8), (2, 4, 2)).copy()
    picture = Picture(red, 0, 0, origin_yx=(5, 7), full_hw=(20, 30), ycbcr=ycbcr)
    source = PhantomSource(PhantomConfig(size_hw=(96, 96)))
    told = dict(rows(source, [Seen(0, 0, picture)], (), ()))
    assert told["size"] == "3x2 from (7, 5) of 30x20"
    assert told["pixels"] == "YUYV, BT.709, limited range; made RGB on the device"
    shown = _shown(picture)
    assert shown.shape == (2, 3, 3)
    assert np.abs(shown.astype(int) - (255, 0, 0)).max() <= 2


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("udp://127.0.0.1:45999", "nothing came from there"),
        ("rtsp://127.0.0.1:1/a", "rtsp://127.0.0.1:1: Connection refused"),
        ("rtsp://no-such-host.invalid/a", ": the host's name is not known here"),
    ],
)
def test_why_nothing_comes_is_told(call_main: Call, target: str, why: str) -> None:
    outcome = call_main("sources", "probe", target, "--wait", "1")
    assert outcome.code == 1
    assert outcome.stderr.startswith("source rtsp: no picture within 1 s: ")
    assert outcome.stderr.endswith(f"{why}\n")
