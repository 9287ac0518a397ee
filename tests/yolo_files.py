"""Small YOLO weights files for tests, written with ultralytics and safetensors themselves."""

from __future__ import annotations

import json
import zipfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from stages.detectors.yolo_network import import_ultralytics

CLASS_NAMES = ("vessel", "tumor", "rib")
TINY: dict[str, Any] = {
    "nc": 3,
    "end2end": True,
    "reg_max": 1,
    "backbone": [
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "Conv", [16, 3, 2]],
    ],
    "head": [[[2, 3], 1, "Detect", ["nc"]]],
}


def tiny_model(seed: int = 0, **changes: object) -> Any:
    """A `DetectionModel` of the tiny structure, scores spread over 0..1, names set."""
    tasks = import_ultralytics().nn.tasks
    torch.manual_seed(seed)
    model = tasks.DetectionModel({**deepcopy(TINY), **changes}, ch=3, verbose=False)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "cv3" in name:  # the class branches; as made, every score is about 0.0002
                value.normal_(-1 if name.endswith("2.bias") else 0, 0.5)
    model.names = dict(enumerate(CLASS_NAMES))
    return model.eval()


def write_safetensors(
    path: Path, model: Any, *, leave_out: tuple[str, ...] = (), **changes: str
) -> Path:
    """Our layout, the structure in the metadata; `changes` replace metadata values."""
    metadata = {
        "format": "maskstream-weights-1",
        "class_names": json.dumps(CLASS_NAMES),
        "model_yaml": json.dumps(TINY),
        "input_size": "[64, 96]",
        **changes,
    }
    for key in leave_out:
        del metadata[key]
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, path, metadata=metadata)
    return path


def write_pt(path: Path, model: Any, **extra: object) -> Path:
    """The layout that ultralytics' trainer leaves after `strip_optimizer`."""
    content = {"epoch": -1, "model": deepcopy(model).half(), "ema": None, "optimizer": None}
    torch.save({**content, "train_args": {"imgsz": 64}, **extra}, path)
    return path


def with_pickle(path: Path, data: bytes) -> Path:
    """A torch archive whose pickle is `data`."""
    torch.save({}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            archive.writestr(name, data if name.endswith("/data.pkl") else content)
    return path
