"""Reading an ultralytics `.pt`, a pickled model, as data: no class in it is imported or called.

Each class that a checkpoint may name is replaced by an inert shell that keeps the object's
state. The network is then built anew from the checkpoint's own structure, so neither a
constructor nor an attribute from the file ever runs. (Allowing the real classes would not be
enough: a pickle may call `DetectionModel` with a structure whose activation ultralytics
evaluates as Python.)
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from stages.checkpoints import one_line, require_file
from stages.errors import ConfigError

EXPECTED = "an ultralytics detection checkpoint (.pt)"

_PACKAGES = ("torch.nn.modules.", "ultralytics.")
_NAMES = frozenset(
    {
        "numpy._core.multiarray.scalar",
        "numpy.core.multiarray.scalar",
        "numpy.dtype",
        "pathlib.PosixPath",
        "pathlib.WindowsPath",
        "pathlib._local.PosixPath",
        "pathlib._local.WindowsPath",
    }
)
"""Beside the modules: what training leaves in a checkpoint (metrics, paths)."""

_MAX_MODULES = 5_000  # the largest YOLO has about 700; a file may link modules in a ring


class Shell:
    """An object of the file with its state and without its class."""

    state: Mapping[object, object] = MappingProxyType({})

    def __init__(self, *_arguments: object) -> None:
        """Whatever the file would have called its class with is ignored."""

    def __setstate__(self, state: object) -> None:
        self.state = state if isinstance(state, Mapping) else {}


@dataclass(frozen=True, slots=True, eq=False)
class PickledYolo:
    """The parts of an ultralytics checkpoint that a detector needs, unchecked."""

    structure: object
    class_names: object
    image_size: object
    tensors: dict[str, Tensor]
    """The model's state dict."""


def read_pickled_yolo(path: Path) -> PickledYolo:
    """Read a checkpoint written by ultralytics; raises `ConfigError`."""
    require_file(path, EXPECTED)
    _check_archive(path)
    content = _load(path)
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path}: holds a {type(content).__name__}, expected {EXPECTED}")
    model = content.get("model") if content.get("ema") is None else content["ema"]
    if not isinstance(model, Shell) or not type(model).__name__.endswith("DetectionModel"):
        held = "no model" if model is None else f"a {type(model).__name__}"
        raise ConfigError(f"{path}: holds {held}, expected a DetectionModel")
    train_args = content.get("train_args")
    return PickledYolo(
        structure=model.state.get("yaml"),
        class_names=model.state.get("names"),
        image_size=train_args.get("imgsz") if isinstance(train_args, Mapping) else None,
        tensors=_state_dict(model, path),
    )


def _check_archive(path: Path) -> None:
    """`torch.save` writes plain zip entries; a packed one may unpack to any size."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [e.filename for e in archive.infolist() if e.compress_type != 0]
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: truncated or not a torch archive ({one_line(error)}), expected {EXPECTED}"
        ) from error
    if packed:
        raise ConfigError(f"{path}: entry {packed[0]!r} is compressed, expected {EXPECTED}")


def _load(path: Path) -> object:
    with _no_other_globals():
        try:
            named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            foreign = sorted(name for name in named if not _allowed(name))
            if foreign:
                raise ConfigError(f"{path}: refused, it names {foreign[0]}; expected {EXPECTED}")
            with torch.serialization.safe_globals([_shell(name) for name in named]):
                return torch.load(path, map_location="cpu", weights_only=True)
        except ConfigError:
            raise
        except Exception as error:  # a damaged pickle raises almost anything
            raise ConfigError(
                f"{path}: cannot be read ({one_line(error)}), expected {EXPECTED}"
            ) from error


def _allowed(name: str) -> bool:
    return name in _NAMES or name.startswith(_PACKAGES)


def _shell(name: str) -> tuple[Callable[..., object], str]:
    return type(name.rpartition(".")[2], (Shell,), {}), name


@contextmanager
def _no_other_globals() -> Iterator[None]:
    """Hide what other code has declared safe: a real class would win over its shell."""
    declared = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(declared)


def _state_dict(model: Shell, path: Path) -> dict[str, Tensor]:
    """A module tree's parameters and buffers under their state-dict names."""
    found: dict[str, Tensor] = {}
    waiting = [("", model)]
    for _ in range(_MAX_MODULES):
        if not waiting:
            return found
        prefix, module = waiting.pop()
        for group in ("_parameters", "_buffers"):
            for name, value in _members(module, group):
                if isinstance(value, Tensor):
                    found[prefix + name] = value.detach()
        for name, child in _members(module, "_modules"):
            if isinstance(child, Shell):
                waiting.append((f"{prefix}{name}.", child))
    raise ConfigError(f"{path}: more than {_MAX_MODULES} modules, expected {EXPECTED}")


def _members(module: Shell, group: str) -> list[tuple[str, object]]:
    members = module.state.get(group)
    return [(str(k), v) for k, v in members.items()] if isinstance(members, Mapping) else []
