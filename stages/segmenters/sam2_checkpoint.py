"""SAM2 models from a structure file (YAML) and a weights file, neither of them trusted."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from os.path import expanduser
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.checkpoints import check_sha256, load_state, one_line, read_safetensors, require_file
from stages.errors import ConfigError
from stages.segmenters.model_ids import MODEL_IDS, SAM2_NAMES, cached_checkpoint, weights_file

DEMO = "demo"
"""Name of the model whose structure and weights lie beside this file."""

# A prefix would not do: `sam2.build_sam.os.system` begins with `sam2.` too.
_TARGETS = frozenset(
    f"sam2.{name}"
    for name in (
        "modeling.backbones.hieradet.Hiera",
        "modeling.backbones.image_encoder.FpnNeck",
        "modeling.backbones.image_encoder.ImageEncoder",
        "modeling.memory_attention.MemoryAttention",
        "modeling.memory_attention.MemoryAttentionLayer",
        "modeling.memory_encoder.CXBlock",
        "modeling.memory_encoder.Fuser",
        "modeling.memory_encoder.MaskDownSampler",
        "modeling.memory_encoder.MemoryEncoder",
        "modeling.position_encoding.PositionEmbeddingSine",
        "modeling.sam.transformer.RoPEAttention",
        "modeling.sam2_base.SAM2Base",
        "sam2_video_predictor.SAM2VideoPredictor",
    )
)
# What `sam2.build_sam.build_sam2` adds to every structure; a structure's own word counts more.
_DECODER_DEFAULTS = {
    "dynamic_multimask_via_stability": True,
    "dynamic_multimask_stability_delta": 0.05,
    "dynamic_multimask_stability_thresh": 0.98,
}
_WEIGHTS = Path(__file__).parent / "weights"


def build_sam2(
    model: str, checkpoint: Path | None, sha256: str | None, device: torch.device
) -> nn.Module:
    """A `SAM2Base` (or what the structure names) on `device`, in eval mode, without gradients.

    `model` is `demo`, one of `SAM2_NAMES` or `MODEL_IDS`, or the path of a YAML file in sam2's own
    form; `checkpoint` is a `.safetensors` file or a torch file `{"model": state_dict}`, and may be
    None for the demo and a model id. Raises `ConfigError`; nothing that either file names is run.
    """
    path = weights_path(model, checkpoint)
    structure_file = _structure_file(model)
    arguments = _read_structure(structure_file)
    state = _read_state(path, sha256)
    network = _instantiate(arguments, structure_file)
    load_state(network, state, path, f"sam2 model {model}")
    _forget_positions(network)
    return network.to(device).eval().requires_grad_(False)


def weights_path(model: str, checkpoint: Path | None) -> Path:
    """The file of the weights that `build_sam2` takes; raises `ConfigError` where none is told."""
    return Path(expanduser(checkpoint)) if checkpoint is not None else _own_weights(model)


def model_of(checkpoint: Path) -> str | None:
    """The `model` of weights that have their published name, or lie beside the YAML file of their
    structure; None for others."""
    from yaml import YAMLError, safe_load

    for model_id, name in MODEL_IDS.items():
        if checkpoint.name == weights_file(model_id):
            return name
    structure = checkpoint.with_suffix(".yaml")
    try:
        told = safe_load(structure.read_bytes())
    except (OSError, ValueError, RecursionError, YAMLError):
        return None
    model = told.get("model") if isinstance(told, dict) else None
    return str(structure) if isinstance(model, dict) and "_target_" in model else None


def build_structure(model: str) -> nn.Module:
    """The network that `model` names (see `build_sam2`) with random weights, on the CPU."""
    path = _structure_file(model)
    return _instantiate(_read_structure(path), path)


def brings_weights(model: str) -> bool:
    """Whether `model` needs no `checkpoint` beside it."""
    return model == DEMO or model in MODEL_IDS


def _own_weights(model: str) -> Path:
    if not brings_weights(model):
        raise ConfigError(f"checkpoint: got none, expected the weights of {model}")
    return _WEIGHTS / "sam2_demo.safetensors" if model == DEMO else cached_checkpoint(model)


def _structure_file(model: str) -> Path:
    if model == DEMO:
        return _WEIGHTS / "sam2_demo.yaml"
    model = MODEL_IDS.get(model, model)
    if model in SAM2_NAMES:
        spec = find_spec("sam2")
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError(f"model: {model} needs the sam2 package, which is not installed")
        return Path(
            spec.submodule_search_locations[0], "configs", model.split("_")[0], f"{model}.yaml"
        )
    path = Path(expanduser(model))
    if path.suffix not in (".yaml", ".yml"):
        known = ", ".join((DEMO, *SAM2_NAMES))
        raise ConfigError(f"model: got {model}, expected a .yaml file or one of {known}")
    return path


def _read_structure(path: Path) -> dict[Any, Any]:
    """The checked arguments of the model; raises `ConfigError`."""
    # Slow to import, and whoever only checks a configuration does not need them.
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    require_file(path, "the structure of a sam2 model")
    try:
        structure = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OmegaConfBaseException, YAMLError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a YAML structure of sam2 ({one_line(error)})") from error
    arguments = structure.get("model") if isinstance(structure, dict) else None
    if not isinstance(arguments, dict) or "_target_" not in arguments:
        raise ConfigError(f"{path}: has no `model` with a `_target_`, expected sam2's own form")
    _check_targets(arguments, path)
    own = arguments.get("sam_mask_decoder_extra_args") or {}
    return {**arguments, "sam_mask_decoder_extra_args": {**_DECODER_DEFAULTS, **own}}


def _instantiate(arguments: dict[Any, Any], path: Path) -> nn.Module:
    from hydra.utils import instantiate

    try:
        network = instantiate(arguments, _recursive_=True)
    except Exception as error:  # whatever sam2's constructors make of wrong numbers
        raise ConfigError(f"{path}: sam2 cannot build this model ({one_line(error)})") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{path}: `model` is a {type(network).__name__}, expected a network")
    return network


def _check_targets(arguments: object, path: Path) -> None:
    """Refuse a structure that would call anything but sam2's building blocks."""
    for key, value in _entries(arguments):
        if key == "_target_" and value not in _TARGETS:
            raise ConfigError(f"{path}: _target_ {value!r} is not a part of a sam2 model")
        if key == "weights_path" and value is not None:
            raise ConfigError(f"{path}: weights_path {value!r}: only `checkpoint` names weights")


def _entries(value: object) -> Iterator[tuple[object, object]]:
    """Every key and value in nested dicts and lists."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _entries(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _entries(inner)


def _read_state(path: Path, sha256: str | None) -> dict[str, Tensor]:
    require_file(path, "SAM2 weights")
    check_sha256(path, sha256)
    if path.suffix == ".safetensors":
        return dict(read_safetensors(path).tensors)
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different class for each way to be broken
        raise ConfigError(
            f"{path}: truncated, foreign, or with code in it; expected a torch file "
            "that holds tensors only"
        ) from error
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ConfigError(f'{path}: holds no {{"model": tensors by name}}, expected sam2 weights')
    return state


def _forget_positions(network: nn.Module) -> None:
    """Drop the position tables that sam2 makes while building.

    It puts them on the current GPU where there is one, whatever device the model goes to, and
    copies them across on every frame. They come back on the model's device when first used.
    """
    for module in network.modules():
        cache, rotation = getattr(module, "cache", None), getattr(module, "freqs_cis", None)
        if isinstance(cache, dict):
            cache.clear()
        if isinstance(rotation, Tensor):
            vars(module)["freqs_cis"] = rotation.cpu()
