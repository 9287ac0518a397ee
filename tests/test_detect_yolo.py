"""The YOLO stage and the empty one: boxes in frame pixels, on the device, without the host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torchvision.ops import box_iou, masks_to_boxes

from pipeline.audit import residency_guard
from pipeline.fake_cuda import fake_cuda
from stages.base import SwitchedDetector
from stages.detectors.none import NoDetector, NoDetectorConfig
from stages.detectors.yolo import YoloConfig, YoloDetector
from stages.detectors.yolo_network import import_ultralytics
from stages.errors import ConfigError, ResidencyError
from stages.letterbox import Letterbox
from stages.records import Detections, Frame
from stages.sources.phantom_scene import CLASS_NAMES as PHANTOM_CLASSES
from stages.sources.phantom_scene import PhantomScene
from tests.yolo_files import CLASS_NAMES, tiny_model, write_pt, write_safetensors

CPU = torch.device("cpu")
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_safetensors(tmp_path_factory.mktemp("yolo") / "tiny.safetensors", tiny_model())


def detector(weights: Path, **settings: Any) -> YoloDetector:
    return YoloDetector(YoloConfig(weights=str(weights), **settings), CPU)


def frame(height: int = 64, width: int = 96, seed: int = 0, *, grey: bool = False) -> Frame:
    generator = torch.Generator().manual_seed(seed)
    shape = (1 if grey else 3, height, width)
    rgb = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return Frame(rgb.expand(3, -1, -1), "test", 0, seed, 0, 0)


def rows(detections: Detections) -> list[torch.Tensor]:
    return [detections.boxes_xyxy, detections.scores, detections.class_ids, detections.valid]


# What comes out


@pytest.mark.parametrize("size", [(64, 96), (480, 640), (333, 77)])
def test_rows_keep_the_contract_of_detections(weights: Path, size: tuple[int, int]) -> None:
    found = detector(weights, max_detections=20, min_score=0).detect(frame(*size))
    assert found.computed
    assert found.valid.any()
    boxes = found.boxes_xyxy
    assert tuple(boxes.shape) == (20, 4)
    assert (boxes[:, :2] <= boxes[:, 2:]).all()
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor([size[1], size[0]] * 2)).all()
    assert (found.scores.diff() <= 0).all()
    assert ((found.scores >= 0) & (found.scores <= 1)).all()
    assert ((found.class_ids >= 0) & (found.class_ids < 3)).all()


@pytest.mark.parametrize("size", [(64, 96), (480, 640), (333, 490)])
@pytest.mark.parametrize("layout", ["safetensors", "pt"])
def test_equal_to_the_predictor_of_ultralytics(
    tmp_path: Path, size: tuple[int, int], layout: str
) -> None:
    """Against `YOLO(...).predict(tensor, nms=False)`, loaded by ultralytics from its own file.

    Their side: `AutoBackend` (loads and fuses), the end-to-end head, `non_max_suppression` in
    its end-to-end form (score threshold), `scale_boxes`. Both see the same letterboxed tensor;
    their boxes, in its pixels, go through the same `to_frame`.
    """
    import_ultralytics()
    from ultralytics import YOLO

    model = tiny_model().half().float()  # the `.pt` holds halves
    checkpoint = write_pt(tmp_path / "tiny.pt", model)
    file = checkpoint if layout == "pt" else write_safetensors(tmp_path / "t.safetensors", model)
    picture = frame(*size)
    letterbox = Letterbox(size, (64, 96))
    min_score = 0.3
    predictor = YOLO(checkpoint, task="detect")
    result = predictor.predict(
        letterbox.fit(picture.rgb), imgsz=[64, 96], nms=False, agnostic_nms=True, max_det=16,
        conf=min_score, device="cpu", verbose=False, save=False,
    )[0].boxes  # fmt: skip
    ours = detector(file, input_size=(64, 96), min_score=min_score).detect(picture)
    theirs = letterbox.to_frame(result.xyxy)
    count = int((ours.scores >= min_score).sum())
    assert 4 <= count == len(theirs)  # and no ties: there is hardly any padding
    close = {"atol": 1e-4, "rtol": 0.0}
    torch.testing.assert_close(ours.scores[:count], result.conf, **close)
    assert torch.equal(ours.class_ids[:count], result.cls.int())
    # Ours keep x1 <= x2; an untrained network also predicts boxes that are inside out.
    low, high = theirs[:, :2], torch.maximum(theirs[:, :2], theirs[:, 2:])
    torch.testing.assert_close(ours.boxes_xyxy[:count], torch.cat((low, high), 1), **close)
    assert torch.equal(ours.valid[:count], (high > low).all(dim=1))
    assert not ours.valid[count:].any()


def test_grey_frame_gives_the_same_as_three_equal_channels(weights: Path) -> None:
    stage = detector(weights)
    grey = frame(480, 640, grey=True)
    colour = Frame(grey.rgb.contiguous(), "test", 0, 0, 0, 0)
    for have, want in zip(rows(stage.detect(grey)), rows(stage.detect(colour)), strict=True):
        torch.testing.assert_close(have, want)


def test_minimum_score_and_classes_only_clear_valid(weights: Path) -> None:
    everything = detector(weights, min_score=0).detect(frame())
    scores, ids = everything.scores, everything.class_ids
    middle = float(scores.median())
    kept = int(ids[0])
    some = detector(weights, min_score=middle, classes=(CLASS_NAMES[kept],)).detect(frame())
    for have, want in zip(rows(some)[:3], rows(everything)[:3], strict=True):
        assert torch.equal(have, want)
    expected = everything.valid & (scores >= middle) & (ids == kept)
    assert torch.equal(some.valid, expected)
    assert 0 < int(expected.sum()) < int(everything.valid.sum())


def test_boxes_without_area_in_the_frame_are_not_valid(weights: Path) -> None:
    found = detector(weights, max_detections=60, min_score=0).detect(frame(333, 77))
    area = (found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2]).prod(dim=1)
    assert torch.equal(found.valid, area > 0)
    assert not found.valid.all()


def test_no_anchor_appears_under_two_classes(weights: Path) -> None:
    boxes = detector(weights, max_detections=60, min_score=0).detect(frame()).boxes_xyxy
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(dim=1)]
    assert len(boxes.unique(dim=0)) == len(boxes) > 10


@pytest.mark.parametrize("most", [0.3, 0.7])
def test_repetitions_are_not_valid(weights: Path, most: float) -> None:
    everything = detector(weights, max_detections=60, min_score=0).detect(frame())
    some = detector(weights, max_detections=60, min_score=0, max_overlap=most).detect(frame())
    for have, want in zip(rows(some)[:3], rows(everything)[:3], strict=True):
        assert torch.equal(have, want)
    for class_id in range(3):
        of_class = some.valid & (some.class_ids == class_id)
        overlap = box_iou(some.boxes_xyxy[of_class], some.boxes_xyxy[of_class])
        assert (overlap.fill_diagonal_(0) <= most).all()
    assert 0 < int(some.valid.sum()) < int(everything.valid.sum())
    assert some.valid[0]


def test_change_of_frame_size(weights: Path) -> None:
    """Each size gives what a fresh detector gives."""
    stage = detector(weights)
    for size in ((64, 96), (333, 77), (64, 96)):
        for have, want in zip(
            rows(stage.detect(frame(*size))),
            rows(detector(weights).detect(frame(*size))),
            strict=True,
        ):
            assert torch.equal(have, want)


def test_demo_weights_find_what_the_phantom_shows() -> None:
    """At least half of the objects that count, at an IoU of 0.5; chance would find none."""
    stage = YoloDetector(YoloConfig(), CPU)
    assert stage.class_names == PHANTOM_CLASSES
    assert stage.input_hw == (192, 256)
    scene = PhantomScene(20_000, size_hw=(480, 640))
    best: list[float] = []
    for index in (0, 150, 300):
        grey = torch.from_numpy(scene.render(index)).expand(3, -1, -1)
        found = stage.detect(Frame(grey, "phantom", 0, index, 0, 0))
        truth = scene.truth(index)
        for mask, class_id in zip(
            truth.masks[truth.counted], truth.class_ids[truth.counted], strict=True
        ):
            box = masks_to_boxes(torch.from_numpy(mask)[None])
            overlap = box_iou(found.boxes_xyxy, box)[:, 0]
            best.append(float((overlap * (found.valid & (found.class_ids == class_id))).max()))
    assert len(best) >= 4
    assert sum(iou > 0.5 for iou in best) >= len(best) / 2, best


# Residency


@pytest.mark.parametrize("grey", [False, True])
def test_detect_stays_on_the_device(weights: Path, grey: bool) -> None:
    stage = detector(weights, classes=("vessel", "rib"), max_overlap=0.7)
    stage.warm_up((480, 640))
    with residency_guard() as report:
        for seed in range(3):
            stage.detect(frame_before_guard(grey, seed))
    assert not report.violations


def test_detect_runs_on_a_fake_gpu(weights: Path) -> None:
    """No constant is left on the host, and no shape depends on data."""
    stage = detector(weights, max_overlap=0.7)
    stage.warm_up((480, 640))
    with fake_cuda(stage.detect, frame_before_guard(True, 0)) as (detect, picture):
        found = detect(picture)
    assert {row.device.type for row in rows(found)} == {"cuda"}


def test_the_fake_gpu_sees_a_constant_left_on_the_host(weights: Path) -> None:
    stage = detector(weights)
    stage.warm_up((480, 640))
    wanted = stage._choice._wanted

    def leave_behind() -> None:
        with fake_cuda(stage, frame_before_guard(False, 0)) as (fake_stage, picture):
            fake_stage._choice._wanted = wanted
            fake_stage.detect(picture)

    with pytest.raises(ResidencyError, match="index_select copies from the host"):
        leave_behind()


def frame_before_guard(grey: bool, seed: int) -> Frame:
    """A frame whose pixels are a slice of a tensor made outside of any guard."""
    channels = 1 if grey else 3
    return Frame(PIXELS[seed, :channels].expand(3, -1, -1), "test", 0, seed, 0, 0)


PIXELS = torch.randint(0, 256, (3, 3, 480, 640), dtype=torch.uint8)


def test_a_frame_of_another_size_takes_no_copy_either(weights: Path) -> None:
    stage = detector(weights)
    with residency_guard():
        stage.detect(frame_before_guard(False, 0))
        smaller = Frame(PIXELS[1, :, :300, :500], "test", 1, 1, 0, 0)
        found = stage.detect(smaller)
    assert float(found.boxes_xyxy.amax()) <= 500
    with pytest.raises(ResidencyError), residency_guard():
        torch.tensor([500.0, 300.0], device="cpu")  # how its constants must not be made


# What is refused


@pytest.mark.parametrize(
    ("given", "expected"),
    [(64, (64, 64)), ([64, 96], (64, 96)), ((192, 256), (192, 256)), (None, None)],
)
def test_input_size_is_a_number_or_a_pair(given: object, expected: object) -> None:
    assert YoloConfig.model_validate({"input_size": given}).input_size == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"input_size": 100},
        {"input_size": 0},
        {"input_size": True},
        {"input_size": [64, 96, 32]},
        {"max_detections": 0},
        {"max_detections": 301},
        {"min_score": 1.5},
        {"min_score": float("nan")},
        {"classes": []},
        {"sha256": "abc"},
        {"weights": ""},
        {"wieghts": "demo"},
    ],
)
def test_config_that_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        YoloConfig.model_validate(settings)


def test_unknown_class_lists_the_known_ones(weights: Path) -> None:
    with pytest.raises(ConfigError, match=r"'liver' is not a class.*vessel, tumor, rib"):
        detector(weights, classes=("vessel", "liver"))


def test_end_to_end_head_is_taken_though_the_structure_does_not_select_it(weights: Path) -> None:
    """ultralytics answers with the other head unless told before `fuse`, which deletes one."""
    head: Any = detector(weights)._network.model[-1]
    assert head.cv2 is None or getattr(head, "one2one_cv2", None) is None
    assert head.end2end


def test_more_detections_than_candidates(weights: Path) -> None:
    with pytest.raises(ConfigError, match=r"max_detections is 21, but .* gives only 20 candidates"):
        detector(weights, input_size=32, max_detections=21)
    assert detector(weights, input_size=32, max_detections=20).detect(frame()).computed


def test_weights_that_name_no_input_size(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "t.safetensors", tiny_model(), leave_out=("input_size",))
    with pytest.raises(ConfigError, match="names no input_size"):
        detector(path)
    assert detector(path, input_size=64).input_hw == (64, 64)


def test_sha256_of_another_file(weights: Path) -> None:
    with pytest.raises(ConfigError, match="sha256"):
        detector(weights, sha256="0" * 64)


# Import hygiene

BUILD = """
import json, os, socket, sys, threading
import numpy, torch
import PIL.Image
torch.set_num_threads(1)
def no_network(*_): raise AssertionError("tried to go online")
socket.getaddrinfo = socket.create_connection = socket.socket.connect = no_network
from stages.detectors.none import NoDetector, NoDetectorConfig
from stages.detectors.yolo import YoloConfig, YoloDetector
config = YoloConfig(weights=sys.argv[1])
NoDetector(NoDetectorConfig(), torch.device("cpu"))
before = "ultralytics" in sys.modules
environment, image_open, shown = dict(os.environ), PIL.Image.open, numpy.get_printoptions()
YoloDetector(config, torch.device("cpu"))
import ultralytics
report = {
    "before": before,
    "after": "ultralytics.nn.tasks" in sys.modules,
    "environment": {k: v for k, v in os.environ.items() if environment.get(k) != v},
    "removed": sorted(set(environment) - set(os.environ)),
    "image_open": PIL.Image.open is image_open,
    "print_options": numpy.get_printoptions() == shown,
    "sync": ultralytics.settings["sync"],
    "threads": [thread.name for thread in threading.enumerate()],
}
print(json.dumps(report))
"""


@pytest.mark.timeout(180)
def test_ultralytics_is_imported_late_quietly_and_leaves_no_trace(
    weights: Path, tmp_path: Path
) -> None:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("YOLO", "OMP", "ULTRA"))}
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-B", "-c", BUILD, str(weights)],
        env={**kept, "HOME": str(home), "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        cwd=home, capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert report == {
        "before": False,
        "after": True,
        "environment": {"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "0"},
        "removed": [],
        "image_open": True,
        "print_options": True,
        "sync": False,
        "threads": ["MainThread"],
    }
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# No detector


def test_no_detector_answers_with_padding() -> None:
    stage = NoDetector(NoDetectorConfig(max_detections=5), CPU)
    picture = frame()
    with residency_guard():
        found = stage.detect(picture)
    assert stage.class_names == ()
    assert found.frame is picture
    assert not found.computed
    assert len(found.valid) == 5
    assert not found.valid.any()
    assert not found.boxes_xyxy.any()


def test_between_key_frames_nothing_is_looked_for() -> None:
    found = YoloDetector(YoloConfig(every=3), CPU)
    epochs = [0, 0, 0, 0, 0, 5, 5, 5, 5, 5]
    results = [found.detect(replace(frame(), epoch=epoch)) for epoch in epochs]
    keys = [place for place, result in enumerate(results) if result.computed]
    assert keys == [0, 3, 5, 8]
    assert not results[-1].valid.any()
    assert results[-1].valid.shape == results[0].valid.shape


def test_while_off_nothing_is_looked_for_and_then_at_once() -> None:
    found = YoloDetector(YoloConfig(every=3), CPU)
    assert isinstance(found, SwitchedDetector)

    def looks(*ids: int) -> list[bool]:
        return [found.detect(replace(frame(), frame_id=number)).computed for number in ids]

    assert looks(0) == [True]
    told = found.switch.set(False)
    assert looks(1, 2, 3, 4) == [False] * 4
    assert told.result(0) == 1
    found.switch.set(True)
    assert looks(5, 6, 7, 8) == [True, False, False, True]
