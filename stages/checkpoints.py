"""Weights files: found, checked and read, each problem told in one line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from stages.errors import ConfigError
from stages.file_digest import sha256_of

WEIGHTS_FORMAT = "maskstream-weights-1"
"""`format` in the metadata of our own safetensors files."""


@dataclass(frozen=True, slots=True, eq=False)
class SafetensorsFile:
    """What a safetensors file holds."""

    path: Path
    tensors: Mapping[str, Tensor]
    """On the CPU, in the file's dtypes."""
    metadata: Mapping[str, str]


def require_file(path: Path, expected: str) -> None:
    """Raise `ConfigError` unless `path` is a file with something in it.

    `expected` says what should be there, for example "YOLO weights".
    """
    if not os.path.exists(path):  # never raises, whatever the name
        raise ConfigError(f"{path}: no such file, expected {expected} (nothing is downloaded)")
    if not path.is_file():
        raise ConfigError(f"{path}: not a file, expected {expected}")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}, expected {expected}") from error
    if empty:
        raise ConfigError(f"{path}: the file is empty, expected {expected}")


def check_sha256(path: Path, expected: str | None) -> None:
    """Raise `ConfigError` unless the file's SHA-256 is `expected`; None skips the check."""
    if expected is None:
        return
    actual = sha256_of(path)
    if actual != expected.lower():
        raise ConfigError(f"{path}: sha256 is {actual}, expected {expected.lower()}")


def read_safetensors(path: Path) -> SafetensorsFile:
    """Read a whole safetensors file into host memory; raises `ConfigError`."""
    require_file(path, "a safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: truncated or not a safetensors file ({one_line(error)})"
        ) from error
    return SafetensorsFile(path, tensors, metadata)


def load_state(module: nn.Module, tensors: Mapping[str, Tensor], path: Path, model: str) -> None:
    """Copy `tensors` into `module`, every name and shape matched, every value finite.

    `model` names what the file should hold. Raises `ConfigError` naming the first misfit.
    """
    wanted = module.state_dict()
    problems = [
        *(f"lacks {name}" for name in wanted if name not in tensors),
        *(f"has an unknown {name}" for name in tensors if name not in wanted),
        *(_misfit(name, tensors[name], wanted[name]) for name in wanted if name in tensors),
    ]
    problems = [problem for problem in problems if problem]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(
            f"{path}: {problems[0]}{more}, expected the {len(wanted)} tensors of {model}"
        )
    module.load_state_dict(dict(tensors))


def one_line(error: BaseException, limit: int = 160) -> str:
    """The first line of an error's message, cut to `limit` characters."""
    lines = str(error).strip().splitlines()
    return lines[0][:limit] if lines else type(error).__name__


def _misfit(name: str, have: Tensor, want: Tensor) -> str:
    if have.shape != want.shape:
        return f"{name} is {tuple(have.shape)} where {tuple(want.shape)} belongs"
    if have.is_floating_point() != want.is_floating_point():
        return f"{name} is {have.dtype} where {want.dtype} belongs"
    if have.is_floating_point() and not bool(torch.isfinite(have).all()):
        return f"{name} holds values that are not finite"
    return ""
