"""The demo models: building them from their YAML, and weights files without pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import save_file
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from stages.sources.phantom_scene import CLASS_NAMES

if TYPE_CHECKING:
    from ultralytics.nn.tasks import DetectionModel

ROOT: Final = Path(__file__).resolve().parent.parent
SAM2_YAML: Final = ROOT / "stages/segmenters/weights/sam2_demo.yaml"
YOLO_YAML: Final = ROOT / "stages/detectors/weights/yolo_demo.yaml"
FORMAT: Final = "maskstream-weights-1"

_VIDEO_TARGET: Final = "sam2.sam2_video_predictor.SAM2VideoPredictor"


def build_sam2(*, video: bool = False) -> SAM2Base:
    """The demo SAM2 with fresh weights: a SAM2Base, or the official SAM2VideoPredictor."""
    config = OmegaConf.load(SAM2_YAML)
    if video:
        config.model._target_ = _VIDEO_TARGET
    model: SAM2Base = instantiate(config.model, _recursive_=True)
    return model.eval()


def build_yolo() -> DetectionModel:
    """The demo detector with fresh weights, an ultralytics DetectionModel (AGPL-3.0)."""
    os.environ.update(YOLO_OFFLINE="1", YOLO_AUTOINSTALL="0")
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils import SETTINGS

    dict.__setitem__(SETTINGS, "sync", False)  # for this process; the user's file is left alone
    return DetectionModel(str(YOLO_YAML), nc=len(CLASS_NAMES), verbose=False)


def save_weights(path: Path, model: nn.Module, config: Path, recipe: Mapping[str, object]) -> None:
    """Write a model's state in half precision, with a description in the file's metadata.

    The file appears under its name only once it is complete.
    """
    state: dict[str, Tensor] = {
        name: value.half().contiguous() if value.dtype == torch.float32 else value.contiguous()
        for name, value in model.state_dict().items()
    }
    recipe_json = json.dumps(recipe, sort_keys=True)
    metadata = {
        "format": FORMAT,
        "config": config.name,
        "config_sha256": hashlib.sha256(config.read_bytes()).hexdigest(),
        "class_names": json.dumps(CLASS_NAMES),
        "recipe": recipe_json,
        "recipe_sha256": hashlib.sha256(recipe_json.encode()).hexdigest(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    save_file(state, part, metadata=metadata)
    part.chmod(0o644)
    part.replace(path)


def load_weights(path: Path, model: nn.Module) -> dict[str, str]:
    """Load what `save_weights` wrote into ``model``, every key matched; return the metadata."""
    with safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: format {metadata.get('format')!r}, expected {FORMAT!r}")
    model.load_state_dict(state)
    return metadata
