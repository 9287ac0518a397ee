"""What `maskstream models check` was pointed at: files, and the stages that load them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch.nn import Module

from pipeline.build import DETECTORS, FOLDER_KINDS, SEGMENTERS, sam2_model_of
from pipeline.config import load_config
from pipeline.config_errors import explain
from pipeline.models.places import ModelPlace, configured, model_type, place_of, shipped
from stages.base import Section
from stages.checkpoints import WEIGHTS_FORMAT
from stages.errors import ConfigError
from stages.sam3_predictor import BPE, CHECKPOINT, Sam3ClipConfig

WEIGHTS: Final = (".safetensors", ".pt", ".pth")
_UNTOLD_SIZE: Final = 640
"""Pixels a side, where weights leave it to the configuration."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be checked."""

    places: tuple[ModelPlace, ...]
    detector: Section | None = None
    segmenter: Section | None = None
    clip: Sam3ClipConfig | None = None
    """Of the files of the native `sam3` package."""
    refusal: str | None = None
    """One line where there is nothing here that loads it."""
    unread: tuple[str, ...] = ()
    """Names of weights that are not loaded."""


def target_of(target: str) -> Target:
    """Of a shipped model's name, a folder, a weights file, or a configuration. Raises `ConfigError`
    where it is none of these."""
    for place in shipped():
        if place.name == target:
            return _of_kind(place, "demo")
    path = Path(target).expanduser()
    if path.is_dir():
        return _of_folder(path)
    if path.suffix in WEIGHTS:
        return _of_file(path)
    config = load_config(target)
    return Target(tuple(configured(config)), config.detector, config.segmenter)


def _of_file(path: Path) -> Target:
    """YOLO's weights, SAM2's, or those of the native `sam3` package."""
    if not path.is_file():
        names = ", ".join(place.name for place in shipped())
        raise ConfigError(f"{path}: no such file, expected one, a folder, or one of {names}")
    places = (place_of(str(path), "weights", path),)
    if path.name == CHECKPOINT:
        return Target((*places, *_vocabulary(path.parent)), clip=_clip(path.parent))
    model = sam2_model_of(path)
    if model is not None:
        named = {"kind": "sam2_image", "model": model, "checkpoint": path}
        return Target(places, segmenter=_section("segmenter", named, str(path)))
    asked = _asked_of_yolo(path)
    if asked is not None:
        return Target(places, detector=_section("detector", asked, str(path)))
    return Target(
        places,
        refusal=f"{path}: no stage loads this by itself, expected weights of YOLO, those of SAM2 "
        "under their published name or beside their structure (.yaml), the folder that it belongs "
        "to, or a configuration that names it",
    )


def _asked_of_yolo(path: Path) -> dict[str, object] | None:
    """The keys of a YOLO in our own format, or in a file with more in it than tensors, which is
    what ultralytics writes; None for others."""
    asked: dict[str, object] = {"kind": "yolo", "weights": str(path)}
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                told = file.metadata() or {}
            size = {} if "input_size" in told else {"input_size": _UNTOLD_SIZE}
            return {**asked, **size} if told.get("format") == WEIGHTS_FORMAT else None
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, OSError, ValueError):
        return None
    except Exception:  # torch raises a different class for each thing that it refuses
        return asked if path.suffix == ".pt" else None
    # Where ultralytics' classes were declared safe in this process, the module itself is there.
    modules = isinstance(loaded, dict) and any(isinstance(one, Module) for one in loaded.values())
    return asked if modules else None


def _of_kind(place: ModelPlace, name: str) -> Target:
    role, kind = place.used_by.split()
    section = _section(role, _asked(role, kind, name), place.name)
    if role == "detector":
        return Target((place,), detector=section)
    return Target((place,), segmenter=section)


def _of_folder(folder: Path) -> Target:
    """A model as transformers writes it, of whatever kind there is a detector for, or the files of
    the native `sam3` package."""
    place = place_of(str(folder), "folder", folder)
    if not place.files:
        raise ConfigError(f"{folder}: holds no model files, expected config.json and weights")
    told = model_type(folder)
    kind = FOLDER_KINDS.get(told)
    weights = [path.name for path in place.files if path.suffix in (*WEIGHTS, ".bin")]
    if kind is not None:
        section = _section("detector", _asked("detector", kind, str(folder)), str(folder))
        loaded = [name for name in weights if name == "model.safetensors"]
        loaded = loaded or [name for name in weights if name.endswith(".safetensors")]
        unread = tuple(name for name in weights if name not in loaded)
        return Target((place,), detector=section, unread=unread)
    if CHECKPOINT in weights:
        unread = tuple(name for name in weights if name != CHECKPOINT)
        return Target((place,), clip=_clip(folder), unread=unread)
    config = folder / "config.json"
    says = f"model_type is {told!r:.60}" if config.is_file() else "no such file"
    return Target(
        (place,),
        refusal=f"{config}: {says}, expected a model_type of {', '.join(sorted(FOLDER_KINDS))} "
        "(weights of YOLO and SAM2 are checked by their own path)",
    )


def _clip(folder: Path) -> Sam3ClipConfig:
    asked = {"checkpoint_path": folder / CHECKPOINT, "bpe_path": folder / BPE}
    return Sam3ClipConfig.model_validate(asked)


def _vocabulary(folder: Path) -> tuple[ModelPlace, ...]:
    path = folder / BPE
    return (place_of(str(path), "vocabulary", path),) if path.is_file() else ()


def _asked(role: str, kind: str, model: str) -> dict[str, object]:
    """The keys of a stage that runs a model."""
    keys = (DETECTORS if role == "detector" else SEGMENTERS).config_class(kind).model_fields
    asked: dict[str, object] = {"kind": kind, "weights" if "weights" in keys else "model": model}
    return {**asked, "phrases": ["object"]} if "phrases" in keys else asked


def _section(role: str, asked: dict[str, object], where: str) -> Section:
    """The configuration of a stage; `where` names it in errors."""
    registry = DETECTORS if role == "detector" else SEGMENTERS
    section = registry.config_class(str(asked["kind"]))
    try:
        return section.model_validate(asked)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, section)}") from error
