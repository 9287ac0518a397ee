"""What `maskstream models check` was pointed at: files, and the stages that load them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from pipeline.build import DETECTORS, FOLDER_KINDS, SEGMENTERS
from pipeline.config import load_config
from pipeline.config_errors import explain
from pipeline.models.places import ModelPlace, configured, model_type, place_of, shipped
from stages.base import Section
from stages.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be checked."""

    places: tuple[ModelPlace, ...]
    detector: Section | None
    segmenter: Section | None


def target_of(target: str) -> Target:
    """Of a shipped model's name, a folder, a weights file, or a configuration. Raises `ConfigError`
    where it is none of these."""
    for place in shipped():
        if place.name == target:
            return _of_kind(place, "demo")
    path = Path(target).expanduser()
    if path.is_dir():
        return _of_folder(path)
    if path.suffix in (".safetensors", ".pt", ".pth"):
        return _of_file(path)
    config = load_config(target)
    return Target(tuple(configured(config)), config.detector, config.segmenter)


def _of_file(path: Path) -> Target:
    if not path.is_file():
        names = ", ".join(place.name for place in shipped())
        raise ConfigError(f"{path}: no such file, expected one, a folder, or one of {names}")
    return Target((place_of(str(path), "weights", path),), None, None)


def _of_kind(place: ModelPlace, name: str) -> Target:
    role, kind = place.used_by.split()
    section = _section(role, kind, name, place.name)
    return Target(
        (place,), section if role == "detector" else None, section if role != "detector" else None
    )


def _of_folder(folder: Path) -> Target:
    """A model as transformers writes it, of whatever kind there is a detector for."""
    place = place_of(str(folder), "folder", folder)
    if not place.files:
        raise ConfigError(f"{folder}: holds no model files, expected config.json and weights")
    kind = FOLDER_KINDS.get(model_type(folder), "")
    if kind not in DETECTORS.kinds:
        return Target((place,), None, None)
    return Target((place,), _section("detector", kind, str(folder), str(folder)), None)


def _section(role: str, kind: str, model: str, where: str) -> Section:
    """The configuration of a stage that runs a model; `where` names it in errors."""
    section = (DETECTORS if role == "detector" else SEGMENTERS).config_class(kind)
    keys = section.model_fields
    asked: dict[str, object] = {"kind": kind, "weights" if "weights" in keys else "model": model}
    if "phrases" in keys:
        asked["phrases"] = ["object"]
    try:
        return section.model_validate(asked)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, section)}") from error
