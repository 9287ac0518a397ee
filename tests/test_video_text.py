"""`maskstream video CLIP --text WORDS`: what words find on a frame is tracked as other prompts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from conftest import Outcome
from fake_concepts import TruthConcepts
from PIL import Image

import stages.detectors.sam3 as sam3
from pipeline.offline.records import SCHEMA_PATH, VideoResults
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


def test_a_folder_that_is_no_model_is_told(
    call_main: Callable[..., Outcome], clip: Path, tmp_path: Path
) -> None:
    told = call_main("video", str(clip), "--text", "a", "--text-model", str(tmp_path))
    assert told.code == 78
    assert f"{tmp_path}/config.json: no such file" in told.stderr
    assert told.stderr.count("\n") == 1
