"""A SAM3 model in a folder: found, and checked file by file; each problem in one line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open

from stages.checkpoints import check_sha256, one_line, require_file
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

_KINDS: Final = ("sam3", "sam3_video")
_PARTS: Final = {
    ("vision_config", "backbone_config"): "sam3_vit_model",
    ("text_config",): "clip_text_model",
}


@dataclass(frozen=True, slots=True)
class Sam3Files:
    """Where a model lies."""

    folder: Path
    sha256: str | None = None
    """Of `model.safetensors`."""


def find_sam3(model: str, revision: str | None, sha256: str | None) -> Sam3Files:
    """See `find_folder`."""
    holds = f"a SAM3 model ({CONFIG}, {WEIGHTS}, tokenizer)"
    return Sam3Files(find_folder(model, revision, holds=holds, example="facebook/sam3"), sha256)


def check_sam3(files: Sam3Files) -> InputForm:
    """Look at every file that the model needs; what its input looks like. Raises `ConfigError`
    naming the first bad one."""
    folder = files.folder
    _check_architecture(folder)
    weights = _weights(folder)
    for path in weights:
        _check_weights(path)
    if files.sha256 is not None and len(weights) > 1:
        raise ConfigError(
            f"{folder}: its weights are {len(weights)} files, which one sha256 cannot tell from "
            f"others, expected {WEIGHTS}"
        )
    check_sha256(weights[0], files.sha256)
    _check_tokenizer(folder)
    return _input_form(folder)


def weights_named(folder: Path) -> Path:
    """The file that names its tensors: the weights, or the index of several."""
    index = folder / f"{WEIGHTS}.index.json"
    return index if index.exists() and not (folder / WEIGHTS).exists() else folder / WEIGHTS


def tokenizer_file(folder: Path) -> Path:
    """`tokenizer.json`, or `vocab.json` in its place."""
    whole = folder / "tokenizer.json"
    return whole if whole.exists() else folder / "vocab.json"


def input_file(folder: Path) -> Path:
    """`preprocessor_config.json`, or `processor_config.json` where newer folders have it."""
    older = folder / PREPROCESSOR
    return older if older.exists() else folder / "processor_config.json"


def _check_architecture(folder: Path) -> None:
    path = folder / CONFIG
    told = read_json(path, "the structure of a SAM3 model")
    if told.get("model_type") not in _KINDS:
        raise ConfigError(
            f"{path}: model_type is {told.get('model_type')!r:.60}, expected one of "
            f"{', '.join(_KINDS)}"
        )
    structure = told.get("detector_config", told)
    for keys, kind in _PARTS.items():  # another backbone may be one that fetches its weights
        found = structure
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        if not isinstance(found, dict) or found.get("model_type") != kind:
            raise ConfigError(
                f"{path}: {'.'.join(keys)} is not of type {kind}, expected SAM3's own"
            )


def _weights(folder: Path) -> list[Path]:
    """Its safetensors files, one or several; pickles are not looked at."""
    index = weights_named(folder)
    if index.name == WEIGHTS:
        return [find_weights(folder, "the weights of SAM3")]
    parts = read_json(index, "a list of safetensors files").get("weight_map")
    if not isinstance(parts, dict) or not parts:
        raise ConfigError(f"{index}: has no weight_map, expected names of safetensors files")
    names = sorted({str(name) for name in parts.values()})
    if any(Path(name).name != name for name in names):
        raise ConfigError(f"{index}: names files outside of the folder, expected plain names")
    return [folder / name for name in names]


def _check_weights(path: Path) -> None:
    require_file(path, "weights of SAM3")
    try:
        with safe_open(path, framework="pt") as file:
            empty = not file.keys()
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: truncated or not a safetensors file ({one_line(error)})"
        ) from error
    if empty:
        raise ConfigError(f"{path}: holds no tensors, expected weights of SAM3")


def _check_tokenizer(folder: Path) -> None:
    if (folder / "tokenizer.json").exists():
        read_json(folder / "tokenizer.json", "a tokenizer")
        return
    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).is_file():
            raise ConfigError(
                f"{folder}: lacks tokenizer.json, or {name} in its place: expected the model's "
                "tokenizer (BPE) files beside its weights"
            )


def _input_form(folder: Path) -> InputForm:
    path = input_file(folder)
    told: object = read_json(path, "how pictures are prepared")
    if path.name != PREPROCESSOR and isinstance(told, dict):
        told = told.get("image_processor")
    expected = ("size", "image_mean", "image_std")
    if not isinstance(told, dict) or not told.keys() >= set(expected):
        raise ConfigError(f"{path}: expected {', '.join(expected)}, and not all are there")
    return InputForm.read({"do_normalize": True, **told}, path)
