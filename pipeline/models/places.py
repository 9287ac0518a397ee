"""Which models there are and where their files lie: shipped ones, and those of a configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path
from typing import Final

from pipeline.build import DETECTORS, SEGMENTERS
from pipeline.config import RunConfig
from stages.base import Section
from stages.sam3_predictor import CHECKPOINT

SUFFIXES: Final = (".safetensors", ".json", ".txt", ".pt", ".pth", ".bin", ".yaml", ".yml", ".gz")
_NOT_TOLD: Final = "not told"
_KEYS: Final = ("checkpoint", "weights", "model", "checkpoint_path", "bpe_path")
"""Of a section that names files."""
_SAM_LICENCE: Final = "SAM License (Meta's terms, not open source)"


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """A model's files."""

    name: str
    """What a configuration calls it."""
    used_by: str
    """Kind of stage, such as `detector yolo`."""
    files: tuple[Path, ...]
    licence: str
    """As its card says."""

    @property
    def size(self) -> int:
        """Bytes in all, of those that are there."""
        return sum(path.stat().st_size for path in self.files if path.exists())


def shipped() -> Iterator[ModelPlace]:
    """The models that come with the package: weights named `<kind>_demo` beside their stage."""
    for role, registry in (("detector", DETECTORS), ("segmenter", SEGMENTERS)):
        told: set[str] = set()
        for kind in registry.kinds:
            family = kind.split("_")[0]
            folder = registry.folder(kind) / "weights"
            if family in told:
                continue
            for path in sorted(folder.glob(f"{family}_demo*")):
                if path.is_dir() or path.suffix == ".safetensors":
                    told.add(family)
                    yield place_of(path.stem, f"{role} {kind}", path)


def configured(config: RunConfig) -> Iterator[ModelPlace]:
    """What the detector and the segmenter of a configuration load."""
    for role, section in (("detector", config.detector), ("segmenter", config.segmenter)):
        kind = str(getattr(section, "kind", ""))
        for key in _KEYS:
            value = getattr(section, key, None)
            if value is not None and str(value):
                path = _found(role, kind, str(value), section)
                used_by = f"{role} {kind}, {key}"
                if path is not None:
                    yield place_of(str(value), used_by, path)
                elif key != "model" or getattr(section, "checkpoint", None) is None:
                    yield ModelPlace(str(value), used_by, (), _NOT_TOLD)


def place_of(name: str, used_by: str, path: Path) -> ModelPlace:
    """A model in a file or a folder."""
    if path.is_dir():
        named = (each for each in path.iterdir() if each.suffix in SUFFIXES)
        files = tuple(sorted(each for each in named if not each.is_dir()))
    else:
        structure = path.with_suffix(".yaml")
        files = (path, structure) if structure.is_file() and structure != path else (path,)
    return ModelPlace(name, used_by, files, _licence(path))


def _found(role: str, kind: str, value: str, section: Section) -> Path | None:
    """The file or folder that a section means; None where there is none here."""
    if value == "demo":
        registry = DETECTORS if role == "detector" else SEGMENTERS
        found = sorted((registry.folder(kind) / "weights").glob(f"{kind.split('_')[0]}_demo*"))
        kept = [path for path in found if path.is_dir() or path.suffix == ".safetensors"]
        return kept[0] if kept else None
    path = Path(expanduser(value))
    if path.exists():
        return path
    return _cached(value, getattr(section, "revision", None))


def _cached(model_id: str, revision: str | None) -> Path | None:
    """The snapshot of an id in the local Hugging Face cache."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model_id):
        return None
    try:
        from huggingface_hub import CacheNotFound, scan_cache_dir
    except ImportError:
        return None
    try:
        repos = scan_cache_dir().repos
    except (CacheNotFound, ValueError, OSError):
        return None
    for repo in repos:
        for each in repo.revisions if repo.repo_id == model_id else ():
            if each.commit_hash == revision or (revision is None and "main" in each.refs):
                return Path(each.snapshot_path)
    return None


def _licence(path: Path) -> str:
    """What its card says; SAM3's weights have Meta's own, whatever a folder says."""
    if model_type(path).startswith("sam3") or CHECKPOINT in (path.name, *_names(path)):
        return _SAM_LICENCE
    if path.is_dir():
        cards = [path / "README.md", path.with_suffix(".md")]
    else:
        cards = [path.with_suffix(".md")]
    for card in cards:
        if card.is_file():
            text = card.read_text(errors="replace")[:10_000]
            if found := re.search(r"licen[cs]e:\s*([\w.+-]+)", text, re.IGNORECASE):
                return found[1].rstrip(".")
    return _NOT_TOLD


def _names(path: Path) -> list[str]:
    return [each.name for each in path.iterdir()] if path.is_dir() else []


def model_type(folder: Path) -> str:
    """What a folder's `config.json` says that it is; empty where it says nothing."""
    try:
        told = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError, RecursionError):
        return ""
    return str(told.get("model_type", "")) if isinstance(told, dict) else ""
