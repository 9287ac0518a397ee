"""Objects of a clip named by words: a finder that knows the phantom's truth, a fake of sam3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_concepts import TruthConcepts
from numpy.typing import NDArray
from PIL import Image
from test_sam3_session import FRAMES, SIZE, FakePredictor, masks

from pipeline.build import build_tracker_core
from stages.clip.sam3_clip import Sam3Clip, open_sam3_clip
from stages.clip.session import Clip
from stages.clip.words import find_named, prompt_named
from stages.detectors.sam3 import Sam3TextConfig, Sam3TextDetector
from stages.errors import PromptError, SourceError
from stages.records import Frame
from stages.sam3_frames import Sam3Error
from stages.sam3_predictor import OpenedSam3, Sam3ClipConfig
from stages.sam3_session import Sam3Session
from stages.segmenters.sam2_stream import Sam2StreamConfig, Sam2StreamSegmenter
from stages.sources.phantom import PhantomConfig, PhantomSource

CPU = torch.device("cpu")
SEED = 20  # a needle, a lumen and a lesion


class Pictures:
    """A clip of the phantom's frames, or of black ones."""

    fps, trouble = 10.0, None

    def __init__(
        self, count: int, size_hw: tuple[int, int], pictures: list[Any] | None = None
    ) -> None:
        self.count, self.size_hw, self._pictures = count, size_hw, pictures
        self.closed = False

    def read(self, index: int) -> NDArray[Any]:
        if self._pictures is None:
            return np.zeros(self.size_hw, np.uint8)
        return np.asarray(self._pictures[index])

    def spacing_mm(self, index: int) -> None:
        pass

    def time_s(self, index: int) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def finder(*phrases: str) -> Sam3TextDetector:
    network = TruthConcepts(PhantomConfig(seed=SEED, fps=None))
    return Sam3TextDetector(Sam3TextConfig(model="m", phrases=phrases), CPU, network)


@pytest.fixture(scope="module")
def pictures() -> list[NDArray[np.uint8]]:
    phantom = PhantomSource(PhantomConfig(seed=SEED, fps=None))
    found: list[NDArray[np.uint8]] = []
    for _ in range(3):
        picture = phantom.read(lambda shape: np.empty(shape, np.uint8))
        assert picture is not None
        found.append(picture.pixels.copy())
    return found


def test_what_words_find_on_a_frame_is_followed(pictures: list[Any]) -> None:
    phantom = PhantomSource(PhantomConfig(seed=SEED, fps=None))
    core = build_tracker_core("demo", None, None, CPU, 3)
    with Clip(Pictures(3, pictures[0].shape[:2], pictures), core) as clip:
        named = prompt_named(clip, finder("lumen", "needle"), 0)
        assert [(each.obj_id, each.phrase) for each in named] == [(1, "lumen"), (2, "needle")]
        assert named[0].score > 0.9
        found = list(clip.propagate())
    assert [each.obj_ids for each in found] == [(1, 2)] * 3
    truth = phantom.truth(2)
    for place, each in enumerate(named):
        wanted = truth.masks[list(truth.class_ids).index(phantom.class_names.index(each.phrase))]
        shown = found[2].masks()[place, 0].numpy() > 0
        assert (shown & wanted).sum() / (shown | wanted).sum() > 0.6


def test_words_that_name_nothing_are_told(pictures: list[Any]) -> None:
    picture = torch.from_numpy(pictures[0]).expand(3, -1, -1)
    with pytest.raises(PromptError, match="a boat, sky: nothing of that on frame 0"):
        find_named(finder("a boat", "sky"), picture, 0)


# --- the native package --------------------------------------------------------------------


def sam3_clip(predictor: FakePredictor, **settings: Any) -> tuple[Sam3Clip, Pictures]:
    frames = Pictures(FRAMES, SIZE)
    session = Sam3Session(predictor, Path("clip.mp4"), SIZE, **settings)
    return Sam3Clip(frames, session, CPU), frames


def test_a_native_session_gives_the_records_of_a_clip() -> None:
    predictor = FakePredictor(empty=frozenset({4}))
    clip, frames = sam3_clip(predictor)
    with clip:
        first = clip.say(0, "sky")
        assert first.prompted == (True, True)
        found = list(clip.propagate())
        assert clip.picture(0).shape == (3, *SIZE)
    assert frames.closed
    assert not predictor.open
    index, ids, shown = found[3].as_tuple()
    assert (index, ids) == (3, [0, 1])
    assert np.array_equal(shown[:, 0].numpy() > 0, masks(3))
    assert found[3].presence[0] == pytest.approx(np.log(9), abs=1e-3)
    assert not (found[4].masks() > 0).any()
    assert (found[4].presence < -10).all()
    assert [each.frame_idx for each in found] == list(range(FRAMES))


def test_a_native_session_that_fails_is_closed_with_its_clip() -> None:
    predictor = FakePredictor(breaks_at=3)
    clip, frames = sam3_clip(predictor)
    clip.say(0, "sky")
    with pytest.raises(Sam3Error, match="after frame 2"):
        list(clip.propagate())
    assert not predictor.open
    clip.close()
    clip.close()
    assert frames.closed


def test_frames_left_out_are_counted() -> None:
    clip, _ = sam3_clip(FakePredictor(empty=frozenset({4, 5})), empty_output="skip")
    with clip:
        clip.say(0, "sky")
        assert [each.frame_idx for each in clip.propagate(2, 4)] == [2, 3, 6]
        assert clip.skipped == 2


def folder_of(folder: Path, count: int) -> Path:
    for number in range(count):
        Image.new("RGB", (SIZE[1], SIZE[0])).save(folder / f"{number}.jpg")
    return folder


@pytest.mark.parametrize(("policy", "shown"), [("skip", [0, 1, 3]), ("retry", [0, 1, 2, 3])])
def test_a_clip_is_opened_with_the_policy_of_its_configuration(
    tmp_path: Path, policy: str, shown: list[int]
) -> None:
    predictor = FakePredictor(empty=frozenset({2}), heals=True)
    asked = {"checkpoint_path": "c", "bpe_path": "b", "empty_output": policy}
    config = Sam3ClipConfig.model_validate(asked)
    opened = OpenedSam3(predictor, {}, "")
    with open_sam3_clip(config, folder_of(tmp_path, FRAMES), opened, CPU) as clip:
        clip.say(0, "sky")
        assert [each.frame_idx for each in clip.propagate(0, 3)] == shown
        assert clip.size_hw == SIZE
    assert predictor.requests[0]["resource_path"] == str(tmp_path)
    assert len([each for each in predictor.requests if each["type"] == "add_prompt"]) == (
        2 if policy == "retry" else 1
    )
    assert not predictor.open


def test_an_error_of_whoever_opened_a_clip_closes_it(tmp_path: Path) -> None:
    predictor = FakePredictor()
    config = Sam3ClipConfig.model_validate({"checkpoint_path": "c", "bpe_path": "b"})
    opened = OpenedSam3(predictor, {}, "")
    with (
        pytest.raises(ZeroDivisionError),
        open_sam3_clip(config, folder_of(tmp_path, 2), opened, CPU),
    ):
        raise ZeroDivisionError
    assert [each["type"] for each in predictor.requests] == ["start_session", "close_session"]
    with (
        pytest.raises(SourceError, match="is not there"),
        open_sam3_clip(config, tmp_path / "gone.mp4", opened, CPU),
    ):
        pass
    assert len(predictor.requests) == 2  # the package was not asked


class TwoWords(TruthConcepts):
    """Knows another word for a lumen."""

    def words(self, phrase: str) -> object:
        return super().words("lumen" if phrase == "tube" else phrase)


def test_what_two_phrases_name_stays_with_the_first(pictures: list[Any]) -> None:
    network = TwoWords(PhantomConfig(seed=SEED, fps=None))
    asked = Sam3TextConfig(model="m", phrases=("lumen",), every=1)
    detector = Sam3TextDetector(asked, CPU, network)
    follower = Sam2StreamSegmenter(Sam2StreamConfig(max_objects=4), CPU, len(detector.class_names))
    ids: list[list[int]] = []
    for number in range(8):
        if number == 2:
            detector.phrases.add("tube")
        rgb = torch.from_numpy(pictures[number % 3]).expand(3, -1, -1)
        with torch.inference_mode():
            found = detector.detect(Frame(rgb, "phantom", 0, number, 0, 0))
            tracks = follower.segment(found)
        ids.append(tracks.class_ids[tracks.valid].tolist())
    assert int(found.valid.sum()) == 2, "both phrases find it"
    assert set(found.class_ids[found.valid].tolist()) == {1, 2}
    assert ids[-1] == [1]
    follower.close()
