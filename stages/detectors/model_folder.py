"""A model's folder as transformers writes it: found, its JSON read, pickles refused.

A folder of this machine, or a model id at a commit, from the local Hugging Face cache alone.
"""

from __future__ import annotations

import json
import re
from os.path import expanduser
from pathlib import Path
from typing import Any, Final

from torch import nn

from stages.checkpoints import one_line, require_file
from stages.errors import ConfigError

CONFIG: Final = "config.json"
PREPROCESSOR: Final = "preprocessor_config.json"
WEIGHTS: Final = "model.safetensors"
_MAX_JSON_BYTES: Final = 16 << 20
"""A tokenizer's file is the largest, some MiB."""
_PICKLED: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_MODEL_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def find_folder(model: str, revision: str | None, *, holds: str, example: str) -> Path:
    """The folder of a path, or of an id in the cache; raises `ConfigError`, nothing is fetched.

    For its message: what the folder ``holds``, and an ``example`` of an id.
    """
    path = Path(expanduser(model))
    if path.is_dir():
        if revision is not None:
            raise ConfigError(
                f"{model}: is a folder of this machine, which has no `revision`, expected none"
            )
        return path
    if path.exists() or _MODEL_ID.fullmatch(model) is None:
        raise ConfigError(
            f"{model}: no such folder, expected one with {holds}, or a model id such as {example}"
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
            f"{model_id}: a model id needs huggingface_hub (pip install 'maskstream[hub]')"
        ) from error
    try:
        found = try_to_load_from_cache(model_id, CONFIG, revision=revision)
    except ValueError as error:  # the hub's own rules for names
        raise ConfigError(
            f"{model_id}: neither a folder nor a model id ({one_line(error)})"
        ) from error
    if not isinstance(found, str):
        raise ConfigError(
            f"{model_id}: revision {revision} is not in the local cache (nothing is downloaded), "
            f"expected `hf download {model_id} --revision {revision}` to have run, or a folder"
        )
    return Path(found).parent


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object; raises `ConfigError`. ``what``: what the file should hold."""
    require_file(path, what)
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise ConfigError(f"{path}: larger than {_MAX_JSON_BYTES} bytes, expected {what}")
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON ({one_line(error)}), expected {what}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: holds a {type(value).__name__}, expected a JSON object")
    return value


def find_weights(folder: Path, what: str) -> Path:
    """Its `model.safetensors`, which is there and not empty; raises `ConfigError`."""
    path = folder / WEIGHTS
    pickled = sorted(each.name for each in folder.iterdir() if each.suffix in _PICKLED)
    if not path.exists() and pickled:
        raise ConfigError(
            f"{folder}: holds {pickled[0]}, a pickle, which could run code; expected {WEIGHTS}"
        )
    require_file(path, what)
    return path


def not_finite(network: nn.Module) -> list[str]:
    """What is wrong with weights that hold infinities or no numbers, a line a tensor."""
    return [
        f"{name} holds values that are not finite"
        for name, value in network.state_dict().items()
        if value.is_floating_point() and not bool(value.isfinite().all())
    ]
