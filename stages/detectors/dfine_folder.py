"""A detector's folder as transformers writes it, found and checked before anything is built.

`config.json` (structure and class names), `preprocessor_config.json` (what the model's input
looks like) and `model.safetensors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from stages.checkpoints import check_sha256, read_safetensors
from stages.detectors.model_folder import (
    CONFIG,
    PREPROCESSOR,
    WEIGHTS,
    find_folder,
    find_weights,
    read_json,
)
from stages.detectors.model_input import InputForm
from stages.errors import ConfigError

MODEL_TYPES: Final = ("d_fine", "rt_detr", "rt_detr_v2")
"""Of transformers' detectors with these outputs, those that stay on the device. RF-DETR, LW-DETR
and others copy a table from the host in every forward pass."""
BACKBONES: Final = ("hgnet_v2", "resnet", "rt_detr_resnet")
"""Others are built by other packages, some of which fetch weights."""


@dataclass(frozen=True, slots=True, eq=False)
class DfineFolder:
    """What a network is built from."""

    path: Path
    structure: Mapping[str, Any]
    """`config.json`."""
    class_names: tuple[str, ...]
    form: InputForm
    tensors: Mapping[str, Tensor]


def find_dfine(model: str, revision: str | None) -> Path:
    """See `find_folder`."""
    holds = f"{CONFIG}, {PREPROCESSOR} and {WEIGHTS}"
    return find_folder(model, revision, holds=holds, example="ustc-community/dfine-nano-coco")


def read_folder(path: Path, sha256: str | None = None) -> DfineFolder:
    """Read and check all three files; ``sha256`` is that of the weights. Raises `ConfigError`."""
    structure = read_json(path / CONFIG, "the structure of a detector")
    _check_structure(structure, path / CONFIG)
    told = read_json(path / PREPROCESSOR, "the form of its input")
    form = InputForm.read(told, path / PREPROCESSOR)
    weights = find_weights(path, "the weights of a detector")
    check_sha256(weights, sha256)
    names = _class_names(structure.get("id2label"), path / CONFIG)
    return DfineFolder(path, structure, names, form, read_safetensors(weights).tensors)


def _check_structure(structure: Mapping[str, Any], path: Path) -> None:
    kind = structure.get("model_type")
    if kind not in MODEL_TYPES:
        raise ConfigError(
            f"{path}: model_type is {_brief(kind)}, expected one of {', '.join(MODEL_TYPES)}"
        )
    backbone = structure.get("backbone_config")
    inner = backbone.get("model_type") if isinstance(backbone, dict) else None
    if inner not in BACKBONES:
        raise ConfigError(
            f"{path}: backbone_config is of model_type {_brief(inner)}, expected one of "
            f"{', '.join(BACKBONES)}"
        )
    if structure.get("decoder_method", "default") != "default":
        raise ConfigError(
            f"{path}: decoder_method is {_brief(structure['decoder_method'])}, expected 'default' "
            "(others copy from the host on every frame)"
        )


def _class_names(raw: object, path: Path) -> tuple[str, ...]:
    """From `id2label`, which numbers them."""
    table = raw if isinstance(raw, dict) else {}
    names = tuple(table.get(str(index)) for index in range(len(table)))
    texts = tuple(name for name in names if isinstance(name, str) and name)
    if not texts or len(texts) != len(names) or len(set(texts)) != len(texts):
        raise ConfigError(f"{path}: id2label is not a table of different names numbered from 0")
    return texts


def _brief(value: object) -> str:
    return repr(value)[:60]
