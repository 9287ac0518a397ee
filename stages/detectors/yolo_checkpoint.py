"""YOLO weights from a file, checked: our own safetensors, or an ultralytics `.pt`.

Our safetensors hold the state dict of an unfused `DetectionModel`. Their metadata:

- `format`: "maskstream-weights-1";
- `class_names`: a JSON list, one name a class;
- `model_yaml`: the model structure as JSON; or `config`: the name of a YAML file beside the
  weights that holds it (default: the weights' own name with `.yaml`), with `config_sha256`;
- `input_size` (optional): [height, width] in pixels, JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from torch import Tensor

from stages.checkpoints import (
    WEIGHTS_FORMAT,
    SafetensorsFile,
    check_sha256,
    one_line,
    read_safetensors,
    require_file,
)
from stages.detectors.yolo_pickle import read_pickled_yolo
from stages.detectors.yolo_structure import Structure, check_structure
from stages.errors import ConfigError

STRIDE = 32
"""Input sides are multiples of this, the coarsest stride of a YOLO."""
ULTRALYTICS_IMAGE_SIZE = 640

_MAX_YAML_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, eq=False)
class YoloWeights:
    """What a network is built from."""

    path: Path
    structure: Structure
    class_names: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    input_hw: tuple[int, int] | None
    """The size that the weights were trained for, where the file says it."""


def read_yolo_weights(path: Path, sha256: str | None = None) -> YoloWeights:
    """Read `.safetensors` or `.pt`; raises `ConfigError` naming the file and the problem."""
    require_file(path, "YOLO weights (.safetensors or .pt)")
    check_sha256(path, sha256)
    if path.suffix == ".safetensors":
        return _from_safetensors(read_safetensors(path))
    if path.suffix == ".pt":
        return _from_pickled(path)
    raise ConfigError(f"{path}: suffix {path.suffix!r}, expected .safetensors or .pt")


def _from_safetensors(file: SafetensorsFile) -> YoloWeights:
    path, metadata = file.path, file.metadata
    if metadata.get("format") != WEIGHTS_FORMAT:
        raise ConfigError(
            f"{path}: metadata has format {metadata.get('format')!r}, expected {WEIGHTS_FORMAT!r}"
        )
    structure = check_structure(*_raw_structure(file))
    size = _json(file, "input_size") if "input_size" in metadata else None
    return YoloWeights(
        path=path,
        structure=structure,
        class_names=_class_names(_json(file, "class_names"), structure, path),
        tensors=file.tensors,
        input_hw=None if size is None else _input_hw(size, path),
    )


def _raw_structure(file: SafetensorsFile) -> tuple[object, str]:
    """The structure, unchecked, and where it was found."""
    if "model_yaml" in file.metadata:
        return _json(file, "model_yaml"), f"{file.path}: model_yaml"
    name = file.metadata.get("config", file.path.with_suffix(".yaml").name)
    # Only the last part of the name: a weights file must not point anywhere else.
    config = file.path.with_name(Path(name).name)
    require_file(config, f"the model structure of {file.path.name}")
    check_sha256(config, file.metadata.get("config_sha256"))
    if config.stat().st_size > _MAX_YAML_BYTES:
        raise ConfigError(f"{config}: larger than {_MAX_YAML_BYTES} bytes, expected a model YAML")
    try:
        return yaml.safe_load(config.read_text(encoding="utf-8")), str(config)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{config}: not a model YAML ({one_line(error)})") from error


def _json(file: SafetensorsFile, key: str) -> object:
    try:
        value: object = json.loads(file.metadata[key])
    except KeyError as error:
        raise ConfigError(f"{file.path}: metadata lacks {key}, expected it as JSON") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file.path}: metadata {key} is not JSON ({one_line(error)})") from error
    return value


def _from_pickled(path: Path) -> YoloWeights:
    pickled = read_pickled_yolo(path)
    structure = check_structure(pickled.structure, str(path))
    names = pickled.class_names
    if isinstance(names, Mapping):  # ultralytics numbers its names
        names = [names.get(index) for index in range(len(names))]
    size = ULTRALYTICS_IMAGE_SIZE if pickled.image_size is None else pickled.image_size
    return YoloWeights(
        path=path,
        structure=structure,
        class_names=_class_names(names, structure, path),
        tensors=pickled.tensors,
        input_hw=_input_hw([size, size] if isinstance(size, int) else size, path),
    )


def _class_names(raw: object, structure: Structure, path: Path) -> tuple[str, ...]:
    if not isinstance(raw, list | tuple) or not all(isinstance(name, str) for name in raw):
        raise ConfigError(f"{path}: class names are not a list of texts")
    if len(raw) != structure.get("nc") or len(set(raw)) != len(raw):
        raise ConfigError(
            f"{path}: {len(set(raw))} different class names in a list of {len(raw)}, "
            f"expected nc = {structure.get('nc')}"
        )
    return tuple(raw)


def _input_hw(raw: object, path: Path) -> tuple[int, int]:
    """Sides rounded up to whole strides, as ultralytics does."""
    sides = list(raw) if isinstance(raw, list | tuple) else []
    if len(sides) != 2 or not all(type(side) is int and 1 <= side <= 8192 for side in sides):
        raise ConfigError(f"{path}: input size is {raw!r:.60}, expected [height, width] in pixels")
    height, width = (-(-side // STRIDE) * STRIDE for side in sides)
    return height, width
