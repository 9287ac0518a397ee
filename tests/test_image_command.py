"""`maskstream image`: the masks are those of sam2's own predictor, the files are what they say."""

from __future__ import annotations

import functools
import json
import resource
import shutil
import signal
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from conftest import Outcome
from PIL import Image
from sam2.sam2_image_predictor import SAM2ImagePredictor
from torch import nn

import pipeline.offline.image as image_command
from pipeline.offline.image_prompts import ImagePrompts
from pipeline.offline.journal import Journal
from pipeline.offline.measure import mask_of, measured
from pipeline.offline.records import SCHEMA_PATH, ImageResults, schema_text
from stages.proposals import Proposer
from stages.segmenters import sam2_checkpoint
from stages.segmenters.sam2_checkpoint import build_sam2
from stages.shapes import Shape
from tests.tiny_sam2 import FRAME_HW, SIZE, write_model

Call = Callable[..., Outcome]
BUILT_ONCE = functools.cache(sam2_checkpoint.build_sam2)
TOLERANCE = 1e-4
HEIGHT, WIDTH = FRAME_HW


@pytest.fixture(autouse=True)
def _build_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are left as they are, so that all may share one."""
    monkeypatch.setattr(sam2_checkpoint, "build_sam2", BUILT_ONCE)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_model(tmp_path_factory.mktemp("sam2"))


@pytest.fixture(scope="module")
def model(files: tuple[Path, Path]) -> nn.Module:
    return build_sam2(str(files[0]), files[1], None, torch.device("cpu"))


@pytest.fixture(scope="module")
def official(model: nn.Module) -> SAM2ImagePredictor:
    """Unmodified but for the feature sizes, which it hard-codes for 1024 pixels."""
    predictor = SAM2ImagePredictor(model)
    predictor._bb_feat_sizes = [(SIZE // stride, SIZE // stride) for stride in (4, 8, 16)]
    return predictor


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with three pictures, and one level above it to work in."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in (10, 9, 1):
        Image.fromarray(noise(number)).save(folder / f"p{number}.png")
    (folder / "notes.txt").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def segment(call_main: Call, files: tuple[Path, Path]) -> Callable[..., Outcome]:
    """`segment(picture, ..., --option, ...)` with the tiny model, into `out`."""

    def call(*args: str, out: str = "out") -> Outcome:
        return call_main(
            "image", *args, "--model", str(files[0]), "--checkpoint", str(files[1]),
            "--device", "cpu", "--out", out,
        )  # fmt: skip

    return call


def noise(seed: int, size_hw: tuple[int, int] = FRAME_HW) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), dtype=np.uint8)


def disc() -> Any:
    y, x = np.ogrid[:HEIGHT, :WIDTH]
    return (y - 45) ** 2 + (x - 60) ** 2 < 30**2


def results(out: Path = Path("out")) -> ImageResults:
    text = (out / "results.json").read_text()
    jsonschema.validate(json.loads(text), json.loads(SCHEMA_PATH.read_text()))
    return ImageResults.model_validate_json(text)


def rough(side: int = SIZE // 4) -> Any:
    """The disc as somebody would hand it to the official predictor: low-resolution logits."""
    shares = torch.from_numpy(disc().astype(np.float32))[None, None]
    small = torch.nn.functional.interpolate(
        shares, (side, side), mode="bilinear", antialias=True, align_corners=False
    )
    return (small[0] * 20 - 10).numpy()


SHAPES = {
    "click": Shape(points=((40.0, 30.0),), labels=(1,)),
    "clicks": Shape(points=((40.0, 30.0), (100.0, 80.0), (10.0, 5.0)), labels=(1, 0, 1)),
    "box": Shape(box=(30.0, 10.0, 90.0, 70.0)),
    "box and points": Shape(((50.0, 40.0), (80.0, 60.0)), (1, 0), (30.0, 10.0, 90.0, 70.0)),
    "mask": Shape(mask=disc()),
    "mask and click": Shape(points=((60.0, 45.0),), labels=(1,), mask=disc()),
}


def asked(predictor: SAM2ImagePredictor, shape: Shape, multimask: bool) -> tuple[Any, Any]:
    masks, quality, _ = predictor.predict(
        point_coords=np.array(shape.points) if shape.points else None,
        point_labels=np.array(shape.labels) if shape.points else None,
        box=None if shape.box is None else np.array(shape.box),
        mask_input=None if shape.mask is None else rough(),
        multimask_output=multimask,
    )
    return masks > 0, quality


class TestParity:
    @pytest.mark.parametrize("multimask", [False, True])
    def test_every_kind_of_prompt(
        self, model: nn.Module, official: SAM2ImagePredictor, multimask: bool
    ) -> None:
        picture, proposer = noise(1), Proposer(model)
        official.set_image(picture)
        # All at once: what can be decoded together is.
        found = proposer.propose(proposer.look_at(picture), list(SHAPES.values()), multimask)
        several = 0
        for name, proposal in zip(SHAPES, found, strict=True):
            masks, quality = asked(official, SHAPES[name], multimask)
            assert proposal.masks.shape == (3 if multimask else 1, *FRAME_HW)
            assert np.abs(proposal.quality - quality).max() < TOLERANCE, name
            for ours, theirs in zip(proposal.masks, masks, strict=True):
                assert (ours != theirs).sum() <= 1, name
                several += bool(0.02 < theirs.mean() < 0.98)
        assert several >= len(SHAPES)

    def test_without_multimask_a_lone_click_gets_the_best_of_three(
        self, model: nn.Module, official: SAM2ImagePredictor
    ) -> None:
        picture, proposer = noise(2), Proposer(model)
        official.set_image(picture)
        shapes = [SHAPES["click"], SHAPES["clicks"]]
        click, clicks = proposer.propose(proposer.look_at(picture), shapes)
        masks, quality = asked(official, SHAPES["click"], True)
        assert click.quality.tolist() == pytest.approx([quality.max()], abs=TOLERANCE)
        assert (click.masks[0] != masks[quality.argmax()]).sum() <= 1
        assert (clicks.masks[0] != asked(official, SHAPES["clicks"], False)[0][0]).sum() <= 1

    def test_the_comparison_notices_another_prompt(
        self, model: nn.Module, official: SAM2ImagePredictor
    ) -> None:
        picture, proposer = noise(1), Proposer(model)
        official.set_image(picture)
        (moved,) = proposer.propose(
            proposer.look_at(picture), [Shape(box=(33.0, 10.0, 90.0, 70.0))], True
        )
        masks, quality = asked(official, SHAPES["box"], True)
        assert np.abs(moved.quality - quality).max() > 10 * TOLERANCE
        assert (moved.masks != masks).sum() > 10

    def test_the_threshold_counts(self, model: nn.Module) -> None:
        def area(threshold: float) -> int:
            proposer = Proposer(model, threshold)
            return int(proposer.propose(proposer.look_at(noise(1)), [SHAPES["box"]])[0].masks.sum())

        assert area(-2.0) > area(0.0) > area(2.0)


def test_no_picture_takes_the_name_of_another_ones_proposals(
    pictures: Path, segment: Callable[..., Outcome]
) -> None:
    paths = [Path(f"in/n{end}.png") for end in ("", "_1", "_1_2")]
    for seed, path in enumerate(paths):
        Image.fromarray(noise(seed)).save(path)
    assert segment(*map(str, paths), "--point", "40,30", "--multimask").code == 0
    shown = [str(record.overlay) for record in results().pictures]
    every = {f"{name[:-4]}{end}.png" for name in shown for end in ("", "_1", "_2", "_3")}
    assert len(every) == 12
    assert {f"overlays/{path.name}" for path in Path("out/overlays").iterdir()} == every


def test_what_is_written_for_several_prompts(
    pictures: Path, segment: Callable[..., Outcome], official: SAM2ImagePredictor
) -> None:
    outcome = segment("in/p9.png", "--point", "40,30", "--multimask", "--spacing", "0.5,0.2")
    assert outcome.code == 0, outcome.stderr
    found = results()
    assert (found.complete, found.command, found.multimask) == (True, "image", True)
    (record,) = found.pictures
    official.set_image(noise(9))
    masks, quality = asked(official, SHAPES["click"], True)
    assert [mask.quality for mask in record.masks] == pytest.approx(list(quality), abs=TOLERANCE)
    assert [mask.chosen for mask in record.masks] == [row == quality.argmax() for row in range(3)]
    for mask, theirs in zip(record.masks, masks, strict=True):
        pixels = np.asarray(Image.open(Path("out") / str(mask.file)))
        assert set(np.unique(pixels)) <= {0, 255}
        assert ((pixels > 0) != theirs).sum() <= 1
        assert np.array_equal(mask_of(mask, FRAME_HW), pixels > 0)
        assert mask.area_px == (pixels > 0).sum()
        assert mask.area_mm2 == pytest.approx(mask.area_px * 0.1)
    names = sorted(path.name for path in Path("out/overlays").iterdir())
    assert names == ["p9.png", "p9_1.png", "p9_2.png", "p9_3.png"]
    overlay = np.asarray(Image.open("out/overlays/p9.png"))
    assert overlay.shape == (*FRAME_HW, 3)
    assert overlay[30, 40].tolist() == [255, 255, 255]  # the middle of the plus
    assert overlay[28, 38].tolist() == [40, 220, 60]  # a point on the object is green
    modes = {path.stat().st_mode & 0o777 for path in Path("out").rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert not list(Path("out").rglob(".*"))


def test_a_folder_in_the_order_of_its_numbers_with_a_grid(
    pictures: Path, segment: Callable[..., Outcome]
) -> None:
    assert segment("in", "--grid", "3x2").code == 0
    found = results()
    assert [Path(each.picture).name for each in found.pictures] == ["p1.png", "p9.png", "p10.png"]
    for record in found.pictures:
        assert len(record.masks) == len(record.prompts) == 6
        labels = Image.open(Path("out") / str(record.combined))
        assert labels.mode == "P"
        values = np.asarray(labels)
        together = np.zeros(FRAME_HW, np.bool_)
        for mask in record.masks:
            together |= mask_of(mask, FRAME_HW)
        assert np.array_equal(values > 0, together)
        smallest = min((m for m in record.masks if m.area_px), key=lambda one: one.area_px)
        assert (values[mask_of(smallest, FRAME_HW)] == smallest.object).all()


def test_a_pattern_and_equal_names(pictures: Path, segment: Callable[..., Outcome]) -> None:
    Path("more").mkdir()
    shutil.copy("in/p9.png", "more/p9.png")
    assert segment("in/p?.png", "more", "in/p1.png", "--grid-center", "2").code == 0
    found = results()
    assert [each.picture for each in found.pictures] == ["in/p1.png", "in/p9.png", "more/p9.png"]
    assert [each.overlay for each in found.pictures][1:] == [
        "overlays/p9.png",
        "overlays/p9_2.png",
    ]


def test_where_grids_put_their_points() -> None:
    grid = [shape.points[0] for shape in ImagePrompts(grid=(3, 2)).on((60, 90))]
    assert grid == [(15, 15), (45, 15), (75, 15), (15, 45), (45, 45), (75, 45)]
    ring = [shape.points[0] for shape in ImagePrompts(ring=5).on((60, 90))]
    expected = [(45, 30), (45, 15), (60, 30), (45, 45), (30, 30)]
    assert np.allclose(ring, expected)
    assert [shape.points for shape in ImagePrompts(ring=1).on((60, 90))] == [((45, 30),)]


def test_measures_of_a_mask() -> None:
    mask = np.zeros((20, 30), np.bool_)
    mask[4:8, 10:20] = True
    record = measured(mask, 3, (0.5, 0.2))
    assert (record.box_xyxy, record.area_px, record.area_mm2) == ((10, 4, 20, 8), 40, 4.0)
    assert record.centroid_xy == (15.0, 6.0)
    nothing = measured(np.zeros((20, 30), np.bool_), 3)
    assert (nothing.box_xyxy, nothing.centroid_xy, nothing.area_px) == (None, None, 0)
    for each, of in ((record, mask), (nothing, np.zeros_like(mask))):
        assert np.array_equal(mask_of(each, (20, 30)), of)


def test_the_schema_that_is_shipped_is_that_of_the_records() -> None:
    assert SCHEMA_PATH.read_text() == schema_text()


# Bad input


def huge_png(path: Path, side: int = 16000) -> None:
    """A PNG whose header claims side x side pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + end)


BAD: list[tuple[Sequence[str], int, Sequence[str]]] = [
    (["in/p1.png"], 2, ["expected what to segment", "--point", "--grid"]),
    (["in/p1.png", "--grid", "0x3"], 2, ["--grid 0x3", "3x3"]),
    (["in/p1.png", "--grid", "99x99"], 2, ["--grid 99x99", "225"]),
    (["in/p1.png", "--grid-center", "0"], 2, ["--grid-center 0", "1 to 225"]),
    (["in/p1.png", "--grid", "3x3", "--point", "1,1"], 2, ["expected what to segment"]),
    (["in/p1.png", "--point", "1;1"], 2, ["--point 1;1", "2 numbers"]),
    (["in/p1.png", "--box", "50,1,20,30"], 2, ["--box 50,1,20,30", "X1 < X2"]),
    (["in/p1.png", "--box", "1,1,9,9", "--box", "5,5,9,9", "--point", "4,4"], 2, ["several"]),
    (["in/p1.png", "--mask", "none.png"], 2, ["--mask none.png", "expected a PNG"]),
    (["in/p1.png", "--point", "1,1", "--spacing", "0,1"], 2, ["--spacing 0,1", "millimetres"]),
    (["in/p1.png", "--point", "1,1", "--sha256", "12"], 2, ["--sha256 12", "64"]),
    (["in/p1.png", "--point", "1,1", "--sha256", "0" * 64], 78, ["sha256 is", "expected 0000"]),
    (["in/p1.png", "--point", "1,1", "--mask-threshold", "nan"], 2, ["nan", "a logit"]),
    (["none.png", "--point", "1,1"], 1, ["'none.png'", "no such file"]),
    (["in/notes.txt", "--point", "1,1"], 1, ["in/notes.txt", ".png"]),
    (["empty", "--point", "1,1"], 1, ["empty", "no pictures", ".png"]),
    (["in/p1.png", "--point", "131.5,1"], 1, ["p1.png", "131.5,1", "outside", "131x90"]),
    (["in/p1.png", "--box", "140,1,150,9"], 1, ["p1.png", "140,1,150,9", "outside"]),
    (["in/p1.png", "--mask", "small.png"], 1, ["p1.png", "the mask is 20x10", "131x90"]),
    (["in/p1.png", "--mask", "black.png"], 1, ["p1.png", "the mask is empty"]),
    (["text.png", "--point", "1,1"], 1, ["text.png", "does not decode", "PNG"]),
    (["huge.png", "--point", "1,1"], 1, ["huge.png", "pixels", "16777216"]),
]


@pytest.mark.parametrize(("args", "code", "said"), BAD, ids=[" ".join(case[0]) for case in BAD])
def test_bad_input(
    pictures: Path,
    segment: Callable[..., Outcome],
    args: Sequence[str],
    code: int,
    said: Sequence[str],
) -> None:
    Path("empty").mkdir()
    Path("text.png").write_text("no picture")
    huge_png(Path("huge.png"))
    Image.new("L", (20, 10), 255).save("small.png")
    Image.new("L", (WIDTH, HEIGHT), 0).save("black.png")
    outcome = segment(*args)
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("maskstream: ")
    assert outcome.code == code, line
    for part in said:
        assert part in line


def test_one_bad_picture_costs_no_other(pictures: Path, segment: Callable[..., Outcome]) -> None:
    (pictures / "p9.png").write_bytes((pictures / "p9.png").read_bytes()[:2000])
    outcome = segment("in", "--point", "40,30")
    assert outcome.code == 1
    assert "2 of 3" in outcome.stdout
    first, broken, last = results().pictures
    assert broken.error is not None
    assert "p9.png" in broken.error
    assert not broken.masks
    assert len(first.masks) == len(last.masks) == 1
    assert results().complete  # each was looked at


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_what_was_finished(
    pictures: Path,
    segment: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    add = Journal.add

    def interrupted(self: Journal, *more: Any) -> None:
        add(self, *more)
        signal.raise_signal(number)

    monkeypatch.setattr(Journal, "add", interrupted)
    outcome = segment("in", "--point", "40,30")
    assert outcome.code == 0, outcome.stderr
    assert "1 of 3 pictures" in outcome.stdout
    (finished,) = results().pictures
    assert Path("out", str(finished.masks[0].file)).is_file()
    assert not results().complete


def test_results_of_before_stay_unless_told(
    pictures: Path, segment: Callable[..., Outcome]
) -> None:
    assert segment("in/p9.png", "--grid-center", "2").code == 0
    before = Path("out/results.json").read_bytes()
    refused = segment("in/p1.png", "--point", "40,30")
    assert (refused.code, len(refused.stderr.splitlines())) == (78, 1)
    assert "it is not empty (expected a new or empty folder for the run, or --overwrite)" in (
        " ".join(refused.stderr.split())
    )
    assert Path("out/results.json").read_bytes() == before
    assert segment("in/p1.png", "--point", "40,30", "--overwrite").code == 0
    files = {str(path.relative_to("out")) for path in Path("out").rglob("*.png")}
    assert files == {"masks/p1/object_001.png", "overlays/p1.png", "combined/p1.png"}
    Path("out/thesis.tex").touch()
    refused = segment("in/p1.png", "--point", "40,30", "--overwrite")
    assert refused.code == 78
    assert "thesis.tex" in refused.stderr
    assert segment("in/p1.png", "--point", "40,30", out="/proc/x").code == 78


@contextmanager
def small_files(most: int) -> Iterator[None]:
    """No file of this process may grow beyond `most` bytes: what a full disk does to it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_keeps_what_was_finished(
    pictures: Path, segment: Callable[..., Outcome]
) -> None:
    Image.fromarray(noise(1, (8, 8))).save("in/p1.png")  # its overlay is small enough
    with small_files(9000):
        outcome = segment("in", "--point", "4,4")
    (line,) = outcome.stderr.splitlines()
    assert outcome.code == 1
    assert "out/" in line
    assert "File too large" in line
    assert "what was finished is kept" in line
    (finished,) = results().pictures
    assert finished.picture == "in/p1.png"
    assert not results().complete
    assert "File too large" in str(results().error)
    assert not list(Path("out").rglob(".*.part*"))


def test_a_folder_that_vanishes_does_not_come_back(
    pictures: Path, segment: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def gone(total: int, unit: str) -> Iterator[Callable[[str], None]]:
        yield lambda text: shutil.rmtree("out")

    monkeypatch.setattr(image_command, "progress", gone)
    outcome = segment("in", "--point", "40,30")
    assert outcome.code == 1
    (line,) = outcome.stderr.splitlines()
    assert "out/" in line
    assert "No such file" in line
    assert not Path("out").exists()
