"""A SAM3 model in a folder: found, and checked file by file; each problem in one line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open

from stages.checkpoints import check_sha256, one_line, require_file
from stages.detectors.sam3_pixels import PixelSettings
from stages.errors import ConfigError

_KINDS: Final = ("sam3", "sam3_video")
_PARTS: Final = {
    ("vision_config", "backbone_config"): "sam3_vit_model",
    ("text_config",): "clip_text_model",
}
_PICKLED: Final = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True, slots=True)
class Sam3Files:
    """Where a model lies."""

    folder: Path
    sha256: str | None = None
    """Of `model.safetensors`."""


def find_sam3(model: str, revision: str | None, sha256: str | None) -> Sam3Files:
    """The folder of `model`: a path, or an id in the local Hugging Face cache at `revision`.

    Raises `ConfigError`; nothing is fetched.
    """
    path = Path(expanduser(model))
    if path.is_dir():
        return Sam3Files(path, sha256)
    if path.exists() or model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise ConfigError(
            f"model: {model} is no folder, expected one with a SAM3 model (config.json, "
            "model.safetensors, tokenizer), or an id such as facebook/sam3"
        )
    if revision is None:
        raise ConfigError(
            f"model: {model} without a revision, expected the commit that you looked at "
            "(40 hexadecimal digits): an id alone may mean other weights tomorrow"
        )
    return Sam3Files(cached_folder(model, revision), sha256)


def cached_folder(model_id: str, revision: str) -> Path:
    """Where `hf download` or `maskstream models fetch` put it; raises `ConfigError`."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError as error:
        raise ConfigError(
            f"model: {model_id} needs the huggingface_hub package (pip install 'maskstream[hub]')"
        ) from error
    found = try_to_load_from_cache(model_id, "config.json", revision=revision)
    if not isinstance(found, str):
        raise ConfigError(
            f"model: {model_id} at {revision[:12]} is not in the local cache (nothing is fetched "
            f"during a run), expected `hf download {model_id} --revision {revision}` to have run, "
            "or a folder"
        )
    return Path(found).parent


def check_sam3(files: Sam3Files) -> None:
    """Look at every file that the model needs; raises `ConfigError` naming the first bad one."""
    folder = files.folder
    _check_architecture(folder)
    weights = _weights(folder)
    for path in weights:
        _check_weights(path)
    check_sha256(weights[0], files.sha256)
    _check_tokenizer(folder)
    pixel_settings(folder)


def _check_architecture(folder: Path) -> None:
    path = folder / "config.json"
    told = _json(path, "the structure of a SAM3 model")
    if told.get("model_type") not in _KINDS:
        raise ConfigError(
            f"{path}: a model of type {told.get('model_type')!r}, expected one of "
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
    one, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if one.exists():
        return [one]
    if index.exists():
        parts = _json(index, "a list of safetensors files").get("weight_map")
        if not isinstance(parts, dict) or not parts:
            raise ConfigError(f"{index}: has no weight_map, expected names of safetensors files")
        names = sorted({str(name) for name in parts.values()})
        if any(Path(name).name != name for name in names):
            raise ConfigError(f"{index}: names files outside of the folder, expected plain names")
        return [folder / name for name in names]
    pickled = sorted(each.name for each in folder.iterdir() if each.suffix in _PICKLED)
    if pickled:
        raise ConfigError(
            f"{folder}: its weights are a pickle ({pickled[0]}), which can run code: expected "
            "model.safetensors"
        )
    raise ConfigError(f"{folder}: lacks model.safetensors, expected the weights of SAM3")


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
        _json(folder / "tokenizer.json", "a tokenizer")
        return
    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).is_file():
            raise ConfigError(
                f"{folder}: lacks tokenizer.json, or {name} in its place: expected the model's "
                "tokenizer (BPE) files beside its weights"
            )


def pixel_settings(folder: Path) -> PixelSettings:
    """Of `preprocessor_config.json`, or `processor_config.json` where newer folders have it."""
    path = folder / "preprocessor_config.json"
    if path.exists():
        told = _json(path, "how pictures are prepared")
    else:
        path = folder / "processor_config.json"
        told = _json(path, "how pictures are prepared").get("image_processor", {})
    try:
        size = told["size"]
        height, width = int(size["height"]), int(size["width"])
        mean, std = (
            tuple(float(each) for each in told[name]) for name in ("image_mean", "image_std")
        )
        known = height == width and len(mean) == len(std) == 3 and min(std) > 0 and height > 0
        plain = (
            told.get("resample", 2) == 2
            and abs(told.get("rescale_factor", 1 / 255) * 255 - 1) < 1e-6
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path}: {one_line(error)}: expected size, image_mean, image_std"
        ) from error
    if not known or not plain:
        raise ConfigError(
            f"{path}: pictures prepared in a way that is not known here, expected a square size, "
            "bilinear resampling, and RGB normalised from 0..1"
        )
    return PixelSettings(height, mean, std)  # type: ignore[arg-type]  # lengths were checked


def _json(path: Path, expected: str) -> dict[str, Any]:
    require_file(path, expected)
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON ({one_line(error)}), expected {expected}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: not a JSON object, expected {expected}")
    return value
