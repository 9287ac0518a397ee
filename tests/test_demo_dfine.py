"""The demo without ultralytics: a whole run with the D-FINE's weights, its import blocked."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Outcome
from rich.console import Console
from torchvision.ops import box_iou, masks_to_boxes

from pipeline.config import load_config
from pipeline.frame_flow import RunOptions
from pipeline.run import start
from stages.detectors.dfine import DfineConfig, DfineDetector
from stages.errors import ConfigError
from stages.records import Frame
from stages.sources.phantom_scene import CLASS_NAMES, PhantomScene

LOCAL = [
    "results.endpoint=tcp://127.0.0.1:0", "http=null", "control=null", "source.fps=null",
    "source.ahead=0", "preview.film_frames=0",
]  # fmt: skip


def run(out: Path, config: str, frames: int) -> tuple[int, dict[str, Any]]:
    settings = load_config(config, LOCAL)
    with (out.parent / "log.txt").open("w") as log:
        code = start(settings, RunOptions(frames=frames, out=out), Console(file=log))
    return code, json.loads((out / "summary.json").read_text())


@pytest.mark.timeout(240)
def test_the_demo_runs_without_ultralytics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ultralytics", None)  # whoever imports it fails
    with pytest.raises(ConfigError, match=r"needs ultralytics.*or take detector.kind dfine"):
        run(tmp_path / "yolo", "demo", 1)
    code, summary = run(tmp_path / "out", "demo_dfine", 20)
    assert code == 0
    assert summary["frames"] == {"grabbed": 20, "published": 20, "dropped": {}}
    copies = summary["host_copies"]
    assert (copies["hot_path_d2h"], copies["hot_path_h2d"], copies["hot_path_syncs"]) == (0, 0, 0)
    assert summary["quality"]["object_frames"] > 20
    assert summary["quality"]["mean_iou"] >= 0.75
    assert summary["quality"]["recall"] >= 0.85


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("detector.weights=no/such/folder", "no/such/folder: no such folder, expected"),
        ("detector.revision=main", "detector.revision: got 'main'"),
        ("detector.sha256=" + "a" * 64, "model.safetensors: sha256 is"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_78(
    call_main: Callable[..., Outcome], tmp_path: Path, setting: str, expected: str
) -> None:
    sets = [word for override in (*LOCAL, setting) for word in ("--set", override)]
    outcome = call_main("run", "demo_dfine", "--out", str(tmp_path / "o"), *sets)
    assert outcome.code == 78
    assert expected in outcome.stderr
    assert outcome.stderr.count("\n") == 1


def test_its_weights_find_what_the_phantom_shows() -> None:
    """At least two in three of the objects that count, at an IoU of 0.5, in an unseen scene."""
    stage = DfineDetector(DfineConfig(min_score=0.35), torch.device("cpu"))
    assert stage.class_names == CLASS_NAMES
    scene, best = PhantomScene(20_000, size_hw=(480, 640)), []
    for index in (0, 150, 300):
        grey = torch.from_numpy(scene.render(index)).expand(3, -1, -1)
        found = stage.detect(Frame(grey, "phantom", 0, index, 0, 0))
        truth = scene.truth(index)
        for mask, class_id in zip(
            truth.masks[truth.counted], truth.class_ids[truth.counted], strict=True
        ):
            overlap = box_iou(found.boxes_xyxy, masks_to_boxes(torch.from_numpy(mask)[None]))[:, 0]
            best.append(float((overlap * (found.valid & (found.class_ids == class_id))).max()))
    assert len(best) >= 4
    assert sum(iou > 0.5 for iou in best) >= len(best) * 2 / 3, best
