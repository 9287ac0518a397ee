"""The detector of kind `boxes`: what others found, checked, on the device, in a live run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from pydantic import ValidationError
from rich.console import Console

from kpi.emit import current_logger
from kpi.events import ErrorRaised, Event
from pipeline.audit import residency_guard
from pipeline.config import load_config
from pipeline.frame_flow import RunOptions
from pipeline.run import start
from stages.base import SwitchedDetector, ToldDetector
from stages.box_inbox import MAX_WAITING, BoxesAsked
from stages.detectors.boxes import BoxesConfig, BoxesDetector
from stages.errors import ResidencyError
from stages.found_boxes import FoundBoxes
from stages.records import Detections, Frame
from tests.boxes_peer import FRAMES

CPU = torch.device("cpu")
PIXELS = torch.zeros(3, 48, 64, dtype=torch.uint8)
GOOD = [8.0, 8, 24, 24, 0.875, 1]


def rows(*found: list[float]) -> FoundBoxes:
    return np.array(found, np.float32).reshape(-1, 6)


def frame(number: int = 0, boxes: FoundBoxes | None = None, **more: Any) -> Frame:
    return Frame(PIXELS, "test", more.pop("epoch", 0), number, 0, 0, boxes=boxes, **more)


def detector(**settings: Any) -> BoxesDetector:
    return BoxesDetector(
        BoxesConfig(**{"classes": ("a", "b"), "max_detections": 4} | settings), CPU
    )


def found(result: Detections) -> list[list[float]]:
    """The valid rows."""
    table = torch.cat(
        (result.boxes_xyxy, result.scores[:, None], result.class_ids[:, None].float()), dim=1
    )
    kept: list[list[float]] = table[result.valid].tolist()
    return kept


class Told:
    """What was emitted."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def emit(self, event: Event) -> None:
        if isinstance(event, ErrorRaised):
            self.messages.append(event.message)

    def __enter__(self) -> Told:
        self._token = current_logger.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        current_logger.reset(self._token)


# With the frames


def test_boxes_of_a_frame_become_its_detections_best_first() -> None:
    stage = detector()
    result = stage.detect(frame(boxes=rows([1, 2, 3, 4, 0.25, 0], GOOD, [2, 2, 9, 9, 0.5, 0])))
    assert result.computed
    assert found(result) == [GOOD, [2, 2, 9, 9, 0.5, 0], [1, 2, 3, 4, 0.25, 0]]
    assert result.valid.tolist() == [True, True, True, False]
    assert stage.class_names == ("a", "b")


def test_no_boxes_is_not_the_same_as_none_found() -> None:
    stage = detector()
    assert not stage.detect(frame()).computed
    nothing = stage.detect(frame(boxes=rows()))
    assert nothing.computed
    assert found(nothing) == []


def test_boxes_are_moved_into_the_region_and_cut_off_at_its_edges() -> None:
    region = {"origin_yx": (10, 20), "full_hw": (100, 200)}
    result = detector().detect(
        frame(boxes=rows([0, 5, 30, 40, 0.9, 0], [80, 50, 190, 90, 0.8, 1]), **region)
    )
    assert found(result) == [
        [0, 0, 10, 30, pytest.approx(0.9), 0],
        [60, 40, 64, 48, pytest.approx(0.8), 1],
    ]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ([1, 1, np.nan, 9, 0.9, 0], "expected x1 < x2 and y1 < y2, finite (bad_box: 1)"),
        ([1, 1, np.inf, 9, 0.9, 0], "(bad_box: 1)"),
        ([9, 1, 1, 9, 0.9, 0], "(bad_box: 1)"),
        ([1, 1, 9, 1, 0.9, 0], "(bad_box: 1)"),
        ([1, 1, 9, 9, 1.5, 0], "expected a score from 0 to 1 (bad_score: 1)"),
        ([1, 1, 9, 9, np.nan, 0], "(bad_score: 1)"),
        ([1, 1, 9, 9, 0.9, 2], "there is no such class (no_class: 1)"),
        ([1, 1, 9, 9, 0.9, 0.5], "(no_class: 1)"),
        ([1, 1, 9, 9, 0.9, np.nan], "(no_class: 1)"),
        ([70, 1, 90, 9, 0.9, 0], "outside the picture that is taken in (outside: 1)"),
    ],
)
def test_a_box_that_cannot_be_used_is_left_out_and_told(bad: list[float], reason: str) -> None:
    with Told() as told:
        result = detector().detect(frame(3, boxes=rows(bad, GOOD)))
    assert found(result) == [GOOD]
    assert len(told.messages) == 1
    assert reason in told.messages[0]
    assert "1 boxes of frame 3" in told.messages[0]


def test_two_hundred_boxes_for_four_rows() -> None:
    many = rows(*([8.0, 8, 24, 24, 0.5 + score / 1000, 1] for score in range(200)))
    with Told() as told:
        result = detector().detect(frame(boxes=many))
    assert found(result) == [pytest.approx([8, 8, 24, 24, 0.5 + s / 1000, 1]) for s in
                             (199, 198, 197, 196)]  # fmt: skip
    assert told.messages == ["200 boxes for frame 0, at most 4 are used (too_many_boxes: 196)"]
    overlapping = detector(max_overlap=0.7, min_score=0.6).detect(frame(boxes=many))
    assert len(found(overlapping)) == 1


def test_one_copy_and_nothing_else() -> None:
    stage, there = detector(), rows(GOOD)
    picture = frame(boxes=there)
    with residency_guard() as report:
        stage.detect(picture)
        stage.detect(frame(1))
    assert dict(report.exits) == {"boxes": 1}
    with pytest.raises(ResidencyError), residency_guard():
        torch.from_numpy(there).to(CPU)  # how they must not come in


@pytest.mark.parametrize(
    "settings",
    [
        {"classes": []},
        {"classes": ["a", "a"]},
        {"classes": ["a\n"]},
        {"classes": [" "]},
        {"max_detections": 0},
        {"max_detections": 301},
        {"min_score": 2},
        {"every": 2},
    ],
)
def test_config_that_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        BoxesConfig.model_validate(settings)


# While the run goes on


def test_boxes_are_used_on_the_next_frame_or_the_one_asked_for() -> None:
    stage = detector()
    assert isinstance(stage, ToldDetector)
    assert isinstance(stage, SwitchedDetector)
    assert stage.tell(BoxesAsked(rows(GOOD))).result(0).reason == "no_frame_yet"
    stage.detect(frame(0))
    at_next, at_three = stage.tell(BoxesAsked(rows(GOOD))), stage.tell(
        BoxesAsked(rows(GOOD), epoch=0, frame_id=3)
    )  # fmt: skip
    computed = [stage.detect(frame(number)).computed for number in (1, 2, 4, 5)]
    assert computed == [True, False, True, False]  # frame 3 was dropped
    assert (at_next.result(0).reason, at_next.result(0).frame_id) == (None, 1)
    assert (at_three.result(0).reason, at_three.result(0).frame_id) == (None, 4)


def test_boxes_asked_for_and_boxes_of_the_frame_count_together() -> None:
    stage = detector()
    stage.detect(frame(0))
    stage.tell(BoxesAsked(rows([1, 2, 3, 4, 0.25, 0])))
    assert found(stage.detect(frame(1, boxes=rows(GOOD)))) == [GOOD, [1, 2, 3, 4, 0.25, 0]]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (BoxesAsked(rows(GOOD, [9, 1, 1, 9, 0.9, 0])), "bad_box"),
        (BoxesAsked(rows([1, 1, 9, 9, 0.9, 2])), "no_class"),
        (BoxesAsked(rows([70, 1, 90, 9, 0.9, 0])), "outside"),
        (BoxesAsked(rows(GOOD), epoch=1), "past_epoch"),
        (BoxesAsked(rows(GOOD), frame_id=0), "past_frame"),
        (BoxesAsked(rows(GOOD), frame_id=2000), "far_frame"),
    ],
)
def test_refused_boxes_change_nothing(asked: BoxesAsked, reason: str) -> None:
    stage = detector()
    stage.detect(frame(0))
    end = stage.tell(asked)
    assert not stage.detect(frame(1)).computed
    assert (end.result(0).reason, end.result(0).frame_id) == (reason, None)


def test_boxes_of_an_epoch_that_ended_meanwhile() -> None:
    stage = detector()
    stage.detect(frame(0))
    end = stage.tell(BoxesAsked(rows(GOOD), epoch=0, frame_id=100))
    assert not stage.detect(frame(1, epoch=1)).computed
    assert end.result(0).reason == "past_epoch"


def test_while_paused_boxes_are_refused() -> None:
    stage = detector()
    stage.detect(frame(0))
    stage.switch.set(False)
    end = stage.tell(BoxesAsked(rows(GOOD)))
    assert not stage.detect(frame(1, boxes=rows(GOOD))).computed
    assert end.result(0).reason == "paused"
    stage.switch.set(True)
    assert stage.detect(frame(2, boxes=rows(GOOD))).computed


def test_more_than_can_wait() -> None:
    stage = detector()
    stage.detect(frame(0))
    ends = [stage.tell(BoxesAsked(rows(GOOD), frame_id=9)) for _ in range(MAX_WAITING + 1)]
    assert ends[-1].result(0).reason == "too_many"
    assert not any(end.done() for end in ends[:-1])


# A live run and a detector of the user's own


@pytest.mark.timeout(240)
def test_a_live_run_uses_what_another_process_finds(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir(mode=0o700)
    at = {name: f"ipc://{tmp_path}/s/{name}" for name in ("frames", "results", "control")}
    config = load_config(
        "zmq",
        [
            "detector={kind: boxes, classes: [lumen, lesion, needle], max_detections: 8}",
            "device=cpu", "preview=null", "http=null", "grab.mailbox=every",
            *(f"{key}.endpoint={at[name]}" for key, name in
              (("source", "frames"), ("results", "results"), ("control", "control"))),
        ],
    )  # fmt: skip
    peer = subprocess.Popen(
        [sys.executable, "-m", "tests.boxes_peer", *at.values()],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        options = RunOptions(frames=FRAMES, out=tmp_path / "out", wait_subscribers=1)
        with (tmp_path / "log.txt").open("w") as log:
            assert start(config, options, Console(file=log)) == 0
        said, errors = peer.communicate(timeout=60)
    finally:
        peer.kill()
    assert peer.returncode == 0, errors
    seen = json.loads(said)
    check_frames(seen["shown"], tmp_path / "out")
    check_answers(seen["answers"])


def check_frames(shown: list[dict[str, Any]], out: Path) -> None:
    assert [each["frame_id"] for each in shown] == list(range(6))
    assert shown[0]["found"] > 0
    assert set(shown[3]["labels"]) <= {"lumen", "lesion", "needle"}
    assert 0 < len(shown[3]["labels"]) <= shown[3]["found"]
    assert shown[5]["labels"]  # nobody looked: they are still followed
    summary = json.loads((out / "summary.json").read_text())
    assert summary["frames"]["published"] == FRAMES
    events = [json.loads(line) for line in (out / "kpi.jsonl").read_text().splitlines()]
    told = [event["message"] for event in events if event["event"] == "error"]
    assert [message[message.rindex("(") :] for message in told] == [
        "(bad_box: 1)", "(outside: 1)", "(no_class: 1)",
    ]  # fmt: skip
    kinds = {e["frame_id"]: e["kind"] for e in events if e["event"] == "frame_published"}
    assert [kinds[number] for number in range(6)] == ["key"] * 5 + ["followed"]


def check_answers(answers: dict[str, dict[str, Any]]) -> None:
    assert answers["used"]["applied"], answers["used"]
    assert answers["used"]["frame_id"] >= 6
    assert answers["nothing"]["applied"]
    reasons = {name: answer["reason"] for name, answer in answers.items()}
    assert reasons == {
        "used": None, "nothing": None, "inverted": "bad_box", "outside": "outside",
        "no_class": "no_class", "too_many": "bad_command", "past": "past_frame",
        "another_epoch": "past_epoch",
    }  # fmt: skip
    assert "300" in answers["too_many"]["detail"]
