"""`maskstream video CLIP --text WORDS`: what words find on a frame is tracked as other prompts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from conftest import Outcome
from fake_concepts import SIDE, TruthConcepts
from PIL import Image
from tiny_sam3 import write_sam3

import stages.detectors.sam3 as sam3
from pipeline.offline.journal import Journal
from pipeline.offline.records import SCHEMA_PATH, TextRecord, VideoResults
from stages.detectors.concepts import Finds
from stages.sources.phantom import PhantomConfig, PhantomSource

SEED = 20  # a needle, a lumen and lesions
COUNT = 3


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    phantom = PhantomSource(PhantomConfig(seed=SEED, fps=None))
    for number in range(COUNT):
        picture = phantom.read(lambda shape: np.empty(shape, np.uint8))
        assert picture is not None
        Image.fromarray(picture.pixels).save(folder / f"p{number}.png")
    return folder


@pytest.fixture
def track(
    call_main: Callable[..., Outcome], clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    network = TruthConcepts(PhantomConfig(seed=SEED, fps=None))
    monkeypatch.setattr(sam3, "build_network", lambda config, device: network)

    def call(*more: str) -> Outcome:
        where = ("--out", str(tmp_path / "out"), "--device", "cpu", "--save", "masks")
        return call_main("video", str(clip), *where, *more)

    return call


def results(folder: Path) -> VideoResults:
    text = (folder / "out" / "results.json").read_text()
    jsonschema.validate(json.loads(text), json.loads(SCHEMA_PATH.read_text()))
    return VideoResults.model_validate_json(text)


def test_words_are_tracked_and_named(track: Callable[..., Outcome], tmp_path: Path) -> None:
    told = track("--text", "lumen", "--text", "needle", "--text-model", "m")
    assert told.code == 0, told.stderr
    found = results(tmp_path)
    assert [(each.object, each.name, each.text) for each in found.prompts] == [
        (1, "lumen", "lumen"), (2, "needle", "needle")
    ]  # fmt: skip
    assert found.prompts[0].score == pytest.approx(0.95)
    assert [[mask.object for mask in frame.masks] for frame in found.frames] == [[1, 2]] * COUNT
    labels = np.asarray(Image.open(tmp_path / "out" / "masks" / "frame_00002.png"))
    phantom = PhantomSource(PhantomConfig(seed=SEED, fps=None))
    truth = phantom.truth(2)
    for label, name in enumerate(("lumen", "needle"), 1):
        wanted = truth.masks[list(truth.class_ids).index(phantom.class_names.index(name))]
        shown = labels == label
        assert (shown & wanted).sum() / (shown | wanted).sum() > 0.6


def test_words_go_together_with_other_prompts_and_another_frame(
    track: Callable[..., Outcome], tmp_path: Path
) -> None:
    told = track(
        "--prompt", "3@0 +320,240 name=mine", "--text", "lumen", "--text-model", "m",
        "--text-frame", "1",
    )  # fmt: skip
    assert told.code == 0, told.stderr
    found = results(tmp_path)
    assert [(each.object, each.frame, each.name) for each in found.prompts] == [
        (3, 0, "mine"), (4, 1, "lumen")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--text", "lumen"), 2, "--text: expected --text-model too"),
        (("--text-model", "m"), 2, "--text-model: expected --text with what to look for"),
        (("--text-frame", "0"), 2, "--text-frame: expected --text"),
        (("--text-sha256", "0" * 64), 2, "--text-sha256: expected --text"),
        (("--text", "a", "--text-model", "m", "--text-sha256", "ab"), 2, "expected 64 hexadecimal"),
        (("--text", " ", "--text-model", "m"), 78, "phrases"),
        (("--text", "a", "--text", "a", "--text-model", "m"), 78, "expected each phrase once"),
        (("--text", "a", "--text-model", "m", "--text-frame", "9"), 2, "expected 0 to 2"),
        (("--text", "a boat", "--text-model", "m"), 2, "a boat: nothing of that on frame 0"),
        ((), 2, "expected what to track"),
    ],
)
def test_what_went_wrong_is_one_line(
    track: Callable[..., Outcome], tmp_path: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    told = track(*words)
    assert told.code == code
    assert said in told.stderr
    assert told.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_model_that_found_them_is_told_apart(
    track: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "a" * 40
    asked = ("--text", "lumen", "--text-model", "m", "--text-revision", commit)
    assert track(*asked, "--text-score", "0.4").code == 0
    assert results(tmp_path).text == TextRecord(
        model="m", revision=commit, weights_sha256="0" * 64, min_score=0.4
    )
    monkeypatch.setattr(Journal, "fold", lambda *_, **__: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception, match="killed"):
        track(*asked, "--overwrite")
    monkeypatch.setattr(TruthConcepts, "weights_sha256", lambda self: "1" * 64)
    told = track(*asked, "--resume")
    assert told.code == 78
    assert "--resume with another text than before" in told.stderr


def test_without_words_no_model_of_words_is_told(
    track: Callable[..., Outcome], tmp_path: Path
) -> None:
    assert track("--prompt", "1@0 +320,240", "--max-frames", "1").code == 0
    assert results(tmp_path).text is None


class Rows(TruthConcepts):
    """Finds twenty things on every picture, side by side."""

    def find(self, sight: object, words: object) -> Finds:
        masks = torch.full((20, *SIDE), -9.0)
        for row in range(20):
            masks[row, 10:20, 4 * row : 4 * row + 3] = 9.0
        left = torch.arange(20) * 4 / SIDE[1]
        boxes = torch.stack((left, torch.full((20,), 0.2), left + 0.03, torch.full((20,), 0.3)), 1)
        return Finds(torch.linspace(0.9, 0.6, 20), boxes, masks)


def test_finds_that_are_left_out_are_told(
    track: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Rows(PhantomConfig(seed=SEED, fps=None))
    monkeypatch.setattr(sam3, "build_network", lambda config, device: network)
    told = track("--text", "a", "--text-model", "m", "--max-frames", "1")
    assert told.code == 0
    assert "--text: the 16 surest are followed, 4 more are not" in told.stderr
    found = results(tmp_path)
    assert len(found.prompts) == 16
    assert found.text is not None
    assert found.text.left_out == 4


def test_a_model_of_another_digest_is_refused(
    call_main: Callable[..., Outcome], clip: Path, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    model = write_sam3(tmp_path / "model")
    told = call_main(
        "video", str(clip), "--text", "a", "--text-model", str(model), "--text-sha256", "0" * 64
    )
    assert told.code == 78
    assert "model.safetensors: sha256 is" in told.stderr
    assert told.stderr.count("\n") == 1


def test_a_folder_that_is_no_model_is_told(
    call_main: Callable[..., Outcome], clip: Path, tmp_path: Path
) -> None:
    told = call_main("video", str(clip), "--text", "a", "--text-model", str(tmp_path))
    assert told.code == 78
    assert f"{tmp_path}/config.json: no such file" in told.stderr
    assert told.stderr.count("\n") == 1
