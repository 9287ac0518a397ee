"""Non-maximum suppression of fixed size, and the YOLO heads that need it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import batched_nms
from torchvision.ops.boxes import _batched_nms_vanilla

from pipeline.audit import residency_guard
from pipeline.fake_cuda import fake_cuda
from stages.detectors.nms import Suppression
from stages.detectors.yolo import YoloConfig, YoloDetector
from stages.detectors.yolo_network import import_ultralytics
from stages.errors import ConfigError, ResidencyError
from stages.letterbox import Letterbox
from stages.records import Frame
from tests.yolo_files import tiny_model, write_pt

CPU = torch.device("cpu")
HEADS = {  # the ends of YOLOv8's and YOLO11's structures, small
    "v8": {"end2end": False, "reg_max": 16},
    "v11": {
        "end2end": False,
        "reg_max": 16,
        "backbone": [
            [-1, 1, "Conv", [8, 3, 2]],
            [-1, 1, "Conv", [8, 3, 2]],
            [-1, 1, "C3k2", [16, False, 0.25]],
            [-1, 1, "Conv", [128, 3, 2]],
            [-1, 1, "C2PSA", [128]],
            [-1, 1, "Conv", [16, 3, 2]],
        ],
        "head": [[[4, 5], 1, "Detect", ["nc"]]],
    },
}
THRESHOLDS = (0.3, 0.45, 0.5, 0.6, 0.7, 1 / 3)


def random_set(seed: int, *, grid: bool, most: int = 200) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores, classes. On a grid of four pixels overlaps and scores are often the same,
    and whole numbers survive the shift by which torchvision keeps classes apart."""
    generator = torch.Generator().manual_seed(seed)
    count = int(torch.randint(1, most, (1,), generator=generator))
    corner = torch.rand(count, 2, generator=generator) * 200
    size = torch.rand(count, 2, generator=generator) * 80
    scores = torch.rand(count, generator=generator)
    if grid:
        corner, size = (corner / 4).round() * 4, (size / 8).round() * 8
        scores = (scores * 20).round() / 20
    class_ids = torch.randint(0, 3, (count,), generator=generator)
    return torch.cat((corner, corner + size), dim=1), scores, class_ids


@pytest.mark.timeout(240)
def test_equal_to_torchvision_on_a_thousand_random_sets() -> None:
    """All rows kept, in their order, ties and boxes without area included. Free coordinates are
    compared with the form of `batched_nms` that leaves them alone, its own for many boxes."""
    kept = 0
    for seed in range(1000):
        grid, most = seed % 2 == 0, THRESHOLDS[seed % len(THRESHOLDS)]
        boxes, scores, class_ids = random_set(seed, grid=grid, most=30)
        theirs = batched_nms if grid else _batched_nms_vanilla
        want = theirs(boxes, scores, class_ids, most)
        rows, found = Suppression(len(boxes), most)(boxes, scores, class_ids)
        assert torch.equal(rows[found > -torch.inf], want), seed
        assert torch.equal(found[: len(want)], scores[want])
        kept += len(want)
    assert kept > 9_000


@pytest.mark.parametrize("grid", [False, True])
def test_equal_to_torchvision_to_the_last_row(grid: bool) -> None:
    boxes, scores, class_ids = random_set(7, grid=grid)
    want = (batched_nms if grid else _batched_nms_vanilla)(boxes, scores, class_ids, 0.5)
    rows, found = Suppression(len(boxes), 0.5)(boxes, scores, class_ids)
    assert torch.equal(rows[: len(want)], want)
    assert 10 < len(want) == int((found > -torch.inf).sum()) < len(boxes)


def test_an_overlap_of_just_the_threshold_stays() -> None:
    """0.6 is no float32; torchvision compares in double precision."""
    boxes = torch.tensor([[0.0, 0, 8, 1], [2, 0, 10, 1]])  # IoU 6 / 10
    scores, ids = torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64)
    for most in (0.6, 0.59, 0.61):
        found = Suppression(2, most)(boxes, scores, ids)[1]
        assert int((found > 0).sum()) == len(batched_nms(boxes, scores, ids, most))
    assert not torch.isfinite(Suppression(2, 0.59)(boxes, scores, ids)[1][1])


def test_two_hundred_overlapping_finds_leave_one() -> None:
    boxes = torch.tensor([[10.0, 10, 60, 60]]).expand(200, -1) + torch.rand(200, 1)
    scores = torch.linspace(0.3, 0.9, 200)
    rows, found = Suppression(16, 0.7)(boxes, scores, torch.zeros(200, dtype=torch.int64))
    assert int(rows[0]) == 199
    assert (found[1:] == -torch.inf).all()


def test_scores_that_are_not_numbers_take_no_part() -> None:
    boxes = torch.tensor([[0.0, 0, 8, 8], [20, 0, 28, 8], [40, 0, 48, 8]])
    scores = torch.tensor([torch.nan, 0.5, -torch.inf])
    rows, found = Suppression(3, 0.5)(boxes, scores, torch.zeros(3, dtype=torch.int64))
    assert int(rows[0]) == 1
    assert found.tolist() == [0.5, -torch.inf, -torch.inf]


def test_nothing_is_read_back() -> None:
    boxes, scores, class_ids = random_set(3, grid=False)
    suppress = Suppression(8, 0.5)
    with residency_guard():
        suppress(boxes, scores, class_ids)
    with pytest.raises(ResidencyError), residency_guard():
        batched_nms(boxes, scores, class_ids, 0.5)


# YOLO heads that name each object many times


def checkpoint(folder: Path, head: str) -> Path:
    return write_pt(folder / f"{head}.pt", tiny_model(**HEADS[head]))


def picture(height: int = 120, width: int = 160) -> Frame:
    generator = torch.Generator().manual_seed(0)
    rgb = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    return Frame(rgb, "test", 0, 0, 0, 0)


@pytest.mark.parametrize("head", sorted(HEADS))
@pytest.mark.parametrize("most", [0.3, 0.7])
def test_equal_to_the_nms_of_ultralytics(tmp_path: Path, head: str, most: float) -> None:
    """Their model, loaded by ultralytics from its own file, and `non_max_suppression`."""
    import_ultralytics()
    from ultralytics.utils.nms import non_max_suppression

    path = checkpoint(tmp_path, head)
    frame, letterbox = picture(), Letterbox((120, 160), (64, 96))
    model = torch.load(path, weights_only=False)["model"].float().fuse(verbose=False).eval()
    with torch.no_grad():
        raw = model(letterbox.fit(frame.rgb))[0]
    min_score = float(raw[0, 4:].amax(dim=0).median()) - 1e-5  # theirs must be above it
    theirs = non_max_suppression(raw, min_score, most, max_det=16)[0]
    ours = YoloDetector(
        YoloConfig(weights=str(path), input_size=(64, 96), min_score=min_score, max_overlap=most),
        CPU,
    ).detect(frame)
    count = int((ours.scores >= min_score).sum())
    assert 3 <= count == len(theirs)
    close = {"atol": 1e-4, "rtol": 0.0}
    torch.testing.assert_close(ours.scores[:count], theirs[:, 4], **close)
    assert torch.equal(ours.class_ids[:count], theirs[:, 5].int())
    boxes = letterbox.to_frame(theirs[:, :4])
    torch.testing.assert_close(ours.boxes_xyxy[:count], boxes, **close)
    assert torch.equal(ours.valid[:count], (boxes[:, 2:] > boxes[:, :2]).all(dim=1))
    assert not ours.valid[count:].any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolo11n.yaml"])
def test_structures_of_the_released_models(tmp_path: Path, name: str) -> None:
    import_ultralytics()
    from ultralytics import YOLO

    YOLO(name, task="detect", verbose=False).save(tmp_path / "released.pt")
    stage = YoloDetector(YoloConfig(weights=str(tmp_path / "released.pt"), min_score=0), CPU)
    assert stage.input_hw == (640, 640)
    found = stage.detect(picture())
    assert len(stage.class_names) == 80
    assert (found.scores > 0).all()
    assert (found.scores.diff() <= 0).all()


def test_a_head_that_needs_nms_gets_it_by_default(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "v8")
    standard, given = (
        YoloDetector(YoloConfig(weights=str(path), min_score=0.01, max_overlap=most), CPU)
        for most in (None, 0.7)
    )
    assert torch.equal(standard.detect(picture()).boxes_xyxy, given.detect(picture()).boxes_xyxy)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("head", sorted(HEADS))
def test_they_stay_on_the_device(tmp_path: Path, head: str) -> None:
    stage = YoloDetector(YoloConfig(weights=str(checkpoint(tmp_path, head))), CPU)
    stage.warm_up((120, 160))
    frame = picture()
    with residency_guard() as report:
        for _ in range(3):
            stage.detect(frame)
    assert not report.violations
    with fake_cuda(stage.detect, frame) as (detect, there):
        assert detect(there).boxes_xyxy.device.type == "cuda"


@pytest.mark.gpu
def test_nothing_waits_on_a_gpu(tmp_path: Path) -> None:
    """Not yet run on one."""
    stage = YoloDetector(
        YoloConfig(weights=str(checkpoint(tmp_path, "v8"))), torch.device("cuda:0")
    )
    stage.warm_up((120, 160))
    there = replace(picture(), rgb=picture().rgb.cuda())
    with residency_guard(cuda_sync_debug="error"):
        stage.detect(there)


def test_more_detections_than_candidates(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "v8")
    with pytest.raises(ConfigError, match=r"max_detections is 31, but .* gives only 20 candidates"):
        YoloDetector(YoloConfig(weights=str(path), input_size=32, max_detections=31), CPU)


@pytest.mark.parametrize("task", ["Segmentation", "Pose", "OBB", "Classification"])
def test_other_tasks_are_refused(tmp_path: Path, task: str) -> None:
    """Masks, key points and turned boxes are no boxes to suppress."""
    tasks = import_ultralytics().nn.tasks
    model = tiny_model(**HEADS["v8"])
    model.__class__ = getattr(tasks, f"{task}Model")
    path = write_pt(tmp_path / "other.pt", model)
    with pytest.raises(ConfigError) as error:
        YoloDetector(YoloConfig(weights=str(path)), CPU)
    assert f"holds a {task}Model, expected a DetectionModel" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_detection_model_with_another_head_is_refused(tmp_path: Path) -> None:
    model: Any = tiny_model(**HEADS["v8"])
    model.yaml["head"] = [[[2, 3], 1, "Segment", ["nc", 32, 256]]]
    path = write_pt(tmp_path / "segment.pt", model)
    with pytest.raises(ConfigError, match="layer 'Segment' is not one of a YOLO detector"):
        YoloDetector(YoloConfig(weights=str(path)), CPU)
