"""Clip sessions of the native sam3 package, against a fake that answers as it does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_sam3 import VERSIONS, install_sam3, with_gpus
from numpy.typing import NDArray
from tiny_sam2 import listening

import stages.sam3_predictor as sam3_predictor
from kpi.events import ErrorRaised
from stages.errors import ConfigError
from stages.file_digest import sha256_of
from stages.sam3_frames import (
    Sam3Error,
    Sam3PromptError,
    SessionFrame,
    SessionPrompt,
    frame_of,
    request_of,
)
from stages.sam3_predictor import (
    Sam3ClipConfig,
    check_gpus,
    check_versions,
    loaded_sam3,
    open_predictor,
)
from stages.sam3_session import Sam3Session

SIZE = (6, 8)
FRAMES = 10


class FakePredictor:
    """Keeps sessions as the package does, and finds one object more each time it is prompted."""

    def __init__(
        self, empty: frozenset[int] = frozenset(), breaks_at: int | None = None,
        error: BaseException | None = None, heals: bool = False,
    ) -> None:  # fmt: skip
        self.empty, self.breaks_at, self.heals = set(empty), breaks_at, heals
        self.error = error or RuntimeError("CUDA out of memory\nmore")
        self.open: set[str] = set()
        self.requests: list[dict[str, Any]] = []
        self.streams = self.shutdowns = 0

    def handle_request(self, request: dict[str, Any]) -> dict[str, Any]:
        self.requests.append(request)
        match request["type"]:
            case "start_session":
                if "missing" in request["resource_path"]:
                    raise FileNotFoundError("no such clip")
                self.open.add(request["session_id"])
                return {}
            case "add_prompt":
                assert request["session_id"] in self.open
                if len(request.get("bounding_boxes", [0])) != 1:
                    raise RuntimeError("visual prompts should only have one box")
                if self.breaks_at == -1:
                    raise self.error
                frame = request["frame_index"]
                if self.heals:
                    self.empty.discard(frame)
                return {"frame_index": frame, "outputs": self._outputs(frame)}
            case "close_session":
                if self.breaks_at == -2:
                    raise RuntimeError("cannot close")
                self.open.discard(request["session_id"])
                return {"is_success": True}
        raise RuntimeError(f"invalid request type: {request['type']}")

    def handle_stream_request(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        self.requests.append(request)
        assert request["session_id"] in self.open
        step = 1 if request["propagation_direction"] == "forward" else -1
        first, most = request["start_frame_index"], request["max_frame_num_to_track"]
        last = min(max(first + step * (FRAMES if most is None else most), 0), FRAMES - 1)
        first = first if step == 1 else first - 1  # see its `_get_processing_order`
        self.streams += 1
        try:
            for frame in range(first, last + step, step):
                if frame == self.breaks_at:
                    raise self.error
                yield {"frame_index": frame, "outputs": self._outputs(frame)}
        finally:
            self.streams -= 1

    def shutdown(self) -> None:
        self.open.clear()
        self.shutdowns += 1
        if self.breaks_at == -3:
            raise self.error

    def _outputs(self, frame: int) -> dict[str, Any]:
        if frame in self.empty:
            return {
                "out_obj_ids": np.zeros(0, np.int64),
                "out_probs": np.zeros(0, np.float32),
                "out_boxes_xywh": np.zeros((0, 4), np.float32),
                "out_binary_masks": np.zeros((0, *SIZE), bool),
                "frame_stats": None,
            }
        return {
            "out_obj_ids": np.array([0, 1]),
            "out_probs": np.array([0.9, 0.8], np.float32),
            "out_boxes_xywh": np.array([[0.25, 0.5, 0.5, 0.25], [0, 0, 1, 1]], np.float32),
            "out_binary_masks": masks(frame),
            "frame_stats": {"num_obj_tracked": 2},
        }


def masks(frame: int) -> NDArray[np.bool_]:
    made = np.zeros((2, *SIZE), bool)
    made[0, frame % 6], made[1, :, frame % 8] = True, True
    return made


def session(predictor: FakePredictor, **settings: Any) -> Sam3Session:
    return Sam3Session(predictor, Path("clip.mp4"), SIZE, **settings)


def walked(predictor: FakePredictor, **settings: Any) -> list[SessionFrame]:
    with session(predictor, **settings) as made:
        made.add_prompt(0, SessionPrompt(text="sky"))
        found = list(made.propagate())
    assert not predictor.open
    assert not predictor.streams
    return found


# --- what is asked, and what comes back ----------------------------------------------------


def test_words_are_followed_through_the_clip() -> None:
    predictor = FakePredictor()
    found = walked(predictor)
    assert [each.frame_idx for each in found] == list(range(FRAMES))
    assert found[3].obj_ids.tolist() == [0, 1]
    assert found[3].boxes_xyxy.tolist() == [[2, 3, 6, 4.5], [0, 0, 8, 6]]
    assert np.array_equal(found[3].masks, masks(3))
    assert [each["type"] for each in predictor.requests] == [
        "start_session", "add_prompt", "propagate_in_video", "close_session"
    ]  # fmt: skip
    assert predictor.requests[0]["resource_path"] == "clip.mp4"
    assert predictor.requests[1]["text"] == "sky"


def test_a_part_of_the_clip_backwards() -> None:
    with session(FakePredictor()) as made:
        made.add_prompt(7, SessionPrompt(text="sky"))
        assert [each.frame_idx for each in made.propagate(7, 3, "backward")] == [6, 5, 4]
        assert [each.frame_idx for each in made.propagate(2, None, "backward")] == [1, 0]
        assert list(made.propagate(0, None, "backward")) == []


def test_boxes_and_points_are_shares_of_the_picture() -> None:
    boxes = request_of(SessionPrompt(boxes=((2, 3, 6, 6),)), SIZE)
    assert boxes == {"bounding_boxes": [[0.25, 0.5, 0.5, 0.5]], "bounding_box_labels": [1]}
    points = request_of(SessionPrompt(points=((4, 3),), labels=(1,), obj_id=5), SIZE)
    assert points == {"points": [[0.5, 0.5]], "point_labels": [1], "obj_id": 5}


def test_points_name_an_object_by_the_id_it_was_shown_with() -> None:
    predictor = FakePredictor()
    with session(predictor) as made:
        made.add_prompt(0, SessionPrompt(text="sky"))
        list(made.propagate())
        made.add_prompt(0, SessionPrompt(text="sea"))  # all before is forgotten
        found = list(made.propagate())
        assert found[0].obj_ids.tolist() == [2, 3]
        made.add_prompt(4, SessionPrompt(points=((1, 1),), labels=(0,), obj_id=3))
        assert predictor.requests[-1]["obj_id"] == 1
        with pytest.raises(Sam3PromptError, match="object 1 was forgotten"):
            made.add_prompt(4, SessionPrompt(points=((1, 1),), labels=(0,), obj_id=1))


def test_no_id_comes_twice_without_a_walk_between() -> None:
    with session(FakePredictor()) as made:
        told = [made.add_prompt(0, SessionPrompt(text=text)) for text in ("sky", "sea")]
    assert [each.obj_ids.tolist() for each in told] == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (SessionPrompt(), "expected exactly one of text, boxes, points"),
        (SessionPrompt(text="a", boxes=((0, 0, 1, 1),)), "expected exactly one of"),
        (SessionPrompt(text=" "), "text: expected 1 to 128 printable"),
        (SessionPrompt(boxes=((3, 3, 2, 5),)), "expected x1 < x2 and y1 < y2 inside the 8x6"),
        (SessionPrompt(boxes=((0, 0, 9, 5),)), "inside the 8x6 picture"),
        (SessionPrompt(boxes=((0, 0, float("nan"), 5),)), "inside the 8x6 picture"),
        (SessionPrompt(boxes=((0, 0, 1, 1), (2, 2, 4, 4))), "2 boxes, expected one to begin"),
        (SessionPrompt(boxes=((0, 0, 1, 1),), box_labels=(2,)), "box_labels: expected 0 or 1"),
        (SessionPrompt(points=((1, 1),), labels=(1,)), "points without obj_id"),
        (SessionPrompt(points=((1, 1),), obj_id=1), "labels: expected 0 or 1 for each of 1"),
        (SessionPrompt(points=((9, 1),), labels=(1,), obj_id=1), r"point \(9, 1\) is outside"),
    ],
)
def test_a_prompt_that_cannot_be_used_leaves_the_session_as_it_was(
    prompt: SessionPrompt, said: str
) -> None:
    predictor = FakePredictor()
    with session(predictor) as made:
        with pytest.raises(Sam3PromptError, match=said):
            made.add_prompt(0, prompt)
        assert len(predictor.requests) == 1
        made.add_prompt(0, SessionPrompt(text="sky"))
        assert len(list(made.propagate())) == FRAMES


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ({"out_probs": np.zeros(1)}, "2 ids, 1 scores"),
        ({"out_obj_ids": np.array([1, 1])}, "expected one of each"),
        ({"out_binary_masks": np.zeros((2, 3, 3), bool)}, "cannot be read"),
        ({"out_boxes_xywh": None}, "cannot be read"),
    ],
)
def test_a_response_that_does_not_hang_together_closes_the_session(
    outputs: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = FakePredictor()
    good = predictor._outputs(0)
    with session(predictor) as made:
        made.add_prompt(0, SessionPrompt(text="sky"))
        monkeypatch.setattr(predictor, "_outputs", lambda frame: {**good, **outputs})
        with pytest.raises(Sam3Error, match=said):
            list(made.propagate())
        assert not predictor.open


def test_empty_arrays_of_any_shape_are_no_objects() -> None:
    for nothing in ([], np.zeros((0,)), np.zeros((0, 1, 6, 8), bool)):
        outputs = {name: [] for name in ("out_obj_ids", "out_probs", "out_boxes_xywh")}
        response = {"frame_index": 2, "outputs": {**outputs, "out_binary_masks": nothing}}
        found = frame_of(response, SIZE)
        assert found.empty
        assert found.masks.shape == (0, *SIZE)


# --- empty frames --------------------------------------------------------------------------


def test_empty_frames_are_zeros() -> None:
    found = walked(FakePredictor(empty=frozenset({0, 4, 5})), empty_output="zeros")
    assert [each.frame_idx for each in found] == list(range(FRAMES))
    assert found[0].empty  # nobody is known yet
    assert found[4].obj_ids.tolist() == [0, 1]
    assert not found[4].masks.any()
    assert found[4].scores.tolist() == [0, 0]


def test_forgotten_objects_are_not_out_of_sight() -> None:
    with session(FakePredictor(empty=frozenset({4}))) as made:
        made.add_prompt(0, SessionPrompt(text="sky"))
        list(made.propagate())
        made.add_prompt(0, SessionPrompt(text="sea"))
        assert [each.obj_ids.tolist() for each in made.propagate(4, 1)] == [[2, 3], [2, 3]]


def test_empty_frames_are_left_out_and_counted() -> None:
    with session(FakePredictor(empty=frozenset({0, 4, 5})), empty_output="skip") as made:
        made.add_prompt(0, SessionPrompt(text="sky"))
        assert [each.frame_idx for each in made.propagate()] == [1, 2, 3, 6, 7, 8, 9]
        assert made.skipped == 3


def test_the_words_are_said_again_on_an_empty_frame() -> None:
    predictor = FakePredictor(empty=frozenset({4}), heals=True)
    with session(predictor, empty_output="retry") as made:
        made.add_prompt(0, SessionPrompt(text="sky"))
        found = list(made.propagate())
        assert made.retried == 1
    assert [each.frame_idx for each in found] == list(range(FRAMES))
    assert [each.obj_ids.tolist() for each in found[3:5]] == [[0, 1], [2, 3]]
    asked = [each for each in predictor.requests if each["type"] == "add_prompt"]
    assert [(each["frame_index"], each["text"]) for each in asked] == [(0, "sky"), (4, "sky")]


@pytest.mark.parametrize("heals", [True, False])
def test_no_frame_is_lost_where_the_words_are_said_again_on_the_way_back(heals: bool) -> None:
    predictor = FakePredictor(empty=frozenset({4}), heals=heals)
    with session(predictor, empty_output="retry") as made:
        made.add_prompt(7, SessionPrompt(text="sky"))
        found = list(made.propagate(7, 5, "backward"))
        assert made.retried == 1
    assert [each.frame_idx for each in found] == [6, 5, 4, 3, 2]
    assert found[2].obj_ids.tolist() == ([2, 3] if heals else [])  # 0 and 1 are forgotten
    assert found[2].masks.any() == heals
    assert found[3].obj_ids.tolist() == [2, 3]


def test_what_stays_empty_is_asked_again_a_few_times_only() -> None:
    with session(FakePredictor(empty=frozenset(range(2, FRAMES))), empty_output="retry") as made:
        made.add_prompt(0, SessionPrompt(text="sky"))
        found = list(made.propagate())
        assert made.retried == 3
    assert [each.frame_idx for each in found] == list(range(FRAMES))
    assert not found[9].masks.any()


def test_the_words_are_said_again_where_a_walk_begins_elsewhere() -> None:
    with session(FakePredictor(empty=frozenset({5}), heals=True), empty_output="retry") as made:
        made.add_prompt(0, SessionPrompt(text="sky"))
        found = list(made.propagate(5, 1))
        assert made.retried == 1
    assert [(each.frame_idx, each.obj_ids.tolist()) for each in found] == [(5, [2, 3]), (6, [2, 3])]


def test_boxes_are_not_said_again_elsewhere() -> None:
    with session(FakePredictor(empty=frozenset({4})), empty_output="retry") as made:
        made.add_prompt(0, SessionPrompt(boxes=((0, 0, 4, 4),)))
        assert len(list(made.propagate())) == FRAMES
        assert made.retried == 0


# --- closing -------------------------------------------------------------------------------


def test_an_exception_in_the_middle_closes_the_session() -> None:
    predictor = FakePredictor(breaks_at=4)
    made = session(predictor)
    made.add_prompt(0, SessionPrompt(text="sky"))
    walk = made.propagate()
    assert [next(walk).frame_idx for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(Sam3Error, match="after frame 3: CUDA out of memory; the") as caught:
        next(walk)
    assert "\n" not in str(caught.value)
    assert not predictor.open
    assert not predictor.streams
    with pytest.raises(Sam3Error, match="is closed, expected an open one"):
        made.add_prompt(0, SessionPrompt(text="sky"))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), MemoryError("none left")])
def test_whatever_is_raised_closes_the_session(error: BaseException) -> None:
    predictor = FakePredictor(breaks_at=2, error=error)
    made = session(predictor)
    made.add_prompt(0, SessionPrompt(text="sky"))
    with pytest.raises((KeyboardInterrupt, SystemExit, Sam3Error)):
        list(made.propagate())
    assert not predictor.open


def test_an_error_of_the_caller_closes_it_too() -> None:
    predictor = FakePredictor()

    def fails() -> None:
        with session(predictor) as made:
            made.add_prompt(0, SessionPrompt(text="sky"))
            for _ in made.propagate():
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert not predictor.open


def test_a_prompt_that_the_model_fails_on_closes_it() -> None:
    predictor = FakePredictor(breaks_at=-1)
    made = session(predictor)
    with pytest.raises(Sam3Error, match="frame 0: CUDA out of memory"):
        made.add_prompt(0, SessionPrompt(text="sky"))
    assert not predictor.open


def test_a_session_that_does_not_close_is_told_and_hides_no_error() -> None:
    with (
        listening() as events,
        pytest.raises(ZeroDivisionError),
        session(FakePredictor(breaks_at=-2)),
    ):
        raise ZeroDivisionError
    assert [each.message for each in events if isinstance(each, ErrorRaised)] == [
        "closing the session: cannot close"
    ]


def test_a_clip_that_cannot_be_opened() -> None:
    with pytest.raises(Sam3Error, match="start: no such clip"):
        Sam3Session(FakePredictor(), Path("missing.mp4"), SIZE)


def test_a_start_that_is_interrupted_leaves_no_session_open() -> None:
    class Interrupted(FakePredictor):
        def handle_request(self, request: dict[str, Any]) -> dict[str, Any]:
            answer = super().handle_request(request)
            if request["type"] == "start_session":
                raise KeyboardInterrupt
            return answer

    predictor = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        session(predictor)
    assert [each["type"] for each in predictor.requests] == ["start_session", "close_session"]
    assert not predictor.open


def test_nothing_is_followed_before_it_was_prompted() -> None:
    with session(FakePredictor()) as made, pytest.raises(Sam3Error, match="nothing is prompted"):
        made.propagate()


# --- opening the package -------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    found = {"checkpoint_path": tmp_path / "sam3.pt", "bpe_path": tmp_path / "bpe.txt.gz"}
    for path in found.values():
        path.write_bytes(b"x")
    return found


@pytest.mark.parametrize(
    ("name", "said"),
    [("checkpoint_path", "the checkpoint of sam3"), ("bpe_path", "the BPE vocabulary of sam3")],
)
def test_a_missing_file_is_one_line(files: dict[str, Path], name: str, said: str) -> None:
    files[name].unlink()
    with pytest.raises(ConfigError, match=f"no such file, expected {said}.*nothing is downloaded"):
        open_predictor(Sam3ClipConfig(**files))


def test_the_files_are_to_be_named(files: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="bpe_path"):
        Sam3ClipConfig(checkpoint_path=files["checkpoint_path"])  # type: ignore[call-arg]


def test_what_leaves_a_walk_early_wants_a_single_gpu(files: dict[str, Path]) -> None:
    assert Sam3ClipConfig(**files, empty_output="retry").gpus_to_use == (0,)
    assert Sam3ClipConfig(**files, gpus_to_use=(0, 1)).empty_output == "zeros"
    with pytest.raises(ValueError, match="retry: expected a single GPU in gpus_to_use"):
        Sam3ClipConfig(**files, gpus_to_use=(0, 1), empty_output="retry")


def test_without_the_package_one_line_says_so(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise sam3_predictor.PackageNotFoundError(name)

    monkeypatch.setattr(sam3_predictor, "version", absent)
    with_gpus(monkeypatch, 1)
    with pytest.raises(ConfigError, match=r"need the sam3 package, which is not installed"):
        open_predictor(Sam3ClipConfig(**files))


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ({"sam3": "0.1.1", "torch": "2.15.0"}, "sam3 is 0.1.1, expected 0.1.2 or later"),
        ({"sam3": "0.1.4", "torch": "2.6.0+cu124"}, "torch is 2.6.0.cu124, expected 2.7 or later"),
    ],
)
def test_what_is_too_old_is_named(
    versions: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sam3_predictor, "version", versions.__getitem__)
    with pytest.raises(ConfigError, match=said):
        check_versions()


def test_the_versions_that_count_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"sam3": "0.1.4", "torch": "2.15.0+cu130"}
    monkeypatch.setattr(sam3_predictor, "version", found.__getitem__)
    assert check_versions() == found


def test_without_cuda_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 0)
    with pytest.raises(ConfigError, match="need a CUDA GPU, and torch finds none here"):
        check_gpus((0,))


def test_without_cuda_nobody_is_told_to_install_the_package(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpus(monkeypatch, 0)
    with pytest.raises(ConfigError, match="need a CUDA GPU"):
        open_predictor(Sam3ClipConfig(**files))


def test_the_package_is_given_what_was_named(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, given = FakePredictor(), []

    def build(**told: object) -> FakePredictor:
        given.append(told)
        return predictor

    install_sam3(monkeypatch, build)
    with_gpus(monkeypatch, 2)
    digest = sha256_of(files["checkpoint_path"])
    with loaded_sam3(Sam3ClipConfig(**files, gpus_to_use=(1,), sha256=digest)) as opened:
        assert opened.predictor is predictor
        assert (opened.versions, opened.sha256) == (VERSIONS, digest)
        assert not predictor.shutdowns
    assert predictor.shutdowns == 1
    named = {name: str(path) for name, path in files.items()}
    assert given == [{**named, "gpus_to_use": [1]}]
    with pytest.raises(ConfigError, match="sha256 is"):
        open_predictor(Sam3ClipConfig(**files, sha256="0" * 64))


def test_what_the_package_cannot_load_is_one_line(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(**told: object) -> FakePredictor:
        raise RuntimeError("Error(s) in loading state_dict\nmore")

    install_sam3(monkeypatch, build)
    with pytest.raises(ConfigError, match=r"sam3.pt: sam3 cannot load it \(Error\(s\) in") as told:
        open_predictor(Sam3ClipConfig(**files))
    assert "\n" not in str(told.value)


def test_a_model_that_does_not_shut_down_is_told_and_hides_no_error(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    install_sam3(monkeypatch, lambda **told: FakePredictor(breaks_at=-3))
    with (
        listening() as events,
        pytest.raises(ZeroDivisionError),
        loaded_sam3(Sam3ClipConfig(**files)),
    ):
        raise ZeroDivisionError
    assert [each.message for each in events if isinstance(each, ErrorRaised)] == [
        "shutting down: CUDA out of memory"
    ]


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 2)
    with pytest.raises(ConfigError, match="gpus_to_use: got 2, expected numbers from 0 to 1"):
        check_gpus((0, 2))
