"""A detector's folder as transformers writes it, found and checked before anything is built.

`config.json` (structure and class names), `preprocessor_config.json` (what the model's input
looks like) and `model.safetensors`. A folder of this machine, or a model id at a commit, from the
local Hugging Face cache alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from stages.checkpoints import check_sha256, one_line, read_safetensors, require_file
from stages.detectors.model_input import InputForm
from stages.errors import ConfigError

MODEL_TYPES: Final = ("d_fine", "rt_detr", "rt_detr_v2")
"""Of transformers' detectors with these outputs, those that stay on the device. RF-DETR, LW-DETR
and others copy a table from the host in every forward pass."""
BACKBONES: Final = ("hgnet_v2", "resnet", "rt_detr_resnet")
"""Others are built by other packages, some of which fetch weights."""
CONFIG: Final = "config.json"
PREPROCESSOR: Final = "preprocessor_config.json"
WEIGHTS: Final = "model.safetensors"
_MAX_JSON_BYTES: Final = 1 << 20
_PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_MODEL_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True, eq=False)
class DfineFolder:
    """What a network is built from."""

    path: Path
    structure: Mapping[str, Any]
    """`config.json`."""
    class_names: tuple[str, ...]
    form: InputForm
    tensors: Mapping[str, Tensor]


def find_folder(model: str, revision: str | None) -> Path:
    """The folder of a path, or of an id in the cache; raises `ConfigError`."""
    path = Path(expanduser(model))
    if path.is_dir():
        return path
    if _MODEL_ID.fullmatch(model) is None:
        raise ConfigError(
            f"{model}: no such folder, expected one with {CONFIG}, {PREPROCESSOR} and {WEIGHTS}, "
            "or a model id such as ustc-community/dfine-nano-coco"
        )
    if revision is None:
        raise ConfigError(
            f"{model}: no such folder, and as a model id it needs `revision`, the commit to use"
        )
    return _cached(model, revision)


def _cached(model_id: str, revision: str) -> Path:
    """The snapshot of a commit that `hf download` once fetched."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError as error:
        raise ConfigError(
            f"{model_id}: a model id needs huggingface_hub (pip install 'maskstream[dfine]')"
        ) from error
    found = try_to_load_from_cache(model_id, CONFIG, revision=revision)
    if not isinstance(found, str):
        raise ConfigError(
            f"{model_id}: revision {revision} is not in the local cache (nothing is downloaded), "
            f"expected `hf download {model_id} --revision {revision}` to have run"
        )
    return Path(found).parent


def read_folder(path: Path, sha256: str | None = None) -> DfineFolder:
    """Read and check all three files; ``sha256`` is that of the weights. Raises `ConfigError`."""
    structure = _json(path / CONFIG, "the structure of a detector")
    _check_structure(structure, path / CONFIG)
    form = InputForm.read(_json(path / PREPROCESSOR, "the form of its input"), path / PREPROCESSOR)
    weights = path / WEIGHTS
    pickles = sorted(file.name for kind in _PICKLES for file in path.glob(kind))
    if not weights.exists() and pickles:
        raise ConfigError(
            f"{path}: holds {pickles[0]}, a pickle, which could run code; expected {WEIGHTS}"
        )
    require_file(weights, "the weights of a detector")
    check_sha256(weights, sha256)
    names = _class_names(structure.get("id2label"), path / CONFIG)
    return DfineFolder(path, structure, names, form, read_safetensors(weights).tensors)


def _json(path: Path, what: str) -> Mapping[str, Any]:
    require_file(path, what)
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise ConfigError(f"{path}: larger than {_MAX_JSON_BYTES} bytes, expected {what}")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON ({one_line(error)}), expected {what}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: holds a {type(value).__name__}, expected a JSON object")
    return value


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
