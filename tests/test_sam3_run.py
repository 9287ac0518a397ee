"""Whole runs with SAM3 itself, tiny: `--audit` passes on every frame, and fails where it must."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_sam2 import write_model
from tiny_sam3 import write_sam3

from pipeline.config import RunConfig
from pipeline.frame_flow import RunOptions
from pipeline.run import start

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("models")
    structure, weights = write_model(folder)
    model = write_sam3(folder / "sam3")
    return {
        "name": "words",
        "device": "cpu",
        "source": {"kind": "phantom", "size_hw": [96, 128], "fps": None},
        "grab": {"mailbox": "every"},
        "detector": {
            "kind": "sam3", "model": str(model), "phrases": ["needle"], "every": 10,
            "min_score": 0.2, "max_detections": 3,
        },
        "segmenter": {
            "kind": "sam2_stream", "model": str(structure), "checkpoint": str(weights),
            "max_objects": 3, "every": 10, "lifecycle": {"confirm": 1},
        },
        "results": {"endpoint": "tcp://127.0.0.1:0"},
        "control": None, "http": None, "preview": None,
    }  # fmt: skip


def audited(config: dict[str, Any], frames: int, out: Path) -> tuple[int, dict[str, Any]]:
    """Exit code and summary."""
    code = start(RunConfig.model_validate(config), RunOptions(frames, out, audit=True))
    return code, json.loads((out / "summary.json").read_text())


def test_100_frames_copy_nothing_and_wait_for_nothing(
    config: dict[str, Any], tmp_path: Path
) -> None:
    code, summary = audited(config, 100, tmp_path / "out")
    assert code == 0
    assert summary["audited_frames"] == summary["frames"]["published"] == 100
    copies = summary["host_copies"]
    assert [copies[f"hot_path_{kind}"] for kind in ("d2h", "h2d", "syncs")] == [0, 0, 0]
    events = [json.loads(line) for line in (tmp_path / "out" / "kpi.jsonl").open()]
    objects = [each["objects"] for each in events if each["event"] == "frame_published"]
    assert len(objects) == 100
    assert min(objects[20:]) >= 1


def test_as_numpy_is_caught(config: dict[str, Any], tmp_path: Path) -> None:
    code, summary = audited({**config, "as_numpy": True}, 4, tmp_path / "out")
    assert code == 1
    assert "stages/as_numpy.py" in summary["error"]
